"""What a run reads, and which of it a resumed run must find as it was."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from rewarddance.config.alignment import AlignConfig
from rewarddance.core.errors import UsageError
from rewarddance.data.prompts import PromptItem
from rewarddance.data.references import ReferenceStore
from rewarddance.search.references import TournamentSettings, make_references
from rewarddance.training import input_digests as digests_module
from rewarddance.training.input_digests import input_digests
from rewarddance.training.run_folder import RunFolder
from tests.search.test_references import Brighter, pictures
from tests.training.stand_in_generator import align_config

PROMPTS = ("a red thing", "a blue thing", "a small green thing", "a small red thing")
SETTINGS = TournamentSettings("g", "j", candidates=3, top=2)
EVERYTHING = {
    "generator.adapter",
    "generator.path",
    "judges.0.model",
    "prompts.held_out",
    "prompts.train",
    "references.folder",
    "regulariser.pretraining_data",
    "rewards.0.instruction",
    "rewards.0.model",
}
CRITERIA = "name: own\ntask: text_to_image\ndimension: overall\nversion: 1\ntext: {text}\n"


def items(*prompts: str) -> list[PromptItem]:
    return [PromptItem(f"{place:06d}", prompt) for place, prompt in enumerate(prompts)]


def model_folder(path: Path, content: str = "weights") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.safetensors").write_text(content)
    return path


@pytest.fixture
def config(tmp_path: Path) -> AlignConfig:
    """A run that reads one thing of every kind."""
    inputs = tmp_path / "inputs"
    generator = model_folder(inputs / "generator")
    judge = model_folder(inputs / "judge")
    reward = model_folder(inputs / "reward")
    (reward / "rewarddance.json").write_text('{"kind": "pairwise"}')
    (inputs / "held_out.jsonl").write_text('{"prompt": "a blue thing", "kind": "colour"}\n')
    (inputs / "criteria.yaml").write_text(CRITERIA.format(text="Look."))
    Image.new("RGB", (8, 8)).save(inputs / "grey.png")
    (inputs / "pictures.jsonl").write_text('{"prompt": "a red thing", "image": "grey.png"}\n')
    make_references(pictures, Brighter(), items(*PROMPTS), inputs / "references", SETTINGS)
    settings = align_config(
        tmp_path,
        generator={"path": str(generator), "adapter": str(model_folder(inputs / "adapter"))},
        rewards=[{"model": str(reward), "instruction": str(inputs / "criteria.yaml")}],
        judges=[{"model": str(judge)}],
        regulariser={"pretraining_weight": 1.0, "pretraining_data": str(inputs / "pictures.jsonl")},
        references={"folder": str(inputs / "references")},
    )
    held_out = settings.prompts.model_copy(update={"held_out": inputs / "held_out.jsonl"})
    return settings.model_copy(update={"prompts": held_out})


def changed(config: AlignConfig, before: dict[str, str]) -> set[str]:
    now = input_digests(config)
    assert now.keys() == before.keys()
    return {key for key in now if now[key] != before[key]}


def test_everything_that_a_run_reads_is_watched(config: AlignConfig):
    assert input_digests(config).keys() == EVERYTHING


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("generator/model.safetensors", "other weights", "generator.path"),
        ("adapter/model.safetensors", "other weights", "generator.adapter"),
        ("judge/model.safetensors", "other weights", "judges.0.model"),
        ("reward/rewarddance.json", '{"kind": "scalar"}', "rewards.0.model"),
        ("criteria.yaml", CRITERIA.format(text="Look twice."), "rewards.0.instruction"),
        ("held_out.jsonl", '{"prompt": "a red thing", "kind": "colour"}\n', "prompts.held_out"),
        ("../prompts.txt", "a blue thing\na red thing\na small red thing\na small green thing\n", "prompts.train"),
        ("pictures.jsonl", '{"prompt": "a thing", "image": "grey.png"}\n', "regulariser.pretraining_data"),
        ("grey.png", "another picture", "regulariser.pretraining_data"),
    ],
)
def test_what_has_changed_is_known_by_its_key(config: AlignConfig, tmp_path: Path, name: str, content: str, key: str):
    before = input_digests(config)
    assert changed(config, before) == set()
    (tmp_path / "inputs" / name).write_text(content)
    assert changed(config, before) == {key}


def test_the_weights_of_a_recorded_model_are_not_read(config: AlignConfig, tmp_path: Path):
    # The record holds their hash, which is checked when the model is loaded.
    before = input_digests(config)
    (tmp_path / "inputs/reward/model.safetensors").write_text("other weights")
    assert changed(config, before) == set()


def test_other_references_count_and_more_of_them_do_not(config: AlignConfig, tmp_path: Path):
    before = input_digests(config)
    make_references(pictures, Brighter(), items(*PROMPTS, "a dog"), tmp_path / "inputs/references", SETTINGS)
    assert ReferenceStore.open(tmp_path / "inputs/references").get("a dog") is not None
    assert changed(config, before) == set()
    other = tmp_path / "inputs/other"
    make_references(pictures, Brighter(), items(*PROMPTS), other, replace(SETTINGS, seed=1))
    (tmp_path / "inputs/references").rename(tmp_path / "inputs/old")
    other.rename(tmp_path / "inputs/references")
    assert changed(config, before) == {"references.folder"}


def test_how_references_were_made_counts_where_the_run_makes_more(config: AlignConfig, tmp_path: Path):
    refreshing = config.model_copy(
        update={"references": config.references.model_copy(update={"refresh_every": 2})},
    )
    before = input_digests(config), input_digests(refreshing)
    path = tmp_path / "inputs/references/generation-0000/settings.json"
    path.write_text(json.dumps(asdict(replace(SETTINGS, candidates=16))))
    assert changed(config, before[0]) == set()
    assert changed(refreshing, before[1]) == {"references.folder"}


def test_what_is_not_here_has_no_digest(tmp_path: Path):
    config = align_config(
        tmp_path,
        rewards=[{"model": "org/name"}],
        references={"folder": str(tmp_path / "absent")},
        regulariser={"pretraining_weight": 1.0, "pretraining_data": str(tmp_path / "absent.jsonl")},
    )
    assert input_digests(config).keys() == {"prompts.train"}


def test_a_folder_that_the_run_lies_in_has_no_digest(tmp_path: Path):
    # Its own checkpoints would change it.
    config = align_config(tmp_path, generator={"path": str(tmp_path)})
    assert "generator.path" not in input_digests(config)


def test_what_the_caller_made_itself_is_not_looked_at(config: AlignConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(digests_module, "stored_fingerprint")
    without = ("generator", "rewards", "judges", "references")
    assert input_digests(config, without).keys() == {
        "prompts.held_out",
        "prompts.train",
        "regulariser.pretraining_data",
    }


# A run's folder


def begun(tmp_path: Path, digests: dict[str, str] | None) -> RunFolder:
    """A folder with a checkpoint."""
    config = align_config(tmp_path)
    folder = RunFolder(config.out)
    folder.claim(config, digests=digests)
    (folder.checkpoints / "step-00000002").mkdir(parents=True)
    return folder


def test_a_resumed_run_names_all_that_has_changed(tmp_path: Path):
    folder = begun(tmp_path, {"prompts.train": "a", "rewards.0.model": "b", "generator.path": "c"})
    folder.check_inputs({"prompts.train": "a", "rewards.0.model": "b", "generator.path": "c"})
    words = r"cannot resume .*: what prompts\.train, rewards\.0\.model names is not .*; put back .*, or begin anew"
    with pytest.raises(UsageError, match=words) as caught:
        folder.check_inputs({"prompts.train": "x", "rewards.0.model": "y", "generator.path": "c"})
    assert "\n" not in str(caught.value)


def test_what_is_known_on_one_side_alone_is_not_compared_and_not_forgotten(tmp_path: Path):
    folder = begun(tmp_path, {"prompts.train": "a", "rewards.0.model": "b"})
    folder.check_inputs({"prompts.train": "a", "generator.path": "c"})
    folder.claim(align_config(tmp_path), digests={"prompts.train": "a", "generator.path": "c"})
    with pytest.raises(UsageError, match=r"what rewards\.0\.model names"):
        folder.check_inputs({"rewards.0.model": "y"})


def test_without_a_checkpoint_a_run_begins_with_what_there_is(tmp_path: Path):
    folder = begun(tmp_path, {"prompts.train": "a"})
    (folder.checkpoints / "step-00000002").rmdir()
    folder.check_inputs({"prompts.train": "x"})


@pytest.mark.parametrize("content", [None, "", "[]"])
def test_a_run_of_an_earlier_version_goes_on_with_a_warning(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
):
    folder = begun(tmp_path, None)
    if content is not None:
        folder.inputs.write_text(content)
    with caplog.at_level(logging.WARNING):
        folder.check_inputs({"prompts.train": "x"})
    assert "has no inputs.json: changes before this start go unnoticed" in caplog.text
    folder.claim(align_config(tmp_path), digests={"prompts.train": "x"})
    with pytest.raises(UsageError, match=r"what prompts\.train names"):
        folder.check_inputs({"prompts.train": "y"})
