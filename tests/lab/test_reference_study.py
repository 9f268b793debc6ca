from dataclasses import replace

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.data.references import ReferenceStore
from rewarddance.lab.base_models import lab_base
from rewarddance.lab.reference_study import (
    BASE,
    DIRECT,
    ReferenceCell,
    ReferenceStudy,
    accuracies,
    draw_pictures,
    reference_cells,
    reference_summary,
    reward_against_references,
)
from rewarddance.rewards.loading import new_reward_model

CELL = ReferenceCell("nano", 0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReferenceStudy:
    folder = tmp_path_factory.mktemp("study")
    new_reward_model(lab_base("nano"), "pairwise", instruction="none").save(folder / "nano-pairwise-8-0" / "model")
    (folder / "own" / "prompts").mkdir(parents=True)
    (folder / "own" / "prompts" / "train.txt").write_text("a red circle\n")
    (folder / "own" / "prompts" / "held_out.txt").write_text("a blue square\n")
    ways = ("best_of_2", "best_of_6", "best_of_2_together")
    return ReferenceStudy(folder / "own", folder, (CELL,), comparisons=8, rewarded=3, ways=ways)


@pytest.fixture(scope="module")
def row(study):
    return reward_against_references(study, CELL)


def test_cells_come_seed_by_seed():
    assert [cell.name for cell in reference_cells((0, 1))][:4] == ["nano-0", "micro-0", "small-0", "nano-1"]


def test_pictures_are_ordered_by_their_rewards(row):
    for prompt in row["log_odds"]["best_of_6"]:
        # pairs (0, 1), (0, 2), (1, 2): differences of three rewards add up
        assert prompt[1] == pytest.approx(prompt[0] + prompt[2], abs=1e-5)
    assert set(row["log_odds"]) == {DIRECT, "best_of_2", "best_of_6", "best_of_2_together"}


def test_references_in_one_question_are_judged_otherwise_than_one_by_one(row):
    assert row["log_odds"]["best_of_2"] != row["log_odds"]["best_of_2_together"]


def test_the_gold_of_references_is_that_of_the_pictures_that_were_kept(study, row):
    gold = draw_pictures(study)
    # of two candidates both are kept, and these are the first two pictures
    assert row["reference_gold"]["best_of_2"] == pytest.approx(sum(sum(own[:2]) for own in gold) / 4)
    store = ReferenceStore.open(study.folder / "references" / "nano-0-6")
    assert [len(store.best(prompt)) for prompt in ("a red circle", "a blue square")] == [2, 2]


def test_a_finished_row_is_read_and_a_missing_model_is_named(study, row):
    assert reward_against_references(study, CELL) == row
    with pytest.raises(UsageError, match="nano-pairwise-8-1"):
        replace(study, cells=()).model(ReferenceCell("nano", 1))


def test_accuracy_counts_pairs_that_differ_clearly():
    # rewarded: the last three; pairs (0, 1) +0.4, (0, 2) +0.05, (1, 2) -0.35: the middle one hardly differs
    gold = [[0.9, 0.9, 0.1, 0.5, 0.15], [0.9, 0.9, 0.1, 0.5, 0.15]]
    log_odds = {DIRECT: [[1, 1, 1]] * 2, BASE: [[1, 1, 1]] * 2, "worst_of_16": [[1, 1, -1], [1, 1, 1]]}
    rows = [
        {"size": "nano", "seed": seed, "log_odds": log_odds, "reference_gold": {BASE: 0.6, "worst_of_16": 0.4}}
        for seed in (0, 1)
    ]
    figures = reference_summary(rows, gold, 3)["nano"]
    assert figures[BASE]["accuracy"]["mean"] == 0.5
    # right on two of two, and on one of two
    assert figures["worst_of_16"]["accuracy"]["mean"] == 0.75
    assert figures["worst_of_16"]["gain"]["mean"] == 0.25
    assert figures["worst_of_16"]["gain_by_prompt"]["n_clusters"] == 2
    assert figures["worst_of_16"]["reference_gold"]["mean"] == pytest.approx(0.4)
    assert accuracies(rows, gold, 3)[0]["accuracy"] == {DIRECT: 0.5, BASE: 0.5, "worst_of_16": 0.75}
