import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rewarddance.cli.manifest import judge_manifest
from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Judgement, JudgementRequest, Status
from rewarddance.serving.manifest import Manifest


class PromptLengthJudge:
    """Scores a prompt by its length and remembers what it was asked; "stop" is an interruption."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, requests: Sequence[JudgementRequest]) -> list[Judgement]:
        if any(request.prompt == "stop" for request in requests):
            raise KeyboardInterrupt
        self.asked += [request.prompt for request in requests]
        return [
            Judgement(Status.OK, score=len(request.prompt) / 10)
            if request.prompt
            else Judgement(Status.UNREADABLE_MEDIA, message="broken")
            for request in requests
        ]


def write_rows(path: Path, prompts: Sequence[str]) -> Path:
    rows = [{"prompt": prompt, "candidate": "a.png", "id": f"id {prompt}"} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def open_rows(folder: Path, prompts: Sequence[str], judge: str = "model") -> Manifest:
    return Manifest.open(write_rows(folder / "rows.jsonl", prompts), instruction=None, judge=judge)


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_has_one_line_in_order(tmp_path: Path):
    summary = judge_manifest(PromptLengthJudge, open_rows(tmp_path, ["a", "bbb", "cc"]), tmp_path / "out.jsonl", 2)

    written = lines_of(tmp_path / "out.jsonl")
    assert [line["row"] for line in written] == [0, 1, 2]
    assert [line["score"] for line in written] == [0.1, 0.3, 0.2]
    assert [line["id"] for line in written] == ["id a", "id bbb", "id cc"]
    assert (summary.rows, summary.failed, summary.resumed) == (3, 0, 0)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path):
    rows, out = write_rows(tmp_path / "rows.jsonl", ["a", "bb"]), tmp_path / "out.jsonl"
    keys = [Manifest.open(rows, None, "model").key(index) for index in range(2)]
    rows.write_text(rows.read_text(), encoding="utf-8-sig")

    summary = judge_manifest(PromptLengthJudge, Manifest.open(rows, None, "model"), out, 8)

    assert (summary.rows, summary.failed) == (2, 0)
    assert [line["key"] for line in lines_of(out)] == keys


def test_an_interrupted_manifest_continues_after_the_last_batch(tmp_path: Path):
    manifest, out = open_rows(tmp_path, ["a", "b", "c", "stop"]), tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        judge_manifest(PromptLengthJudge, manifest, out, 2)
    assert len(lines_of(out)) == 2

    judge = PromptLengthJudge()

    def patient(requests: Sequence[JudgementRequest]) -> list[Judgement]:
        # "STOP" is a prompt like any other.
        return judge([replace(request, prompt=request.prompt.upper()) for request in requests])

    summary = judge_manifest(lambda: patient, manifest, out, 2)

    assert judge.asked == ["C", "STOP"]
    assert [line["row"] for line in lines_of(out)] == [0, 1, 2, 3]
    assert summary.resumed == 2


def test_a_line_that_a_kill_left_half_written_is_judged_again(tmp_path: Path):
    manifest, out = open_rows(tmp_path, ["a", "b"]), tmp_path / "out.jsonl"
    judge_manifest(PromptLengthJudge, manifest, out, 1)
    whole = out.read_bytes()
    out.write_bytes(whole[:-20])

    judge = PromptLengthJudge()
    judge_manifest(lambda: judge, manifest, out, 1)

    assert judge.asked == ["b"]
    assert out.read_bytes() == whole


def test_a_finished_manifest_needs_no_judge(tmp_path: Path):
    manifest, out = open_rows(tmp_path, ["a", ""]), tmp_path / "out.jsonl"
    judge_manifest(PromptLengthJudge, manifest, out, 8)

    def load() -> PromptLengthJudge:
        raise AssertionError("nothing is left to judge")

    summary = judge_manifest(load, manifest, out, 8)

    assert (summary.failed, summary.resumed) == (1, 2)


@pytest.mark.parametrize("change", ["rows", "judge"])
def test_output_of_another_manifest_or_model_is_refused(tmp_path: Path, change: str):
    out = tmp_path / "out.jsonl"
    judge_manifest(PromptLengthJudge, open_rows(tmp_path, ["a", "b"]), out, 8)
    other = open_rows(tmp_path, ["a", "x"]) if change == "rows" else open_rows(tmp_path, ["a", "b"], judge="other")

    with pytest.raises(UsageError, match="another manifest, model or instruction"):
        judge_manifest(PromptLengthJudge, other, out, 8)

    assert len(lines_of(out)) == 2


def test_any_other_file_is_refused_as_output(tmp_path: Path):
    out = tmp_path / "notes.txt"
    out.write_text("my notes\n")

    with pytest.raises(UsageError, match="line 1"):
        judge_manifest(PromptLengthJudge, open_rows(tmp_path, ["a"]), out, 8)

    assert out.read_text() == "my notes\n"


@pytest.mark.parametrize("content", ["my notes", '{"row": 0, "key": "0123456789abcdef", "sta'])
def test_another_file_whose_last_line_has_no_end_keeps_it(content: str, tmp_path: Path):
    out = tmp_path / "notes.txt"
    out.write_text(content)

    with pytest.raises(UsageError, match="line 1"):
        judge_manifest(PromptLengthJudge, open_rows(tmp_path, ["a"]), out, 8)

    assert out.read_text() == content


def test_a_judgement_that_failed_is_a_line_without_score(tmp_path: Path):
    summary = judge_manifest(PromptLengthJudge, open_rows(tmp_path, ["a", ""]), tmp_path / "out.jsonl", 8)

    failed = lines_of(tmp_path / "out.jsonl")[1]
    assert (failed["status"], failed["score"], failed["message"]) == ("unreadable_media", None, "broken")
    assert summary.failed == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"prompt": "a"}', "no 'candidate'"),
        ('{"prompt": 3, "candidate": "a.png"}', "'prompt' is not text"),
        ('{"prompt": "a", "candidate": null}', "'candidate' is not text"),
        ('{"prompt": "a", "candidate": "a.png", "reference": "b.png"}', "unknown key 'reference'"),
    ],
)
def test_a_row_that_is_no_request_fails_alone_and_says_why(tmp_path: Path, line: str, message: str):
    write_rows(tmp_path / "rows.jsonl", ["a", "b"])
    (tmp_path / "rows.jsonl").write_text(line + "\n" + (tmp_path / "rows.jsonl").read_text())
    manifest = Manifest.open(tmp_path / "rows.jsonl", None, "model")

    summary = judge_manifest(PromptLengthJudge, manifest, tmp_path / "out.jsonl", 8)

    written = lines_of(tmp_path / "out.jsonl")
    assert [row["status"] for row in written] == ["failed", "ok", "ok"]
    assert message in str(written[0]["message"])
    assert summary.failed == 1


def test_a_row_that_cannot_be_asked_fails_alone(tmp_path: Path):
    judge = PromptLengthJudge()

    def needs_known_criteria(requests: Sequence[JudgementRequest]) -> list[Judgement]:
        if any(request.prompt == "bad" for request in requests):
            raise UsageError("no instruction named 'x'")
        return judge(requests)

    manifest = open_rows(tmp_path, ["a", "bad", "c"])
    judge_manifest(lambda: needs_known_criteria, manifest, tmp_path / "out.jsonl", 8)

    written = lines_of(tmp_path / "out.jsonl")
    assert [row["status"] for row in written] == ["ok", "failed", "ok"]
    assert "no instruction named 'x'" in str(written[1]["message"])


def test_paths_start_at_the_folder_of_the_manifest(tmp_path: Path):
    request = open_rows(tmp_path, ["a"]).request(0)

    assert request.candidate == tmp_path / "a.png"


def test_the_instruction_of_a_row_comes_before_the_common_one(tmp_path: Path):
    rows = '{"prompt": "a", "candidate": "a.png"}\n{"prompt": "a", "candidate": "a.png", "instruction": "structure"}\n'
    (tmp_path / "rows.jsonl").write_text(rows)
    manifest = Manifest.open(tmp_path / "rows.jsonl", "overall", "model")

    assert [manifest.request(index).instruction for index in range(2)] == ["overall", "structure"]


def test_a_prompt_may_hold_a_unicode_line_separator(tmp_path: Path):
    row = json.dumps({"prompt": "a\u2028b", "candidate": "a.png"}, ensure_ascii=False)
    (tmp_path / "rows.jsonl").write_text(row + "\n")

    assert Manifest.open(tmp_path / "rows.jsonl", None, "model").request(0).prompt == "a\u2028b"


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_manifest_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "rows.jsonl").write_bytes(content)

    with pytest.raises(DataError, match="holds no rows"):
        Manifest.open(tmp_path / "rows.jsonl", None, "model")


def test_a_manifest_that_is_not_text_is_refused(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe")

    with pytest.raises(DataError, match="UTF-8"):
        Manifest.open(tmp_path / "rows.jsonl", None, "model")


@pytest.mark.parametrize("name", ["prompt", "candidate", "reference_image", "id"])
def test_half_a_character_fails_its_own_row_alone(tmp_path: Path, name: str):
    # JSON can name one half of a surrogate pair; written out again, it would end the job at this row for ever.
    rows = [{"prompt": "a", "candidate": "a.png", "id": "1"}, {"prompt": "b", "candidate": "b.png", "id": "2"}]
    rows[0][name] = "x\ud800"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    judge_manifest(PromptLengthJudge, Manifest.open(path, None, "model"), tmp_path / "out.jsonl", 2)

    written = lines_of(tmp_path / "out.jsonl")
    assert [line["status"] for line in written] == ["failed", "ok"]
    assert f"{name!r} holds half a character" in written[0]["message"]


def test_a_row_with_another_file_of_criteria_is_another_row(tmp_path: Path):
    criteria = tmp_path / "own.yaml"
    row = '{"prompt": "a", "candidate": "a.png", "instruction": "own.yaml"}\n'
    (tmp_path / "rows.jsonl").write_text(row + '{"prompt": "a", "candidate": "a.png"}\n')
    keys = []
    for text in ("Count the objects.", "Look at the colours."):
        criteria.write_text(f"name: own\ntask: any\ndimension: overall\nversion: 1\ntext: {text}\n")
        manifest = Manifest.open(tmp_path / "rows.jsonl", "overall", "model")
        keys.append([manifest.key(0), manifest.key(1)])
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1]
