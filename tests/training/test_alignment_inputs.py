from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.loader import load_config
from rewarddance.core.errors import UsageError
from rewarddance.data.prompts import PromptItem
from rewarddance.rewards.loading import load_reward_model
from rewarddance.search.references import TournamentSettings, make_references
from rewarddance.training.alignment_inputs import configured_judges, configured_references, configured_reward
from tests.search.test_references import Brighter, pictures
from tests.tiny_models import save_tiny_model

PROMPTS = ["a cat", "a dog"]
ITEMS = [PromptItem(str(place), prompt) for place, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "references"
    settings = TournamentSettings("g", "j", candidates=6, top=3, bottom=2)
    make_references(pictures, Brighter(), ITEMS, made, settings)
    return made


def lookup(folder: Path, *settings: str, prompts: list[str] = PROMPTS):
    given = ["generator.path=g", "rewards=[{model: r}]", "prompts.train=p.txt", f"references.folder={folder}"]
    config = load_config(AlignConfig, None, [*given, *settings])
    return configured_references(config, prompts, needs_references=True)


def levels(found) -> list[float]:
    return [float(np.asarray(Image.open(one.path)).mean()) for one in found]


def test_the_best_are_looked_up_best_first(folder: Path):
    best = levels(lookup(folder, "references.count=3")(PROMPTS)[0])
    assert best == sorted(best, reverse=True)
    assert len(best) == 3


def test_the_worst_are_looked_up_worst_first_and_are_others(folder: Path):
    best = levels(lookup(folder, "references.count=3")(PROMPTS)[1])
    worst = levels(lookup(folder, "references.count=2", "references.kept=bottom")(PROMPTS)[1])
    assert worst == sorted(worst)
    assert max(worst) < min(best)


def test_more_than_are_kept_are_refused_at_either_end(folder: Path):
    with pytest.raises(UsageError, match=r"keeps 3 of each prompt at the top; .* --top 4"):
        lookup(folder, "references.count=4")
    with pytest.raises(UsageError, match=r"keeps 2 of each prompt at the bottom; .* --bottom 3"):
        lookup(folder, "references.count=3", "references.kept=bottom")


def test_a_prompt_without_references_is_named(folder: Path):
    for kept in ("top", "bottom"):
        with pytest.raises(UsageError, match="for 1 of 3 prompts, such as 'a cow'"):
            lookup(folder, f"references.kept={kept}", prompts=[*PROMPTS, "a cow"])


@pytest.fixture(scope="module")
def pairwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("internvl", tmp_path_factory.mktemp("models") / "judge")


def test_a_judge_that_never_saw_sets_is_asked_about_references_one_by_one(
    pairwise: Path, caplog: pytest.LogCaptureFixture
):
    models = [f"rewards=[{{model: {pairwise}}}]", f"judges=[{{model: {pairwise}, shift: 1}}]"]
    needed = ["generator.path=g", "prompts.train=p.txt", "references.count=2", *models]
    together = load_config(AlignConfig, None, [*needed, "references.combine=together"])
    mean = load_config(AlignConfig, None, [*needed, "references.combine=mean"])
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 16, 16, generator=rng)
    sets = [tuple(torch.rand(2, 3, 16, 16, generator=rng)) for _ in PROMPTS]

    def opinions(config: AlignConfig) -> list[float]:
        (judge,) = configured_judges(config, lambda prompts: sets).values()
        return list(judge(pixels, PROMPTS))

    assert opinions(together) == pytest.approx(opinions(mean))
    # the reward itself is asked as the config says, and the log tells what that means
    signal = configured_reward(together, [load_reward_model(pairwise)])
    assert "has not learned several reference images in one question" in caplog.text
    assert signal.judge(pixels, PROMPTS, sets).proxy.tolist() != pytest.approx(opinions(mean))
