import json
from pathlib import Path

import pytest

from rewarddance.core.errors import ModelError
from rewarddance.core.folder_safety import check_folder_is_safe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with nothing wrong."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "model.safetensors").write_bytes(b"weights")
    (target / "config.json").write_text('{"model_type": "internvl", "text_config": {"hidden_size": 4}}')
    (target / "tokenizer.json").write_text('{"model": {"vocab": {"auto_map": 7}}}')
    return target


def test_safetensors_and_json_are_accepted(folder: Path):
    check_folder_is_safe(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "rng_state.pth", "state.PT", "a.pkl", "m.ckpt"])
def test_a_file_that_may_be_a_pickle_is_refused_beside_good_weights(folder: Path, name: str):
    (folder / name).write_bytes(b"")
    with pytest.raises(ModelError, match="may be a pickle") as refusal:
        check_folder_is_safe(folder)
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_pickle_in_a_folder_below_is_refused(folder: Path):
    (folder / "extra").mkdir()
    (folder / "extra" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"optimizer\.pt may be a pickle"):
        check_folder_is_safe(folder)


def test_program_code_is_refused(folder: Path):
    (folder / "modeling_internvl.py").write_text("raise SystemExit")
    with pytest.raises(ModelError, match="is program code"):
        check_folder_is_safe(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_map": {"AutoModel": "modeling.Model"}},
        {"_attn_implementation_internal": "flash"},
        {"attn_implementation": "someone/kernel"},
        {"experts_implementation": "someone/kernel"},
    ],
)
def test_a_config_that_asks_for_code_is_refused_at_any_depth(folder: Path, settings: dict[str, object]):
    (folder / "config.json").write_text(json.dumps({"text_config": [{"deep": settings}]}))
    with pytest.raises(ModelError, match="asks for code"):
        check_folder_is_safe(folder)


def test_every_json_file_is_looked_at(folder: Path):
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tok.Tok", null]}}')
    with pytest.raises(ModelError, match=r"tokenizer_config\.json asks for code"):
        check_folder_is_safe(folder)


def test_a_plain_attention_implementation_is_accepted(folder: Path):
    (folder / "config.json").write_text('{"attn_implementation": "sdpa"}')
    check_folder_is_safe(folder)


def test_a_config_that_is_no_json_is_refused(folder: Path):
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="is not readable JSON"):
        check_folder_is_safe(folder)


@pytest.mark.parametrize("name", ["weights", "../other/model.safetensors", "/tmp/model.safetensors", 7])
def test_a_list_of_weight_files_that_names_anything_else_is_refused(folder: Path, name: object):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match=r"index\.json (names|is not a readable list)"):
        check_folder_is_safe(folder)


def test_a_config_that_names_weights_of_another_format_is_refused(folder: Path):
    (folder / "config.json").write_text('{"transformers_weights": "weights"}')
    with pytest.raises(ModelError, match="names weights that are not safetensors"):
        check_folder_is_safe(folder)


def test_a_list_of_safetensors_shards_is_accepted(folder: Path):
    shards = {"auto_map": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    check_folder_is_safe(folder)


def test_a_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ModelError, match="link that leaves the folder"):
        check_folder_is_safe(folder)


def test_a_link_to_a_folder_outside_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="link that leaves the folder"):
        check_folder_is_safe(folder)


def test_the_links_of_the_hub_cache_are_accepted(tmp_path: Path):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123"
    blobs = tmp_path / "models--owner--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abc").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    check_folder_is_safe(snapshot)


def test_a_user_who_takes_the_responsibility_is_not_stopped(folder: Path):
    (folder / "pytorch_model.bin").write_bytes(b"")
    check_folder_is_safe(folder, trust_remote_code=True)
