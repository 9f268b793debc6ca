import pytest

from rewarddance.core.types import Status
from rewarddance.evaluation.judgement_rows import Answer, JudgementRow
from rewarddance.lab.paired_accuracy import accuracy_and_gain, share_kept


def rows(right: str, split: str = "in domain") -> list[JudgementRow]:
    """One comparison a letter, each of a prompt of its own, `+` where the model is right."""
    return [
        JudgementRow(
            id=f"c{place}",
            key="",
            cluster=f"prompt {place}",
            prompt="",
            media=("a", "b"),
            forward=Answer(Status.OK, 1.0 if letter == "+" else -1.0),
            backward=Answer(Status.OK, -1.0 if letter == "+" else 1.0),
            target=1.0,
            gold=0.5,
            facets={"split": split},
        )
        for place, letter in enumerate(right)
    ]


def test_a_gain_has_an_interval_over_seeds_and_one_over_prompts():
    base = {0: rows("+---"), 1: rows("++--")}
    own = {0: rows("++--"), 1: rows("++++")}
    found = accuracy_and_gain(base, own, "test_in")
    # 0.5 and 1; gains 0.25 and 0.5: mean 0.375, standard error 0.125, t(0.975, 1) = 12.706, half width 1.588
    assert found["accuracy"]["mean"] == 0.75
    assert found["gain"] == pytest.approx({"mean": 0.375, "low": -1.213, "high": 1.963}, abs=1e-3)
    # eight answers of four prompts: both seeds of a prompt are drawn together
    assert found["gain_by_prompt"]["estimate"] == 0.375
    assert (found["gain_by_prompt"]["n"], found["gain_by_prompt"]["n_clusters"]) == (8, 4)


def test_only_the_split_that_is_asked_for_counts():
    base = {0: [*rows("+-"), *rows("+-", "out of domain")]}
    own = {0: [*rows("+-"), *rows("++", "out of domain")]}
    assert accuracy_and_gain(base, own, "test_out")["gain"]["mean"] == 0.5
    assert accuracy_and_gain(base, own, "test_in")["gain"]["mean"] == 0.0


def test_a_student_keeps_a_share_of_its_teachers_gain():
    base, teacher, student = {0: rows("-" * 40)}, {0: rows("+" * 40)}, {0: rows("++-+" * 10)}
    kept = share_kept(base, teacher, student, "test_in")
    assert kept["estimate"] == 0.75
    assert kept["low"] < 0.75 < kept["high"]


def test_of_no_gain_there_is_no_share():
    same = {0: rows("+-+-")}
    assert share_kept(same, same, {0: rows("++++")}, "test_in") is None
