import json
from dataclasses import replace
from pathlib import Path

import pytest

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Judgement, JudgementRequest, Media, Status
from rewarddance.evaluation.asking import Known, judge_comparisons
from rewarddance.evaluation.judgement_rows import read_rows, row_key
from tests.evaluation.judges import TableJudge, comparison

QUALITY = {"good": 2.0, "fair": 1.0, "poor": 0.0}
COMPARISONS = [
    comparison("a", "poor", "good", "second"),
    comparison("b", "good", "fair", "first"),
    comparison("c", "fair", "poor", "tie"),
]


def test_each_comparison_is_asked_once_in_either_order() -> None:
    judge = TableJudge(QUALITY, slot_log_odds=0.5)
    rows = judge_comparisons(judge, COMPARISONS, Known())
    assert judge.asked == ["a", "a", "b", "b", "c", "c"]
    assert [row.forward.log_odds for row in rows] == [2.5, -0.5, -0.5]
    assert [row.backward.log_odds for row in rows] == [-1.5, 1.5, 1.5]


def test_one_order_asks_half_as_much() -> None:
    judge = TableJudge(QUALITY)
    rows = judge_comparisons(judge, COMPARISONS, Known(), orders="as_stored")
    assert judge.asked == ["a", "b", "c"]
    assert all(row.backward is None for row in rows)


def test_a_failed_judgement_is_kept_with_its_status() -> None:
    (row,) = judge_comparisons(TableJudge(QUALITY), [comparison("x", "good", "broken", "first")], Known())
    assert row.failed_answer.status is Status.UNREADABLE_MEDIA
    assert row.forward.log_odds is None


def test_an_infinite_reward_is_a_failure() -> None:
    judge = TableJudge({"good": float("inf"), "poor": 0.0})
    (row,) = judge_comparisons(judge, [comparison("x", "poor", "good", "second")], Known())
    assert (row.forward.status, row.forward.log_odds) == (Status.NON_FINITE, None)


def test_answers_in_the_file_are_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    judge_comparisons(TableJudge(QUALITY), COMPARISONS[:2], Known(), rows_path=path)
    judge = TableJudge(QUALITY)
    rows = judge_comparisons(judge, COMPARISONS, Known(), rows_path=path)
    assert judge.asked == ["c", "c"]
    assert read_rows(path) == rows
    assert rows == judge_comparisons(TableJudge(QUALITY), COMPARISONS, Known())


@pytest.mark.parametrize("letter", ["\u2028", "\x85", "\ud83d", "☃"])
def test_a_prompt_of_strange_letters_comes_back_whole(tmp_path: Path, letter: str) -> None:
    path = tmp_path / "judgements.jsonl"
    asked = [comparison("a", "poor", "good", "second", prompt=f"a cat{letter}and a dog"), COMPARISONS[1]]
    assert judge_comparisons(TableJudge(QUALITY), asked, Known(), rows_path=path) == read_rows(path)


def test_a_line_cut_off_inside_a_letter_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    rows = judge_comparisons(TableJudge(QUALITY), COMPARISONS, Known(), rows_path=path)
    path.write_bytes(path.read_bytes() + '{"id": "☃'.encode()[:-1])
    assert read_rows(path) == rows


@pytest.mark.parametrize("place", ["a row", "an answer", "a cost"])
def test_a_value_that_this_version_does_not_know_is_named_with_its_line(tmp_path: Path, place: str) -> None:
    path = tmp_path / "judgements.jsonl"
    judge_comparisons(TableJudge(QUALITY), COMPARISONS, Known(), rows_path=path)
    lines = path.read_text().splitlines()
    row = json.loads(lines[1])
    row["forward"]["cost"] = {}
    {"a row": row, "an answer": row["forward"], "a cost": row["forward"]["cost"]}[place]["of_later_versions"] = 1
    path.write_text("\n".join([lines[0], json.dumps(row), lines[2]]) + "\n")
    with pytest.raises(DataError, match=r"line 2, has a value that this version does not know .*of_later_versions"):
        read_rows(path)


def test_a_line_cut_off_by_a_crash_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    judge_comparisons(TableJudge(QUALITY), COMPARISONS, Known(), rows_path=path)
    path.write_text(path.read_text()[:-30])
    judge = TableJudge(QUALITY)
    rows = judge_comparisons(judge, COMPARISONS, Known(), rows_path=path)
    assert judge.asked == ["c", "c"]
    assert read_rows(path) == rows


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    judge_comparisons(TableJudge(QUALITY), COMPARISONS, Known(), rows_path=path)
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(DataError, match="line 1"):
        judge_comparisons(TableJudge(QUALITY), COMPARISONS, Known(), rows_path=path)


@pytest.mark.parametrize(
    "changed",
    [
        {"fingerprint": "other weights"},
        {"comparisons": [replace(COMPARISONS[0], prompt="another prompt")]},
        {"comparisons": [replace(COMPARISONS[0], instruction="structure")]},
        {"comparisons": [COMPARISONS[0].swapped()]},
        {"orders": "as_stored"},
    ],
)
def test_an_answer_to_another_question_or_of_another_model_is_not_reused(tmp_path: Path, changed: dict) -> None:
    path = tmp_path / "judgements.jsonl"
    usual = {"comparisons": COMPARISONS[:1], "known": Known(), "rows_path": path, "fingerprint": "weights"}
    judge_comparisons(TableJudge(QUALITY), **usual)
    judge = TableJudge(QUALITY)
    judge_comparisons(judge, **(usual | changed))
    assert len(judge.asked) > 0


def test_a_new_label_does_not_ask_again(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    judge_comparisons(TableJudge(QUALITY), COMPARISONS[:1], Known(), rows_path=path)
    judge = TableJudge(QUALITY)
    (row,) = judge_comparisons(judge, [replace(COMPARISONS[0], choice="tie")], Known(gold=[0.3]), rows_path=path)
    assert (judge.asked, row.target, row.gold) == ([], 0.5, 0.3)


def test_answers_are_on_disk_before_the_next_are_asked(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    seen = []
    judge_comparisons(
        TableJudge(QUALITY),
        COMPARISONS,
        Known(),
        rows_path=path,
        comparisons_at_once=2,
        on_progress=lambda done, total: seen.append((done, total, len(read_rows(path)))),
    )
    assert seen == [(0, 3, 0), (2, 3, 2), (3, 3, 3)]


def test_facets_and_source_are_kept() -> None:
    known = Known(facets={"split": ["test", None]})
    rows = judge_comparisons(TableJudge(QUALITY), [replace(COMPARISONS[0], source="lab"), COMPARISONS[1]], known)
    assert [row.facets for row in rows] == [{"source": "lab", "split": "test"}, {}]


def test_a_very_long_prompt_is_shortened_for_people_only() -> None:
    long = replace(COMPARISONS[0], prompt="x" * 100_000)
    (row,) = judge_comparisons(TableJudge(QUALITY), [long], Known())
    assert len(row.prompt) == 300


def test_comparisons_of_one_prompt_are_one_cluster() -> None:
    same = [replace(item, prompt="a red circle") for item in COMPARISONS[:2]]
    rows = judge_comparisons(TableJudge(QUALITY), [*same, COMPARISONS[2]], Known())
    assert rows[0].cluster == rows[1].cluster != rows[2].cluster


def test_no_comparisons_is_an_error() -> None:
    with pytest.raises(DataError, match="no comparisons"):
        judge_comparisons(TableJudge(QUALITY), [], Known())


def test_two_comparisons_with_one_id_are_an_error() -> None:
    with pytest.raises(DataError, match="same id"):
        judge_comparisons(TableJudge(QUALITY), [COMPARISONS[0], COMPARISONS[0]], Known())


def test_gold_of_another_length_is_an_error() -> None:
    with pytest.raises(UsageError, match="gold has 1 values for 3"):
        judge_comparisons(TableJudge(QUALITY), COMPARISONS, Known(gold=[0.1]))


class _Recorder(TableJudge):
    """Remembers whole requests."""

    def __init__(self) -> None:
        super().__init__(QUALITY)
        self.requests: list[JudgementRequest] = []

    def judge(self, requests, *, order_mode="two"):
        self.requests += requests
        return [Judgement(Status.OK, score=0.5, reward=0.0) for _ in requests]


def test_a_comparison_is_asked_with_what_it_starts_from_and_its_criteria() -> None:
    judge, source = _Recorder(), Media(Path("/media/source.png"))
    judge_comparisons(judge, [replace(COMPARISONS[0], source_media=source, instruction="editing_overall")], Known())
    assert [(one.source_media, one.instruction) for one in judge.requests] == [(source, "editing_overall")] * 2


def test_several_references_are_asked_about_in_one_request() -> None:
    judge, beside = _Recorder(), Media(Path("/media/fair.png"))
    asked = replace(COMPARISONS[0], beside_first=(beside,))
    judge_comparisons(judge, [asked], Known(), orders="as_stored")
    assert judge.requests[0].reference_image == (asked.first, beside)


def test_several_candidates_are_not_asked_about() -> None:
    asked = replace(COMPARISONS[0], beside_first=(COMPARISONS[1].second,))
    with pytest.raises(UsageError, match="in its stored order only"):
        judge_comparisons(_Recorder(), [asked], Known())


def test_an_answer_is_asked_again_when_a_file_of_criteria_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    asked = replace(COMPARISONS[0], instruction=path)
    keys = []
    for text in ("one", "other"):
        path.write_text(f"name: own\ntask: any\ndimension: overall\nversion: 1\ntext: {text}\n")
        keys.append(row_key(asked, "model", "both"))
    assert keys[0] != keys[1]
