import pytest

from rewarddance.core.errors import DataError
from rewarddance.evaluation.asking import Known, judge_comparisons
from rewarddance.evaluation.judgement_rows import JudgementRow
from rewarddance.evaluation.model_comparison import compare_models
from tests.evaluation.judges import TableJudge, comparison

COMPARISONS = [comparison(f"c{index}", f"poor{index}", f"good{index}", "second") for index in range(12)]
RIGHT = {f"good{index}": 1.0 for index in range(12)} | {f"poor{index}": 0.0 for index in range(12)}
HALF_WRONG = RIGHT | {f"good{index}": -1.0 for index in range(6)}


def rows_of(quality: dict[str, float], gold: list[float] | None = None) -> list[JudgementRow]:
    return judge_comparisons(TableJudge(quality), COMPARISONS, Known(gold=gold))


def test_the_better_model_is_found() -> None:
    result = compare_models(rows_of(HALF_WRONG), rows_of(RIGHT))
    assert (result.n, result.accuracy_first, result.accuracy_second) == (12, 0.5, 1.0)
    assert result.difference.interval.estimate == 0.5
    # six that only the second gets right: 2 / 2^6
    assert result.difference.mcnemar_p_value == pytest.approx(2 / 64)
    assert result.difference.p_value == pytest.approx(2 / 64, abs=0.015)


def test_swapping_the_models_changes_the_sign() -> None:
    assert compare_models(rows_of(RIGHT), rows_of(HALF_WRONG)).difference.interval.estimate == -0.5


def test_failures_of_one_model_count_against_it() -> None:
    unknown = {name: value for name, value in RIGHT.items() if name not in ("good0", "good1", "good2")}
    assert compare_models(rows_of(RIGHT), rows_of(unknown)).accuracy_second == 0.75


def test_only_common_comparisons_are_used() -> None:
    assert compare_models(rows_of(HALF_WRONG)[:8], rows_of(RIGHT)[4:]).n == 4


def test_against_gold_with_a_smallest_difference() -> None:
    gold = [-0.5] * 3 + [0.01] * 9
    result = compare_models(rows_of(HALF_WRONG, gold), rows_of(RIGHT, gold), against="gold", min_gold_difference=0.1)
    assert (result.n, result.accuracy_first, result.accuracy_second) == (3, 1.0, 0.0)


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(DataError, match="share no comparison"):
        compare_models(rows_of(RIGHT)[:3], rows_of(RIGHT)[3:])


def test_the_same_ids_with_other_choices_are_an_error() -> None:
    other = judge_comparisons(TableJudge(RIGHT), [comparison("c0", "poor0", "good0", "first")], Known())
    with pytest.raises(DataError, match="differ"):
        compare_models(rows_of(RIGHT), other)
