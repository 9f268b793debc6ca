from dataclasses import replace
from io import BytesIO
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rewarddance.core.errors import DataError, ModelError, UsageError
from rewarddance.core.types import Judgement, Ranking, Status
from rewarddance.data.prompts import PromptItem
from rewarddance.data.references import ReferenceStore
from rewarddance.generators.loading import load_generator
from rewarddance.generators.sampling import generate
from rewarddance.rewards.loading import new_reward_model
from rewarddance.search.references import (
    TournamentSettings,
    candidate_seeds,
    hold_tournament,
    make_references,
    pictures_of,
    reference_refresher,
)
from tests.tiny_generators import tiny_generator_folder
from tests.tiny_models import save_tiny_model

CAT, DOG = PromptItem("0", "a cat"), PromptItem("1", "a dog")
SETTINGS = TournamentSettings(generator="g", judge="j", candidates=4, top=2, bottom=1)


def pictures(prompts, seeds):
    """Grey pictures, each as bright as its seed decides."""
    levels = [np.random.default_rng(seed).random() for seed in seeds]
    return torch.tensor(levels, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 8, 8)


class Brighter:
    """A stand-in for a reward model: the brighter picture wins."""

    def __init__(self, fails=lambda earlier, later: False, status: Status = Status.NON_FINITE) -> None:
        self.fails = fails
        self.status = status
        self.prompts: list[str] = []

    def rank(self, prompt, candidates, instruction=None):
        self.prompts.append(prompt)
        levels = [np.asarray(one).mean() / 255 for one in candidates]
        judgements, results = [], [[] for _ in candidates]
        for earlier, later in combinations(range(len(candidates)), 2):
            if self.fails(earlier, later):
                judgements.append(Judgement(self.status, message="nan"))
                continue
            reward = levels[later] - levels[earlier]
            judgements.append(Judgement(Status.OK, reward=reward))
            results[later].append(reward)
            results[earlier].append(-reward)
        wins = [float(sum(value > 0 for value in own)) if own else None for own in results]
        rewards = [float(np.mean(own)) if own else None for own in results]
        order = sorted(range(len(results)), key=lambda index: (wins[index] is None, -(wins[index] or 0)))
        return Ranking(tuple(order), tuple(wins), tuple(rewards), tuple(judgements))


def level(image: bytes | Path) -> float:
    return float(np.asarray(Image.open(BytesIO(image) if isinstance(image, bytes) else image)).mean())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_candidates_with_most_wins_are_kept_and_all_figures_with_them():
    row, images = hold_tournament(pictures, Brighter(), CAT, SETTINGS)
    assert [one.wins for one in row.candidates] == [3.0, 2.0, 1.0, 0.0]
    assert [one.kept for one in row.candidates] == ["top", "top", None, "bottom"]
    assert {one.seed for one in row.candidates} == set(candidate_seeds("a cat", SETTINGS))
    levels = {seed: pictures([""], [seed])[0].mean().item() for seed in candidate_seeds("a cat", SETTINGS)}
    ordered = sorted(levels, key=lambda seed: -levels[seed])
    assert [one.seed for one in row.candidates] == ordered
    assert set(images) == {ordered[0], ordered[1], ordered[3]}
    # Mean of the brightness differences to the other three; pictures are judged as 8 bit.
    others = sum(levels[seed] for seed in ordered[1:]) / 3
    assert row.candidates[0].reward == pytest.approx(levels[ordered[0]] - others, abs=1 / 255)
    assert level(images[ordered[0]]) == pytest.approx(255 * levels[ordered[0]], abs=0.5)


def test_a_real_reward_model_holds_the_tournament_in_its_own_order_mode(tmp_path: Path):
    model = new_reward_model(save_tiny_model("internvl", tmp_path / "base"), "pairwise", instruction="brief")

    def noisy(prompts, seeds):
        return torch.stack([torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    row, images = hold_tournament(noisy, model, CAT, SETTINGS)
    assert sum(one.wins for one in row.candidates) == 6  # 4 * 3 / 2 pairs, a point each
    assert sum(one.reward for one in row.candidates) == pytest.approx(0, abs=1e-6)  # antisymmetric
    assert all(first.wins >= second.wins for first, second in pairwise(row.candidates))
    assert len(images) == 3


def test_a_failed_judgement_is_recorded_and_nobody_wins_it():
    row, _ = hold_tournament(pictures, Brighter(lambda earlier, later: (earlier, later) == (0, 1)), CAT, SETTINGS)
    seeds = candidate_seeds("a cat", SETTINGS)
    failure = row.failures[0]
    assert (failure.candidate, failure.against, failure.status) == (seeds[1], seeds[0], "non_finite")
    assert sum(one.wins for one in row.candidates) == 5
    assert sorted(one.opponents for one in row.candidates) == [2, 2, 3, 3]


def test_a_prompt_with_too_few_judged_candidates_gets_no_reference():
    row, images = hold_tournament(pictures, Brighter(lambda earlier, later: later > 1), CAT, SETTINGS)
    assert row.problem == "only 2 of 4 candidates could be judged, and 3 are needed"
    assert images == {}
    assert [one.kept for one in row.candidates] == [None] * 4
    assert [one.wins for one in row.candidates] == [1.0, 0.0, None, None]


def test_a_picture_that_is_no_picture_is_not_judged():
    def broken(prompts, seeds):
        made = pictures(prompts, seeds).clone()
        made[2, 0, 0, 0] = float("nan")
        return made

    row, images = hold_tournament(broken, Brighter(), CAT, SETTINGS)
    seed = candidate_seeds("a cat", SETTINGS)[2]
    assert row.candidates[-1].seed == seed
    assert row.candidates[-1].wins is None
    assert [(one.candidate, one.against, one.status) for one in row.failures] == [(seed, None, "broken_picture")]
    assert seed not in images
    assert len(images) == 3


def test_a_prompt_has_the_same_candidates_whatever_other_prompts_there_are(tmp_path: Path):
    make_references(pictures, Brighter(), [CAT, DOG], tmp_path / "both", SETTINGS)
    make_references(pictures, Brighter(), [DOG], tmp_path / "one", SETTINGS)
    both, one = (ReferenceStore.open(tmp_path / name).best("a dog") for name in ("both", "one"))
    assert [media.sha256 for media in both] == [media.sha256 for media in one]


def test_a_run_that_was_killed_goes_on_where_it_stopped_and_ends_the_same(tmp_path: Path):
    class Killed(Brighter):
        def rank(self, prompt, candidates, instruction=None):
            if prompt == "a dog":
                raise KeyboardInterrupt
            return super().rank(prompt, candidates, instruction)

    with pytest.raises(KeyboardInterrupt):
        make_references(pictures, Killed(), [CAT, DOG], tmp_path / "killed", SETTINGS)
    judge = Brighter()
    summary = make_references(pictures, judge, [CAT, DOG], tmp_path / "killed", SETTINGS)
    assert judge.prompts == ["a dog"]
    assert (summary.prompts, summary.resumed) == (2, 1)
    make_references(pictures, Brighter(), [CAT, DOG], tmp_path / "straight", SETTINGS)
    killed, straight = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("killed", "straight")
    )
    assert killed == straight


def test_a_tournament_without_some_answers_is_held_again_and_counts_instead(tmp_path: Path):
    silent = Brighter(lambda earlier, later: later == 3, Status.UNANSWERED)
    out = make_references(pictures, silent, [CAT, DOG], tmp_path / "out", SETTINGS)
    assert out.unanswered == {"0": 3, "1": 3}
    judge = Brighter()
    again = make_references(pictures, judge, [CAT, DOG], tmp_path / "out", SETTINGS)
    assert (judge.prompts, again.resumed, again.unanswered) == (["a cat", "a dog"], 0, {})
    make_references(pictures, Brighter(), [CAT, DOG], tmp_path / "straight", SETTINGS)
    found, straight = (ReferenceStore.open(tmp_path / name) for name in ("out", "straight"))
    assert len(found.rows) == 2
    for prompt in ("a cat", "a dog"):
        assert [one.sha256 for one in found.best(prompt)] == [one.sha256 for one in straight.best(prompt)]
    assert found.changed_pictures() == []


def test_a_tournament_that_failed_by_its_pictures_is_not_held_again(tmp_path: Path):
    make_references(pictures, Brighter(lambda earlier, later: True), [CAT], tmp_path, SETTINGS)
    judge = Brighter()
    assert make_references(pictures, judge, [CAT], tmp_path, SETTINGS).resumed == 1
    assert judge.prompts == []


def test_a_judge_that_has_gone_stops_the_tournaments_and_the_same_command_goes_on(tmp_path: Path):
    prompts = [PromptItem(str(number), f"cat {number}") for number in range(6)]
    gone = Brighter(lambda earlier, later: len(gone.prompts) > 1, Status.UNANSWERED)
    # Six pairs a prompt: the twentieth in a row belongs to the fourth prompt without an answer.
    with pytest.raises(ModelError, match=r"no answer 24 times in a row, at last: nan; .*the same command goes on"):
        make_references(pictures, gone, prompts, tmp_path, SETTINGS)
    judge = Brighter()
    again = make_references(pictures, judge, prompts, tmp_path, SETTINGS)
    # The one at hand when the judge fell silent comes last.
    assert (judge.prompts, again.resumed) == (["cat 1", "cat 2", "cat 3", "cat 5", "cat 4"], 1)
    assert (again.without_references, again.unanswered) == ({}, {})


def test_other_settings_are_refused(tmp_path: Path):
    make_references(pictures, Brighter(), [CAT], tmp_path, SETTINGS)
    with pytest.raises(UsageError, match="another judge"):
        make_references(pictures, Brighter(), [CAT], tmp_path, TournamentSettings("g", "k", 4, 2, 1))


def test_progress_counts_prompts(tmp_path: Path):
    seen: list[int] = []
    make_references(pictures, Brighter(), [CAT, DOG], tmp_path, SETTINGS, on_progress=seen.append)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("numbers", [(1, 1, 0), (17, 2, 0), (4, 0, 0), (4, 2, -1), (4, 3, 2)])
def test_a_tournament_has_two_to_sixteen_candidates_and_keeps_none_twice(numbers: tuple[int, int, int]):
    with pytest.raises(UsageError):
        TournamentSettings("g", "j", *numbers)


def test_the_policy_makes_a_generation_of_its_own_and_a_resumed_run_reads_it(tmp_path: Path):
    policy = load_generator(tiny_generator_folder("sd3", tmp_path / "sd3"), device="cpu")
    settings = replace(SETTINGS, candidates=2, top=1, bottom=0)
    judge = Brighter()
    refresh = reference_refresher(
        judge, [CAT], tmp_path / "run", settings, lambda generator: pictures_of(generator, denoising_steps=2)
    )
    first = refresh(policy, 100, ["a cat"])
    assert refresh(policy, 100, ["a cat"]).rows == first.rows
    assert judge.prompts == ["a cat"]
    assert first.generation == 100
    assert first.settings["generator"] == "g, tuned for 100 optimizer steps"
    made = generate(policy, ["a cat"], [first.rows[0].candidates[0].seed], denoising_steps=2)
    assert level(first.best("a cat")[0].path) == pytest.approx(255 * made.mean().item(), abs=0.5)
    second = refresh(policy, 200, ["a cat"])
    assert {one.seed for one in first.rows[0].candidates}.isdisjoint(one.seed for one in second.rows[0].candidates)


@pytest.mark.parametrize("is_gone", [True, False])
def test_references_that_a_policy_made_on_its_way_are_not_made_again_by_a_later_one(tmp_path: Path, is_gone: bool):
    policy = load_generator(tiny_generator_folder("sd3", tmp_path / "sd3"), device="cpu")
    settings = replace(SETTINGS, candidates=2, top=1, bottom=0)
    refresh = reference_refresher(
        Brighter(), [CAT], tmp_path / "run", settings, lambda generator: pictures_of(generator, denoising_steps=2)
    )
    (picture,) = refresh(policy, 100, ["a cat"]).best("a cat")
    picture.path.unlink()
    if not is_gone:
        Image.new("RGB", (8, 8)).save(picture.path)
    with pytest.raises(DataError, match=f"{picture.path.name} is"):
        refresh(policy, 100, ["a cat"])


def test_a_policy_s_references_without_some_answers_stop_the_run_until_the_judge_is_back(tmp_path: Path):
    policy = load_generator(tiny_generator_folder("sd3", tmp_path / "sd3"), device="cpu")
    settings = replace(SETTINGS, candidates=2, top=1, bottom=0)
    is_back = False
    judge = Brighter(lambda earlier, later: not is_back and judge.prompts[-1] == "a dog", Status.UNANSWERED)
    refresh = reference_refresher(
        judge, [CAT, DOG], tmp_path / "run", settings, lambda generator: pictures_of(generator, denoising_steps=2)
    )
    with pytest.raises(ModelError, match="no answer for 1 of 2 prompts; resume the run"):
        refresh(policy, 100, ["a cat", "a dog"])
    is_back = True
    assert refresh(policy, 100, ["a cat", "a dog"]).lacking(["a cat", "a dog"]) == ()
    assert judge.prompts == ["a cat", "a dog", "a dog"]


def test_one_prompt_over_which_the_judge_is_silent_does_not_block_the_others(tmp_path: Path):
    settings = replace(SETTINGS, candidates=8)  # 28 pairs
    judge = Brighter(lambda earlier, later: judge.prompts[-1] == "a cat", Status.UNANSWERED)
    for _ in range(2):
        with pytest.raises(ModelError, match="no answer 28 times in a row"):
            make_references(pictures, judge, [CAT, DOG], tmp_path, settings)
    assert judge.prompts == ["a cat", "a dog", "a cat"]
