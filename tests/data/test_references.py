import json
from dataclasses import replace
from pathlib import Path

import pytest

from rewarddance.core.errors import DataError, UsageError
from rewarddance.data.prompts import PromptItem
from rewarddance.data.reference_writing import ReferenceWriter, missing_prompts
from rewarddance.data.references import (
    FailedJudgement,
    PromptReferences,
    ReferenceCandidate,
    ReferenceStore,
    generation_folder,
)

SETTINGS = {"generator": "g", "judge": "j", "candidates": 3, "seed": 0}
PROMPTS = (PromptItem("0", "a cat"), PromptItem("1", "a dog"))


def tournament(item: PromptItem) -> PromptReferences:
    """Of three candidates the best, the second and the worst, the last two by one point."""
    return PromptReferences(
        item.id,
        item.prompt,
        (
            ReferenceCandidate(7, 2, 2.0, 1.5, kept="top"),
            ReferenceCandidate(8, 2, 1.0, 0.0, kept="top"),
            ReferenceCandidate(9, 2, 0.0, -1.5, kept="bottom"),
        ),
    )


def without_pictures(item: PromptItem) -> PromptReferences:
    failure = FailedJudgement(8, 7, "too_long", "the question is too long")
    return PromptReferences(item.id, item.prompt, (ReferenceCandidate(7, 0, None, None),), (failure,), "only 0 of 1")


IMAGES = {7: b"best", 8: b"second", 9: b"worst"}


def finished(folder: Path, generation: int = 0) -> ReferenceWriter:
    writer = ReferenceWriter(folder, SETTINGS, generation)
    for item in PROMPTS:
        writer.add(tournament(item), IMAGES)
    writer.finish(PROMPTS)
    return writer


def test_a_finished_generation_gives_every_figure_and_the_pictures_back(tmp_path: Path):
    finished(tmp_path)
    store = ReferenceStore.open(tmp_path)
    row = store.get("a dog")
    assert row is not None
    assert [(one.seed, one.wins, one.reward, one.opponents) for one in row.candidates] == [
        (7, 2.0, 1.5, 2),
        (8, 1.0, 0.0, 2),
        (9, 0.0, -1.5, 2),
    ]
    assert [media.path.read_bytes() for media in store.best("a dog")] == [b"best", b"second"]
    assert [media.path.read_bytes() for media in store.best("a dog", 1)] == [b"best"]
    assert [media.path.read_bytes() for media in store.worst("a dog")] == [b"worst"]
    assert store.settings == SETTINGS


def test_a_prompt_without_references_is_listed_and_counted(tmp_path: Path):
    writer = ReferenceWriter(tmp_path, SETTINGS)
    writer.add(tournament(PROMPTS[0]), IMAGES)
    writer.add(without_pictures(PROMPTS[1]), {})
    summary = writer.finish(PROMPTS)
    assert (summary.prompts, summary.failed_judgements) == (2, 1)
    assert summary.without_references == {"1": "only 0 of 1"}
    store = ReferenceStore.open(tmp_path)
    assert store.best("a dog") == ()
    assert store.lacking(["a cat", "a dog", "a dog", "never asked"]) == ("a dog", "never asked")


def test_an_unfinished_generation_is_not_read(tmp_path: Path):
    ReferenceWriter(tmp_path, SETTINGS).add(tournament(PROMPTS[0]), IMAGES)
    with pytest.raises(DataError, match="no finished references; run the same"):
        ReferenceStore.open(tmp_path)


def test_an_empty_folder_says_what_makes_references(tmp_path: Path):
    with pytest.raises(DataError, match="make them with `rewarddance references`"):
        ReferenceStore.open(tmp_path)


def test_a_finished_generation_that_grows_is_unfinished_meanwhile(tmp_path: Path):
    finished(tmp_path)
    more = PromptItem("2", "a horse")
    writer = ReferenceWriter(tmp_path, SETTINGS)
    writer.add(tournament(more), IMAGES)
    with pytest.raises(DataError):
        ReferenceStore.open(tmp_path)
    writer.finish([*PROMPTS, more])
    assert len(ReferenceStore.open(tmp_path).rows) == 3


def test_a_line_that_a_kill_left_half_written_is_made_again(tmp_path: Path):
    writer = ReferenceWriter(tmp_path, SETTINGS)
    for item in PROMPTS:
        writer.add(tournament(item), IMAGES)
    rows = generation_folder(tmp_path, 0) / "rows.jsonl"
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-20])
    assert missing_prompts(tmp_path, SETTINGS, PROMPTS) == PROMPTS[1:]
    again = ReferenceWriter(tmp_path, SETTINGS)
    assert again.missing(PROMPTS) == PROMPTS[1:]
    again.add(tournament(PROMPTS[1]), IMAGES)
    assert rows.read_bytes() == whole


def test_a_prompt_without_some_answers_is_missing_and_its_later_line_counts(tmp_path: Path):
    silent = without_pictures(PROMPTS[1])
    silent = replace(silent, failures=(replace(silent.failures[0], status="unanswered"),))
    writer = ReferenceWriter(tmp_path, SETTINGS)
    writer.add(tournament(PROMPTS[0]), IMAGES)
    writer.add(silent, {})
    assert writer.finish(PROMPTS).unanswered == {"1": 1}
    assert missing_prompts(tmp_path, SETTINGS, PROMPTS) == PROMPTS[1:]
    again = ReferenceWriter(tmp_path, SETTINGS)
    assert again.missing(PROMPTS) == PROMPTS[1:]
    again.add(tournament(PROMPTS[1]), IMAGES)
    assert again.finish(PROMPTS).unanswered == {}
    assert missing_prompts(tmp_path, SETTINGS, PROMPTS) == ()
    store = ReferenceStore.open(tmp_path)
    assert [row.prompt for row in store.rows] == ["a cat", "a dog"]
    assert store.lacking(["a cat", "a dog"]) == ()


def test_equal_prompts_are_one(tmp_path: Path):
    twice = (*PROMPTS, PromptItem("2", "a cat"))
    assert missing_prompts(tmp_path, SETTINGS, twice) == PROMPTS
    finished(tmp_path)
    assert ReferenceWriter(tmp_path, SETTINGS).finish(twice).prompts == 3


def test_other_settings_are_refused_and_nothing_is_touched(tmp_path: Path):
    finished(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for claim in (ReferenceWriter, lambda *arguments: missing_prompts(*arguments, PROMPTS)):
        with pytest.raises(UsageError, match=r"begun with another candidates, seed; use the same settings"):
            claim(tmp_path, SETTINGS | {"candidates": 4, "seed": 1})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_settings_of_a_run_that_made_nothing_bind_nobody(tmp_path: Path):
    ReferenceWriter(tmp_path, SETTINGS)
    ReferenceWriter(tmp_path, SETTINGS | {"seed": 1}).add(tournament(PROMPTS[0]), IMAGES)
    assert json.loads((generation_folder(tmp_path, 0) / "settings.json").read_text())["seed"] == 1


def test_the_last_finished_generation_is_read_unless_another_is_asked_for(tmp_path: Path):
    finished(tmp_path)
    finished(tmp_path, 12)
    ReferenceWriter(tmp_path, SETTINGS, 20).add(tournament(PROMPTS[0]), IMAGES)
    assert ReferenceStore.open(tmp_path).generation == 12
    assert ReferenceStore.open(tmp_path, 0).generation == 0
    with pytest.raises(DataError, match="no finished references of generation 20"):
        ReferenceStore.open(tmp_path, 20)


def test_rows_that_were_edited_are_noticed(tmp_path: Path):
    finished(tmp_path)
    rows = generation_folder(tmp_path, 0) / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"2.0", b"1.0"))
    with pytest.raises(DataError, match="has changed since it was finished"):
        ReferenceStore.open(tmp_path)


def test_a_missing_picture_is_noticed_and_a_changed_one_can_be(tmp_path: Path):
    finished(tmp_path)
    store = ReferenceStore.open(tmp_path)
    first, second = (media.path for media in store.best("a cat"))
    assert store.changed_pictures() == []
    first.write_bytes(b"other")
    assert store.changed_pictures() == [first]
    assert store.changed_pictures(["a cat"]) == [first]
    assert store.changed_pictures(["another"]) == []
    second.unlink()
    with pytest.raises(DataError, match=f"{second.name} is missing"):
        ReferenceStore.open(tmp_path)
