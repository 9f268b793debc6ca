import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from rewarddance.core.errors import ModelError
from rewarddance.rewards.backbones.loading import load_backbone


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    return shutil.copytree(tiny_model_folder("internvl"), tmp_path / "model")


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(path_or_id):
    with pytest.raises(ModelError) as caught:
        load_backbone(path_or_id)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere")
    assert "does not exist" in refusal("./nowhere/else")


def test_a_hub_id_that_cannot_be_fetched_is_named():
    assert "owner/name is no folder here and could not be fetched" in refusal("owner/name")


def test_a_folder_without_config_is_refused(tmp_path):
    assert "config.json" in refusal(tmp_path)


def test_an_unknown_family_is_answered_with_the_known_ones(folder):
    edit_json(folder / "config.json", model_type="llava")
    assert "'llava' is not a known family; known are internvl, qwen2_5_vl, qwen3_vl, smolvlm" in refusal(folder)


def test_a_missing_image_processor_config_is_named(folder):
    (folder / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in refusal(folder)


def test_the_image_processor_config_is_read_from_a_processor_config_too(folder):
    single = folder / "preprocessor_config.json"
    settings = json.loads(single.read_text())
    single.unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert load_backbone(folder).layout.side == 32


def test_a_switched_off_step_of_the_image_processor_is_refused(folder):
    edit_json(folder / "preprocessor_config.json", do_normalize=False)
    assert "do_normalize" in refusal(folder)


def test_a_folder_without_a_template_gets_the_familys_format(folder, tiny_model_folder):
    (folder / "chat_template.jinja").unlink()
    with_template = load_backbone(tiny_model_folder("internvl"))
    assert load_backbone(folder).encode(["yes?"]) == with_template.encode(["yes?"])


def test_a_tokenizer_without_the_familys_tokens_has_no_chat_format(folder):
    text = (folder / "tokenizer.json").read_text().replace("<IMG_CONTEXT>", "<other>")
    (folder / "tokenizer.json").write_text(text)
    text = (folder / "tokenizer_config.json").read_text().replace("<IMG_CONTEXT>", "<other>")
    (folder / "tokenizer_config.json").write_text(text)
    assert "no chat format: the tokenizer lacks <IMG_CONTEXT>" in refusal(folder)


def test_missing_weights_are_not_replaced_by_random_ones(folder):
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "projector" in name)
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 weights are missing" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "weights cannot be loaded" in refusal(folder)
