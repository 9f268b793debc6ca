from pathlib import Path

import pytest
from PIL import Image

from rewarddance.core.types import Judgement, Status
from rewarddance.rewards.protocol import RewardKind
from rewarddance.rewards.ranking import ranking_of
from tests.rewards.conftest import NewModel

PROMPT = "a red square"


def test_the_order_is_that_of_win_counts_of_the_full_round_robin(new_model: NewModel, images: list[Image.Image]):
    model = new_model("pairwise")
    ranking = model.rank(PROMPT, images[:4])
    wins = [
        sum((model.compare(PROMPT, one, other).reward or 0) > 0 for other in images[:4] if other is not one)
        for one in images[:4]
    ]
    assert list(ranking.wins) == wins
    assert len(ranking.judgements) == 6
    assert [wins[index] for index in ranking.order] == sorted(wins, reverse=True)


def test_without_positions_the_order_is_that_of_the_rewards(new_model: NewModel, images: list[Image.Image]):
    model = new_model("pointwise")
    ranking = model.rank(PROMPT, images)
    alone = [model.compare(PROMPT, image, images[0]).reward or 0.0 for image in images]
    assert list(ranking.order) == sorted(range(6), key=lambda index: -alone[index])
    assert [ranking.wins[index] for index in ranking.order] == [5, 4, 3, 2, 1, 0]


def test_a_candidate_that_cannot_be_read_stands_last_without_wins(
    new_model: NewModel, images: list[Image.Image], tmp_path: Path
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    model = new_model("pairwise")
    ranking = model.rank(PROMPT, [images[0], broken, images[1], images[2]])
    assert ranking.order[-1] == 1
    assert ranking.wins[1] is None
    assert ranking.rewards[1] is None
    assert sum(judgement.status is Status.UNREADABLE_MEDIA for judgement in ranking.judgements) == 3
    others = model.rank(PROMPT, images[:3])
    assert [ranking.wins[index] for index in (0, 2, 3)] == list(others.wins)


def test_the_only_readable_candidate_is_first(new_model: NewModel, images: list[Image.Image], tmp_path: Path):
    ranking = new_model("pairwise").rank(PROMPT, [tmp_path / "missing.png", images[0]])
    assert ranking.order == (1, 0)
    assert ranking.wins == (None, 0.0)


def test_equal_candidates_share_their_win_and_stay_in_order(new_model: NewModel, images: list[Image.Image]):
    ranking = new_model("pointwise").rank(PROMPT, [images[0], images[0]])
    assert ranking.order == (0, 1)
    assert ranking.wins == (0.5, 0.5)


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "scalar"])
def test_copies_of_one_file_tie_exactly(
    kind: RewardKind, new_model: NewModel, images: list[Image.Image], tmp_path: Path
):
    places = [tmp_path / f"{number}.png" for number in range(3)]
    for place, image in zip(places, (images[0], images[1], images[0]), strict=True):
        image.save(place)
    model = new_model(kind)
    ranking = model.rank(PROMPT, places)
    assert ranking.wins[0] == ranking.wins[2]
    assert ranking.rewards[0] == ranking.rewards[2]
    assert ranking.judgements[1].reward == 0
    assert model.compare(PROMPT, places[0], places[2]).reward == 0


def test_a_pair_that_could_not_be_judged_is_no_loss():
    """Candidate 0 beat the one it met; 1 beat one of two; 2 beat none of the two that were judged."""
    failed = Judgement(Status.NON_FINITE, message="nan")
    ranking = ranking_of([[1.0], [-1.0, 2.0, 2.0], [-2.0, -2.0]], [True, True, True], [failed])
    assert ranking.order == (0, 1, 2)
    assert ranking.wins == (1.0, 2.0, 0.0)
    assert ranking.failed_judgements == 1


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_and_one_can_be_ranked(new_model: NewModel, images: list[Image.Image], count: int):
    assert new_model("pairwise").rank(PROMPT, images[:count]).order == tuple(range(count))


def test_a_prompt_that_is_too_long_leaves_nobody_judged(new_model: NewModel, images: list[Image.Image]):
    ranking = new_model("pairwise").rank("square " * 3_000, images[:3])
    assert ranking.wins == (None, None, None)
    assert {judgement.status for judgement in ranking.judgements} == {Status.TOO_LONG}
