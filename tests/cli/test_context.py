"""Criteria, several reference images and a source, as they are typed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewarddance.cli.manifest import Manifest
from rewarddance.core.errors import DataError
from tests.cli.command_line import error_of, run
from tests.tiny_models import save_tiny_model

OWN = "{name: hands, task: text_to_image, dimension: hands, version: 1, text: Count the fingers.}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, four pictures and criteria of one's own."""
    folder = tmp_path_factory.mktemp("context")
    save_tiny_model("internvl", folder / "base")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for place, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{place}.png")
    (folder / "hands.yaml").write_text(OWN)
    return folder


def scored(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> dict[str, object]:
    candidate = ("--prompt", "a scene", "--candidate", folder / "0.png")
    capsys.readouterr()
    assert run("score", folder / "base", *candidate, *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_several_criteria_are_several_judgements(workplace: Path, capsys: pytest.CaptureFixture[str]):
    words = ("--kind", "pointwise", "--instruction", "alignment", "--instruction", workplace / "hands.yaml")
    judged = scored(capsys, workplace, *words)
    assert list(judged) == ["alignment", "hands"]
    assert len({one["instruction_sha256"] for one in judged.values()}) == 2


def test_several_criteria_are_several_lines_for_people(workplace: Path, capsys: pytest.CaptureFixture[str]):
    criteria = ("--instruction", "alignment", "--instruction", "structure", "--kind", "pointwise")
    capsys.readouterr()
    assert run("score", workplace / "base", "--prompt", "a", "--candidate", workplace / "0.png", *criteria) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["alignment", "structure"]


def test_references_are_judged_one_by_one_or_together(workplace: Path, capsys: pytest.CaptureFixture[str]):
    shown = ("--reference-image", workplace / "1.png", "--reference-image", workplace / "2.png")
    apart = [scored(capsys, workplace, *shown[start : start + 2])["reward"] for start in (0, 2)]
    mean, together = (scored(capsys, workplace, *shown, "--references", mode) for mode in ("one_by_one", "together"))
    assert mean["reward"] == pytest.approx(sum(apart) / 2, abs=1e-5)
    assert together["reward"] != pytest.approx(mean["reward"], abs=1e-7)


def test_a_source_is_shown(workplace: Path, capsys: pytest.CaptureFixture[str]):
    pointwise = ("--kind", "pointwise", "--instruction", "editing_overall")
    rewards = [
        scored(capsys, workplace, *pointwise, *source)["reward"]
        for source in ((), ("--source-media", workplace / "3.png"))
    ]
    assert rewards[0] != rewards[1]


def test_criteria_in_a_missing_file_stop_before_a_model_is_loaded(workplace: Path, capsys: pytest.CaptureFixture[str]):
    words = ("--prompt", "a", "--candidate", workplace / "0.png", "--instruction", workplace / "none.yaml")
    assert "there is no such file" in error_of(capsys, "score", "no/such/model", *words, code=2)


def test_images_are_ranked_by_criteria_of_ones_own(workplace: Path, capsys: pytest.CaptureFixture[str]):
    words = (
        "--prompt",
        "a",
        "--instruction",
        workplace / "hands.yaml",
        "--source-media",
        workplace / "3.png",
        "--json",
    )
    capsys.readouterr()
    assert run("compare", workplace / "base", workplace / "0.png", workplace / "1.png", *words) == 0
    assert {one["instruction"] for one in json.loads(capsys.readouterr().out)["judgements"]} == {"hands"}


def test_a_manifest_is_judged_by_one_set_of_criteria(workplace: Path, capsys: pytest.CaptureFixture[str]):
    (workplace / "rows.jsonl").write_text('{"prompt": "a", "candidate": "0.png"}\n')
    words = ("--manifest", workplace / "rows.jsonl", "--out", workplace / "out.jsonl")
    both = ("--instruction", "alignment", "--instruction", "structure")
    message = error_of(capsys, "score", workplace / "base", *words, *both, code=2)
    assert "a row of a manifest is judged once" in message


def row(folder: Path, **fields: object) -> Manifest:
    (folder / "row.jsonl").write_text(json.dumps({"prompt": "a", "candidate": "a.png", **fields}) + "\n")
    return Manifest.open(folder / "row.jsonl", None, "model")


def test_a_row_may_name_several_references_a_source_and_a_file_of_criteria(tmp_path: Path):
    fields = {"reference_image": ["b.png", "c.png"], "source_media": "d.png", "instruction": "own.yaml"}
    request = row(tmp_path, **fields).request(0)
    assert request.reference_image == (tmp_path / "b.png", tmp_path / "c.png")
    assert (request.source_media, request.instruction) == (tmp_path / "d.png", tmp_path / "own.yaml")


@pytest.mark.parametrize("fields", [{"reference_image": ["b.png", 3]}, {"candidate": ["b.png"]}, {"id": ["x"]}])
def test_a_list_stands_only_where_references_do(tmp_path: Path, fields: dict[str, object]):
    with pytest.raises(DataError, match="is not text"):
        row(tmp_path, **fields).request(0)


def test_a_manifest_is_not_continued_with_criteria_that_have_changed(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "candidate": "a.png"}\n')
    keys = []
    for text in (OWN, OWN.replace("fingers", "toes")):
        (tmp_path / "own.yaml").write_text(text)
        keys.append(Manifest.open(tmp_path / "rows.jsonl", tmp_path / "own.yaml", "model").key(0))
    assert keys[0] != keys[1]
