"""What users get wrong: one line that names it, the right exit code, nothing lost and no number made up."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewarddance.core.types import Media
from rewarddance.data.comparisons import write_comparisons
from rewarddance.data.records import ComparisonRecord
from tests.cli import spoiled
from tests.cli.command_line import contents, error_of, run
from tests.full_disk import files_end_at
from tests.tiny_models import FAMILIES, save_tiny_model

LONG_PROMPT = "a cat " * 16_667  # 100,002 characters
NUMBERS = ("score", "reward", "order_gap", "leaked_mass")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("internvl", tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return shutil.copytree(base, tmp_path / "model")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def data(pictures: Path, tmp_path: Path) -> Path:
    """Two comparisons to learn from and two held out, each of two pictures."""
    pairs = [("train", 0, 1), ("train", 2, 3), ("test", 0, 2), ("test", 1, 3)]
    records = [
        ComparisonRecord(
            id=f"c{number}",
            prompt=f"scene {number}",
            candidates=(Media(pictures / f"{first}.png"), Media(pictures / f"{second}.png")),
            choice="first",
            split=split,
        )
        for number, (split, first, second) in enumerate(pairs)
    ]
    write_comparisons(tmp_path / "data", records)
    return tmp_path / "data"


@pytest.fixture
def config(base: Path, data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(f"model: {{base: {base}}}\ndata: {{train: {data}}}\nbatch_size: 2\nout: {tmp_path / 'run'}\n")
    return path


def of_two(pictures: Path) -> tuple[object, ...]:
    """The words that let one picture be judged against another."""
    return ("--prompt", "a scene", "--candidate", pictures / "0.png", "--reference-image", pictures / "1.png")


def judged(base: Path, pictures: Path, *rows: dict[str, str]) -> tuple[int, list[dict]]:
    """Exit code and output of a manifest whose rows differ from a good one as told."""
    good = {"prompt": "a scene", "candidate": "0.png", "reference_image": "1.png"}
    (pictures / "rows.jsonl").write_text("".join(json.dumps(good | row) + "\n" for row in rows))
    out = pictures / f"judged{len(rows)}.jsonl"
    code = run("score", base, "--manifest", pictures / "rows.jsonl", "--out", out)
    return code, [json.loads(line) for line in out.read_text().splitlines()]


# A full disk


def test_a_full_disk_is_one_line_with_the_place_and_what_to_do(
    base: Path, pictures: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (pictures / "rows.jsonl").write_text('{"prompt": "a", "candidate": "0.png", "reference_image": "1.png"}\n')
    commands = {
        tmp_path / "judged.jsonl": ("score", base, "--manifest", pictures / "rows.jsonl", "--out"),
        tmp_path / "drawn" / "draw.json": ("lab", "draw", "--out"),
        tmp_path / "run" / "config.yaml": ("train", config, "--out"),
    }
    for place, words in commands.items():
        folder = tmp_path / place.relative_to(tmp_path).parts[0]
        with files_end_at(10):
            message = error_of(capsys, *words, folder, code=1)
        assert f"File too large: {place}; free some and give the same command again" in message


# Configs and run folders


def test_an_unknown_key_is_named_with_its_path_and_nothing_is_written(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config.write_text(config.read_text() + "optimizer: {learning_rat: 1}\n")
    message = error_of(capsys, "train", config, code=2)
    assert "unknown key 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'?" in message
    assert not (tmp_path / "run").exists()


def test_a_value_of_the_wrong_type_is_named_with_its_path(config: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "train", config, "--set", "optimizer.learning_rate=fast", code=2)
    assert "'optimizer.learning_rate' cannot be 'fast'; input should be a valid number" in message


def test_an_override_without_an_equals_sign_says_what_one_looks_like(config: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "train", config, "--set", "seed", code=2)
    assert "--set 'seed' is not KEY=VALUE; write for example" in message


def test_a_run_resumed_with_another_config_names_the_key_and_keeps_everything(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("train", config) == 0
    before = contents(tmp_path / "run")

    message = error_of(capsys, "train", config, "--resume", "--set", "optimizer.weight_decay=0.5", code=2)

    assert "with another optimizer.weight_decay; give the values of its config.yaml, or another `out`" in message
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("key", ["model.base", "data.train"])
def test_a_run_that_could_not_begin_leaves_its_folder_to_the_corrected_one(
    config: Path, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
):
    assert "absent" in error_of(capsys, "train", config, "--set", f"{key}={tmp_path / 'absent'}", code=1)
    assert run("train", config) == 0


def test_a_base_that_is_a_file_is_called_one(config: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "train", config, "--set", f"model.base={config}", code=1)
    assert f"{config} is a file, not a model folder; give the folder" in message


def test_training_stops_at_a_broken_picture_and_goes_on_when_it_is_mended(
    config: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole = (pictures / "2.png").read_bytes()
    (pictures / "2.png").write_text("not a picture")
    words = ("train", config, "--set", "batch_size=1", "--set", "save_every=1", "--set", "data.held_out_share=0")

    capsys.readouterr()
    assert run(*words) == 1
    assert "error: comparison c1: " in capsys.readouterr().err
    (pictures / "2.png").write_bytes(whole)

    assert run(*words, "--resume") == 0
    assert (tmp_path / "run" / "model" / "rewarddance.json").is_file()


# Models


def test_a_missing_model_folder_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "evaluate", tmp_path / "absent", data, "--out", tmp_path / "out", code=1)
    assert f"model folder {tmp_path / 'absent'} does not exist; give a folder or a hub id" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["score", "train"])
def test_a_model_folder_with_a_pickle_is_refused_and_the_pickle_not_read(
    model: Path, config: Path, pictures: Path, verb: str, capsys: pytest.CaptureFixture[str]
):
    sprung = spoiled.add_pickle(model)
    words = (model, *of_two(pictures)) if verb == "score" else (config, "--set", f"model.base={model}")
    message = error_of(capsys, verb, *words, code=1)
    assert "pytorch_model.bin may be a pickle" in message
    assert "use a safetensors copy" in message
    assert not sprung.exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_a_chat_format_is_refused(
    family: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    spoiled.remove_chat_format(save_tiny_model(family, tmp_path / "raw"))
    message = error_of(capsys, "score", tmp_path / "raw", *of_two(pictures), code=1)
    assert "raw: no chat format: the tokenizer lacks <|im_start|>" in message
    assert f"use an instruct model of {family}" in message


@pytest.mark.parametrize("verb", ["score", "train"])
def test_a_tokenizer_without_a_single_token_for_yes_is_refused(
    model: Path, config: Path, pictures: Path, verb: str, capsys: pytest.CaptureFixture[str]
):
    spoiled.remove_yes(model)
    words = (model, *of_two(pictures)) if verb == "score" else (config, "--set", f"model.base={model}")
    assert 'no single token for "yes"; use a model whose tokenizer has one' in error_of(capsys, verb, *words, code=1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("chat_template.jinja", b"{% for x in %}", "chat template cannot be rendered"),
        ("config.json", b"{", "config.json is not readable JSON; copy or download the model again"),
        ("model.safetensors", b"cut off", "the weights cannot be loaded"),
        ("preprocessor_config.json", b'{"size": "big"}', "the image settings do not fit the model"),
        ("tokenizer.json", b"[]", "has no readable tokenizer"),
    ],
)
def test_a_damaged_file_of_a_model_is_one_line(
    model: Path, pictures: Path, name: str, content: bytes, words: str, capsys: pytest.CaptureFixture[str]
):
    (model / name).write_bytes(content)
    assert words in error_of(capsys, "score", model, *of_two(pictures), code=1)


def test_an_unknown_precision_is_named_with_the_known_ones(
    base: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    message = error_of(capsys, "score", base, *of_two(pictures), "--dtype", "float64", code=2)
    for known in ("auto", "float32", "bfloat16", "float16"):
        assert f"'{known}'" in message


def test_a_folder_has_no_revision(base: Path, pictures: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "score", base, *of_two(pictures), "--revision", "main", code=2)
    assert f"{base} is a folder and has no revision 'main'" in message


def test_a_device_that_is_not_there_is_bad_usage(base: Path, pictures: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "score", base, *of_two(pictures), "--device", "cuda:99", code=2)
    assert "there is no device cuda:99" in message


# Pictures and prompts


def spoil_text(path: Path) -> None:
    path.write_text("not a picture")


def spoil_huge(path: Path) -> None:
    spoiled.write_huge_png(path, 30_000, 30_000)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_text, "not a PNG, JPEG, WEBP, GIF or BMP image"),
        (spoil_huge, "900,000,000 pixels, over the limit of 64,000,000"),
        (Path.mkdir, "not an ordinary file"),
        (Path.touch, "the file is empty"),
    ],
)
def test_a_bad_picture_fails_alone_and_the_other_rows_are_judged(
    base: Path, pictures: Path, spoil: Callable[[Path], None], words: str
):
    _, alone = judged(base, pictures, {})
    spoil(pictures / "bad.png")
    code, (good, bad, last) = judged(base, pictures, {}, {"candidate": "bad.png"}, {})

    assert code == 1
    assert (bad["status"], [bad[name] for name in NUMBERS]) == ("unreadable_media", [None] * len(NUMBERS))
    assert bad["message"].endswith(f"bad.png: {words}")
    assert {row["score"] for row in (good, last)} == {alone[0]["score"]}


def test_a_prompt_of_100_000_characters_is_too_long_and_the_other_rows_are_judged(base: Path, pictures: Path):
    _, alone = judged(base, pictures, {})
    code, (good, long, last) = judged(base, pictures, {}, {"prompt": LONG_PROMPT}, {})

    assert code == 1
    assert (long["status"], [long[name] for name in NUMBERS]) == ("too_long", [None] * len(NUMBERS))
    assert "the model can read 2,048; shorten the prompt" in long["message"]
    assert {row["score"] for row in (good, last)} == {alone[0]["score"]}


@pytest.mark.parametrize("spoil", [spoil_text, spoil_huge])
def test_a_single_bad_picture_is_one_line(
    base: Path, pictures: Path, spoil: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
):
    spoil(pictures / "0.png")
    assert "error: unreadable_media: " in error_of(capsys, "score", base, *of_two(pictures), code=1)


def test_a_single_prompt_that_is_too_long_is_one_line(base: Path, pictures: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "score", base, *of_two(pictures), "--prompt", LONG_PROMPT, code=1)
    assert "error: too_long: the question takes" in message


@pytest.mark.parametrize("verb", ["score", "compare"])
def test_a_prompt_that_is_not_utf8_is_bad_usage(
    base: Path, pictures: Path, verb: str, capsys: pytest.CaptureFixture[str]
):
    media = ("--candidate", pictures / "0.png") if verb == "score" else (pictures / "0.png", pictures / "1.png")
    message = error_of(capsys, verb, base, *media, "--prompt", os.fsdecode(b"caf\xe9"), code=2)
    assert "Invalid value for '--prompt': it holds bytes that are not UTF-8" in message


def test_a_picture_that_is_a_folder_is_bad_usage(base: Path, pictures: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "score", base, *of_two(pictures), "--candidate", pictures, code=2)
    assert f"'{pictures}' is a directory" in message


# Comparisons


@pytest.mark.parametrize("verb", ["evaluate", "train"])
@pytest.mark.parametrize(("content", "words"), [(b"", "the file is empty"), (b"PAR1", "not a parquet file")])
def test_a_comparison_file_with_nothing_in_it_is_one_line(
    base: Path,
    data: Path,
    config: Path,
    verb: str,
    content: bytes,
    words: str,
    capsys: pytest.CaptureFixture[str],
):
    (data / "comparisons.parquet").write_bytes(content)
    message = error_of(capsys, verb, *((base, data) if verb == "evaluate" else (config,)), code=1)
    assert f"comparisons.parquet: {words}" in message
    assert "import the data again" in message


def test_a_comparison_file_without_rows_is_one_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spoiled.write_comparisons_without_rows(tmp_path / "none")
    assert "holds no comparisons; import the data again" in error_of(
        capsys, "evaluate", base, tmp_path / "none", code=1
    )


def test_a_comparison_that_cannot_be_judged_counts_as_wrong_and_is_listed(
    base: Path, data: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    spoil_text(pictures / "3.png")
    capsys.readouterr()

    assert run("evaluate", base, data, "--split", "test", "--json") == 1

    captured = capsys.readouterr()
    overall = json.loads(captured.out)["overall"]
    assert (overall["n"], overall["n_failed"], overall["accuracy"]["n"]) == (2, 1, 2)
    assert overall["accuracy"]["estimate"] <= 0.5  # at most the other one of the two


def test_answers_of_another_model_are_kept_and_the_folder_refused(
    base: Path, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save_tiny_model("internvl", model, seed=1)
    out = tmp_path / "evaluation"
    assert run("evaluate", base, data, "--out", out) == 0
    before = contents(out)

    message = error_of(capsys, "evaluate", model, data, "--out", out, code=2)

    assert "holds answers of another model" in message
    assert "choose another --out, or delete it" in message
    assert contents(out) == before
    assert run("evaluate", base, data, "--out", out) == 0


# Imports


def test_a_path_that_is_not_there_is_not_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "import", "hpdv3", tmp_path / "absent", "--out", tmp_path / "out", code=1)
    assert f"{tmp_path / 'absent'}: no such file or folder; give the data set's folder" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"rows": []}', "not a JSON list of rows; is it a file of this data set?"),
        ('[{"caption": "a cat"}, {"caption": "a dog"}]', "row 0: there is no field 'prompt'"),
        ('[{"prompt": "a', "not valid JSON after 0 rows; is the download complete?"),
    ],
)
def test_a_json_of_something_else_is_not_imported_and_earlier_comparisons_stay(
    data: Path, tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "other.json").write_text(text)
    before = contents(data)

    assert words in error_of(capsys, "import", "hpdv3", tmp_path / "other.json", "--out", data, "--overwrite", code=1)

    assert before.items() <= contents(data).items()


# Folders that cannot be written to


@pytest.mark.parametrize("verb", ["train", "evaluate", "score", "import"])
@pytest.mark.parametrize("place", ["file", "locked"])
def test_an_out_folder_that_cannot_be_written_is_one_line(
    base: Path, data: Path, config: Path, tmp_path: Path, verb: str, place: str, capsys: pytest.CaptureFixture[str]
):
    if place == "locked" and os.geteuid() == 0:
        pytest.skip("nothing is locked for root")
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)
    row = {"prompt": "a", "candidate": "pictures/0.png", "reference_image": "pictures/1.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    paths = {"prompt": "a", "path1": "pictures/0.png", "path2": "pictures/1.png"}
    (tmp_path / "train.json").write_text(json.dumps([paths]))
    words = {
        "train": (config,),
        "evaluate": (base, data),
        "score": (base, "--manifest", tmp_path / "rows.jsonl"),
        "import": ("hpdv3", tmp_path / "train.json"),
    }[verb]

    message = error_of(capsys, verb, *words, "--out", tmp_path / place / "out", code=1)

    assert str(tmp_path / place) in message
