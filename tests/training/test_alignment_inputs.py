import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.loader import load_config
from rewarddance.core.errors import RewardError, UsageError
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


def rewarded(pairwise: Path, *settings: str, weight: float = 1.0) -> AlignConfig:
    needed = ["generator.path=g", "prompts.train=p.txt", f"rewards=[{{model: {pairwise}, weight: {weight}}}]"]
    return load_config(AlignConfig, None, [*needed, *settings])


@pytest.mark.parametrize(("temperature", "expected"), [(0.01, 1.0 + 0.01 * math.log(2)), (1e3, 2.0)])
def test_the_config_says_how_soft_a_soft_minimum_is(
    pairwise: Path, temperature: float, expected: float, monkeypatch: pytest.MonkeyPatch
):
    """Of 1 and 3: the least, but for ln 2 of the temperature, or the mean."""
    model = load_reward_model(pairwise)
    monkeypatch.setattr(type(model), "reward", lambda *_: torch.tensor([1.0, 3.0]))
    config = rewarded(pairwise, "references.combine=soft_min", f"references.soft_min_temperature={temperature}")
    both = [list(torch.rand(2, 3, 16, 16))]
    found = configured_reward(config, [model]).judge(torch.rand(1, 3, 16, 16), ["a cat"], both)
    assert found.proxy.tolist() == pytest.approx([expected], abs=1e-3)


def test_the_config_says_how_rewards_come_to_one_scale(pairwise: Path, monkeypatch: pytest.MonkeyPatch):
    """Batches of 0 and 2, then of 4 and 6: alone, the second has mean 5 and spread 1.

    With a decay of 0.5, the weights of the two are 1/3 and 2/3: mean 11/3, mean square (2 + 2 * 26) / 3 = 18. A floor
    of 4 counts instead of any of these spreads.
    """
    model = load_reward_model(pairwise)
    values = iter([[0.0, 2.0], [4.0, 6.0]] * 3)
    monkeypatch.setattr(type(model), "reward", lambda *_: torch.tensor(next(values)))
    spread = (18 - (11 / 3) ** 2) ** 0.5
    for settings, expected in (
        (("over=batch",), [-1.0, 1.0]),
        (("decay=0.5",), [(4 - 11 / 3) / spread, (6 - 11 / 3) / spread]),
        (("over=batch", "floor=4"), [-0.25, 0.25]),
    ):
        config = rewarded(pairwise, *(f"reward_normalisation.{one}" for one in settings), weight=2.0)
        signal = configured_reward(config, [model])
        for _ in range(2):
            combined = signal.judge(torch.rand(2, 3, 16, 16), PROMPTS, [[torch.rand(3, 16, 16)]] * 2).combined
        assert combined.tolist() == pytest.approx([2 * one for one in expected], rel=1e-5)


def test_the_config_says_how_patiently_rewards_and_judges_are_asked(pairwise: Path, monkeypatch: pytest.MonkeyPatch):
    model, calls, release = load_reward_model(pairwise), [], threading.Event()

    def hangs(*_: object) -> torch.Tensor:
        calls.append(1)
        release.wait(60)
        return torch.zeros(2)

    monkeypatch.setattr(type(model), "reward", hangs)
    impatient = ("reward_patience.deadline_seconds=0.05", "reward_patience.tries=1")
    config = rewarded(pairwise, f"judges=[{{model: {pairwise}, shift: 1}}]", *impatient)
    pixels, sets = torch.rand(2, 3, 16, 16), [[torch.rand(3, 16, 16)]] * 2
    (judge,) = configured_judges(config, lambda prompts: sets, [model]).values()
    for ask in (
        lambda: configured_reward(config, [model]).judge(pixels, PROMPTS, sets),
        lambda: judge(pixels, PROMPTS),
    ):
        calls.clear()
        with pytest.raises(RewardError, match=r"asked once .* did not answer within 0\.05 seconds"):
            ask()
        assert len(calls) == 1
    release.set()
