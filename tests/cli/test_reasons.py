"""Reasons, as they are asked for on the command line; a tiny untrained model writes nothing that means anything."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewarddance.core.types import Media
from rewarddance.data.comparisons import write_comparisons
from rewarddance.data.records import ComparisonRecord
from tests.cli.command_line import error_of, run
from tests.tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, two pictures, and a comparison of them."""
    folder = tmp_path_factory.mktemp("reasons")
    save_tiny_model("internvl", folder / "base")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for place, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{place}.png")
    media = (Media(folder / "0.png"), Media(folder / "1.png"))
    write_comparisons(folder / "data", [ComparisonRecord("a", "a scene", media, choice="first")])
    return folder


def request(folder: Path, *words: object) -> tuple[object, ...]:
    shown = ("--prompt", "a scene", "--candidate", folder / "0.png", "--reference-image", folder / "1.png")
    return ("score", folder / "base", *shown, *words)


def test_an_answer_costs_its_questions_and_no_writing(workplace: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert run(*request(workplace, "--json")) == 0
    judged = json.loads(capsys.readouterr().out)
    assert (judged["cost"]["questions"], judged["cost"]["generated_tokens"]) == (2, 0)
    assert judged["rationale"] is None


def test_reasons_behind_the_answer_leave_the_score(workplace: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert run(*request(workplace, "--json")) == 0
    plain = json.loads(capsys.readouterr().out)
    assert run(*request(workplace, "--json", "--reasons", "answer_first", "--max-reason-tokens", 3)) == 0
    explained = json.loads(capsys.readouterr().out)
    assert explained["reward"] == pytest.approx(plain["reward"], abs=1e-4)
    assert explained["cost"]["generated_tokens"] > 0


def test_reasons_that_do_not_end_are_one_line_and_no_score(workplace: Path, capsys: pytest.CaptureFixture[str]):
    words = request(workplace, "--reasons", "reason_first", "--max-reason-tokens", 1)
    line = error_of(capsys, *words, code=1)
    assert "unfinished_rationale" in line


def test_the_longest_rationale_that_fits_is_named(workplace: Path, capsys: pytest.CaptureFixture[str]):
    def words(tokens: int) -> tuple[object, ...]:
        return request(workplace, "--reasons", "answer_first", "--max-reason-tokens", tokens)

    line = error_of(capsys, *words(5_000), code=1)
    assert "leaves no room for a rationale of 5,000; allow at most" in line
    most = int(line.split("allow at most ")[1].replace(",", ""))
    assert 1_000 < most < 2_048
    assert f"allow at most {most:,}" in error_of(capsys, *words(most + 1), code=1)


def test_samples_without_reasons_are_a_mistake(workplace: Path, capsys: pytest.CaptureFixture[str]):
    assert "--reasons" in error_of(capsys, *request(workplace, "--samples", 3), code=2)


def test_several_samples_need_a_temperature(workplace: Path, capsys: pytest.CaptureFixture[str]):
    line = error_of(capsys, *request(workplace, "--samples", 3, "--reasons", "reason_first"), code=2)
    assert "temperature" in line


def test_an_evaluation_with_reasons_does_not_continue_one_without(workplace: Path, capsys: pytest.CaptureFixture[str]):
    words = ("evaluate", workplace / "base", workplace / "data", "--out", workplace / "report")
    assert run(*words) == 0
    assert "answers of another model" in error_of(capsys, *words, "--reasons", "answer_first", code=2)
    reasoned = (*words[:-1], workplace / "reasoned", "--reasons", "answer_first", "--max-reason-tokens", 2)
    capsys.readouterr()
    assert run(*reasoned) == 0
    assert "tokens written; rationales that did not end" in capsys.readouterr().out
    row = json.loads((workplace / "reasoned" / "judgements.jsonl").read_text())
    assert row["forward"]["cost"]["questions"] == row["backward"]["cost"]["questions"] == 1
    assert row["forward"]["cost"]["generated_tokens"] > 0
    told = json.loads((workplace / "reasoned" / "evaluation.json").read_text())
    assert "answer_first" in json.dumps(told)
    # asked again, nothing is asked; what it took is known from the rows
    assert run(*reasoned) == 0
    again = json.loads((workplace / "reasoned" / "evaluation.json").read_text())
    assert again["report"]["cost"] == told["report"]["cost"]
