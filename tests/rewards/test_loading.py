import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from PIL import Image

import rewarddance
from rewarddance.core.errors import ModelError, UsageError
from rewarddance.core.types import JudgementRequest
from rewarddance.rewards.folder import MediaSettings
from rewarddance.rewards.loading import load_reward_model, new_reward_model
from tests.rewards.conftest import NewModel
from tests.tiny_models import save_tiny_model

PROMPT = "a red square"
KINDS = ["pairwise", "pointwise", "scalar"]


@pytest.fixture
def saved(new_model: NewModel, tmp_path: Path) -> Path:
    """A saved pairwise model."""
    new_model("pairwise").save(tmp_path / "saved")
    return tmp_path / "saved"


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_gives_the_same_judgements(
    new_model: NewModel, images: list[Image.Image], tmp_path: Path, kind: Any
):
    model = new_model(kind)
    if kind == "scalar":
        torch.nn.init.normal_(model.module["head"].weight)
    model.save(tmp_path / "saved")
    loaded = load_reward_model(tmp_path / "saved", device="cpu")
    assert loaded.kind == kind
    assert loaded.compare(PROMPT, images[1], images[0]) == model.compare(PROMPT, images[1], images[0])


def test_a_saved_model_keeps_how_it_judges(tiny_folder: Path, tmp_path: Path):
    media = MediaSettings(max_pixels=4_096, frames_per_clip=3)
    model: Any = new_reward_model(
        tiny_folder, "pairwise", instruction="structure", order_mode="one", media=media, device="cpu"
    )
    model.training = {"comparisons": 12}
    model.save(tmp_path / "saved")
    loaded: Any = load_reward_model(tmp_path / "saved", device="cpu")
    assert loaded.record.instruction == model.record.instruction
    assert loaded.record.order_mode == "one"
    assert loaded.record.media == media
    assert loaded.record.answers == model.record.answers
    assert loaded.record.wording == model.record.wording
    assert loaded.training == {"comparisons": 12}
    assert loaded.record.base == str(tiny_folder)


def test_the_record_is_readable_json_with_digests(saved: Path):
    record = json.loads((saved / "rewarddance.json").read_text())
    assert record["schema_version"] == 1
    assert record["kind"] == "pairwise"
    assert len(record["files"]["model.safetensors"]) == 64
    assert record["versions"]["rewarddance"] == rewarddance.__version__
    assert "README.md" not in record["files"]


def test_a_saved_folder_holds_safetensors_and_a_model_card(saved: Path):
    assert not {".bin", ".pt", ".pkl", ".pth"} & {path.suffix for path in saved.rglob("*")}
    assert (saved / "README.md").read_text().startswith("---\nlibrary_name: rewarddance\n")


def test_a_saved_folder_can_be_copied(saved: Path, images: list[Image.Image], tmp_path: Path):
    shutil.copytree(saved, tmp_path / "copy")
    shutil.rmtree(saved)
    assert load_reward_model(tmp_path / "copy", device="cpu").compare(PROMPT, images[1], images[0]).is_ok


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_flipped_bit_is_found(saved: Path, name: str):
    _flip_a_bit(saved / name)
    with pytest.raises(ModelError, match=rf"{name} (has changed since it was saved|is not readable JSON)") as refusal:
        load_reward_model(saved, device="cpu")
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(saved: Path):
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load_reward_model(saved, device="cpu")


def test_an_edited_model_card_is_no_damage(saved: Path):
    (saved / "README.md").write_text("My model.")
    load_reward_model(saved, device="cpu")


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"kind": "oracle"}, {"answers": {"yes_ids": ["a"]}}])
def test_a_record_of_another_make_is_refused_in_one_line(saved: Path, change: dict[str, Any]):
    path = saved / "rewarddance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=rf"rewarddance\.json cannot be read \({next(iter(change))}") as refusal:
        load_reward_model(saved, device="cpu")
    assert "\n" not in str(refusal.value)


def test_a_record_cannot_name_files_outside_its_folder(saved: Path):
    path = saved / "rewarddance.json"
    record = json.loads(path.read_text())
    record["files"] = {"../secret": "0" * 64}
    path.write_text(json.dumps(record))
    with pytest.raises(ModelError, match="outside its folder"):
        load_reward_model(saved, device="cpu")


def test_answer_tokens_beyond_the_vocabulary_are_refused(saved: Path):
    path = saved / "rewarddance.json"
    record = json.loads(path.read_text())
    record["answers"]["yes_ids"] = [10**6]
    path.write_text(json.dumps(record))
    with pytest.raises(ModelError, match="answer tokens that the tokenizer does not have"):
        load_reward_model(saved, device="cpu")


def test_a_folder_with_a_pickle_is_refused(saved: Path):
    (saved / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin may be a pickle"):
        load_reward_model(saved, device="cpu")


def test_a_pickle_is_refused_in_a_base_and_in_an_adapter_too(tiny_folder: Path, tmp_path: Path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="may be a pickle"):
        load_reward_model(tiny_folder, device="cpu", adapter=adapter)
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    (base / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ModelError, match="may be a pickle"):
        new_reward_model(base, "pairwise", device="cpu")


def test_a_plain_vision_language_model_judges_without_training(tiny_folder: Path, images: list[Image.Image]):
    model: Any = load_reward_model(tiny_folder, device="cpu")
    judgement = model.compare(PROMPT, images[1], images[0])
    assert judgement.is_ok
    assert judgement.instruction == "overall"
    assert judgement.order_gap is not None
    assert model.training is None


def test_a_plain_model_can_be_asked_pointwise(tiny_folder: Path):
    assert load_reward_model(tiny_folder, device="cpu", kind="pointwise").kind == "pointwise"


def test_a_plain_model_has_no_scalar_head(tiny_folder: Path):
    with pytest.raises(UsageError, match="without a reward head"):
        load_reward_model(tiny_folder, device="cpu", kind="scalar")


def test_a_saved_model_is_what_it_is(saved: Path):
    with pytest.raises(UsageError, match="is a pairwise model, not a scalar one"):
        load_reward_model(saved, device="cpu", kind="scalar")


def test_a_missing_folder_is_named_in_one_line(tmp_path: Path):
    with pytest.raises(ModelError, match="nowhere") as refusal:
        load_reward_model(tmp_path / "nowhere")
    assert "\n" not in str(refusal.value)


def test_an_empty_folder_holds_no_model(tmp_path: Path):
    with pytest.raises(ModelError, match=r"holds no model: there is no config\.json"):
        load_reward_model(tmp_path)


@pytest.mark.parametrize("option", [{"device": "abacus"}, {"dtype": "float7"}])
def test_an_unknown_device_or_precision_is_refused(tiny_folder: Path, option: dict[str, Any]):
    with pytest.raises(UsageError, match="unknown d"):
        load_reward_model(tiny_folder, **option)


def test_a_tokenizer_without_yes_is_refused(tmp_path: Path):
    folder = save_tiny_model("internvl", tmp_path / "base")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = []  # bytes only
    content["model"]["vocab"] = {
        token: number for token, number in content["model"]["vocab"].items() if len(token) == 1
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match='no single token for "yes"'):
        load_reward_model(folder, device="cpu")


def test_a_loaded_model_is_frozen_and_a_new_one_is_free(tiny_folder: Path):
    loaded = load_reward_model(tiny_folder, device="cpu")
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    new = new_reward_model(tiny_folder, "scalar", device="cpu")
    assert all(parameter.requires_grad for parameter in new.module.parameters())


def test_the_seed_decides_the_head(tiny_folder: Path):
    heads = [
        new_reward_model(tiny_folder, "scalar", seed=seed, device="cpu").module["head"].weight  # type: ignore[index]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_scalar_heads_file_must_fit(new_model: NewModel, tmp_path: Path):
    new_model("scalar").save(tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "rewarddance.json").read_text())
    del record["files"]["reward_head.safetensors"]
    (tmp_path / "saved" / "rewarddance.json").write_text(json.dumps(record))
    (tmp_path / "saved" / "reward_head.safetensors").unlink()
    with pytest.raises(ModelError, match=r"reward_head\.safetensors is missing or damaged"):
        load_reward_model(tmp_path / "saved", device="cpu")


def test_a_half_precision_model_scores_in_full_precision(tiny_folder: Path, images: list[Image.Image]):
    full, half = (
        load_reward_model(tiny_folder, device="cpu", dtype=dtype).compare(PROMPT, images[1], images[0])
        for dtype in ("float32", "bfloat16")
    )
    assert half.score == pytest.approx(full.score, abs=0.03)


def _adapter(folder: Path, target: Path, rank: int = 4) -> Any:
    """An adapter that does something, saved by peft, and the model with it inside."""
    model = load_reward_model(folder, device="cpu")
    config = peft.LoraConfig(r=rank, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    with warnings.catch_warnings():
        # peft asks transformers by a name that transformers has deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            wrapper = peft.get_peft_model(model.backbone.model, config)
    rng = torch.Generator().manual_seed(0)
    for name, parameter in wrapper.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=rng)
    wrapper.save_pretrained(target)
    return model


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_is_put_on_top(tiny_folder: Path, images: list[Image.Image], tmp_path: Path, merge: bool):
    # In one order: an untrained model's two orders nearly cancel.
    requests = [JudgementRequest(PROMPT, images[1], images[0])]
    adapted = _adapter(tiny_folder, tmp_path / "adapter").judge(requests, "one")[0]
    loaded = load_reward_model(tiny_folder, device="cpu", adapter=tmp_path / "adapter", merge_adapter=merge)
    assert loaded.judge(requests, "one")[0].reward == pytest.approx(adapted.reward, abs=1e-5)
    plain = load_reward_model(tiny_folder, device="cpu").judge(requests, "one")[0]
    assert abs(plain.reward - adapted.reward) > 1e-2


def test_a_merged_adapter_is_saved_with_the_weights(tiny_folder: Path, images: list[Image.Image], tmp_path: Path):
    _adapter(tiny_folder, tmp_path / "adapter")
    merged = load_reward_model(tiny_folder, device="cpu", adapter=tmp_path / "adapter")
    merged.save(tmp_path / "saved")
    again = load_reward_model(tmp_path / "saved", device="cpu")
    assert again.compare(PROMPT, images[1], images[0]) == merged.compare(PROMPT, images[1], images[0])


def test_an_adapter_apart_from_the_weights_is_not_saved(tiny_folder: Path, tmp_path: Path):
    _adapter(tiny_folder, tmp_path / "adapter")
    model = load_reward_model(tiny_folder, device="cpu", adapter=tmp_path / "adapter", merge_adapter=False)
    with pytest.raises(ModelError, match="adapter that is not merged"):
        model.save(tmp_path / "saved")


def test_an_adapter_of_another_model_is_refused(tiny_folder: Path, tmp_path: Path):
    _adapter(tiny_folder, tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "r": 8}))
    with pytest.raises(ModelError, match="adapter cannot be put on this model") as refusal:
        load_reward_model(tiny_folder, device="cpu", adapter=tmp_path / "adapter")
    assert "\n" not in str(refusal.value)


def test_an_adapter_with_unknown_layers_is_refused(tiny_folder: Path, tmp_path: Path):
    _adapter(tiny_folder, tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    settings = {**json.loads(config.read_text()), "target_modules": r".*language_model.*\.q_proj"}
    config.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="made for another model"):
        load_reward_model(tiny_folder, device="cpu", adapter=tmp_path / "adapter")
