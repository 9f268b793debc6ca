import json
import logging
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from rewarddance.generators import merged_weights
from rewarddance.generators.loading import load_generator
from rewarddance.generators.sampling import generate
from tests.generators.conftest import PROMPTS, SEEDS, SIZE, NewGenerator, load_pipeline, rngs
from tests.tiny_generators import GENERATOR_FAMILIES, GeneratorFamily

FAMILIES = GENERATOR_FAMILIES
STEPS = 2
GUIDED: dict[str, dict[str, Any]] = {
    "sd3": {"guidance_scale": 3.0},
    "flux": {"guidance_scale": 3.0},
    "qwen_image": {"true_cfg_scale": 3.0, "negative_prompt": [" ", " "]},
}


def _pictures(generator: Any) -> torch.Tensor:
    return generate(generator, PROMPTS, SEEDS, SIZE, STEPS, 3.0)


def _tune(module: torch.nn.Module) -> None:
    """Move every trainable weight, as training would."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))


def _with_adapters(generator: Any) -> Any:
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["to_q", "to_v", "proj_out"]), generator.module)
    _tune(generator.module)
    return generator


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["full", "adapters"])
def test_diffusers_makes_the_same_pictures_from_the_saved_folder(
    new_generator: NewGenerator, tmp_path: Path, family: GeneratorFamily, kind: str
):
    generator = new_generator(family)
    before = _pictures(generator)
    if kind == "adapters":
        _with_adapters(generator)
    else:
        _tune(generator.module.requires_grad_(True))
    tuned = _pictures(generator)
    generator.save(tmp_path / "saved")
    settings = {"height": SIZE.height, "width": SIZE.width, "num_inference_steps": STEPS, "generator": rngs()}
    pipeline = load_pipeline(tmp_path / "saved")
    theirs = pipeline(PROMPTS, **settings, output_type="pt", **GUIDED[family]).images
    torch.testing.assert_close(theirs, tuned, rtol=0.0, atol=1e-4)
    assert (tuned - before).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_generator_is_the_same_when_loaded(
    new_generator: NewGenerator, tmp_path: Path, family: GeneratorFamily
):
    generator = new_generator(family)
    generator.save(tmp_path / "saved")
    again: Any = load_generator(tmp_path / "saved", device="cpu")
    assert torch.equal(_pictures(again), _pictures(generator))


def test_saving_leaves_the_network_with_its_adapters_as_it_was(new_generator: NewGenerator, tmp_path: Path):
    generator = _with_adapters(new_generator("sd3"))
    before = {name: value.clone() for name, value in generator.module.state_dict().items()}
    generator.save(tmp_path / "saved")
    after = generator.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_saved_folder_has_the_names_of_a_plain_model(new_generator: NewGenerator, tmp_path: Path):
    generator = new_generator("sd3")
    plain = set(generator.module.state_dict())
    _with_adapters(generator).save(tmp_path / "saved")
    weights = tmp_path / "saved" / "transformer" / "diffusion_pytorch_model.safetensors"
    with safe_open(weights, framework="pt") as file:  # type: ignore[no-untyped-call]
        assert set(file.keys()) == plain


@pytest.mark.parametrize(("step", "is_told"), [(1e-3, True), (0.3, False)])
def test_what_the_precision_takes_from_the_update_is_recorded_and_told(
    new_generator: NewGenerator, tmp_path: Path, caplog: pytest.LogCaptureFixture, step: float, is_told: bool
):
    generator = new_generator("sd3")
    generator.module.to(torch.bfloat16)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["to_q"]), generator.module)
    layers = {name: layer for name, layer in generator.module.named_modules() if isinstance(layer, BaseTunerLayer)}
    lost, whole = [], []
    rng = torch.Generator().manual_seed(5)
    for layer in layers.values():
        for parameter in (layer.lora_A["default"].weight, layer.lora_B["default"].weight):
            parameter.data = torch.randn(parameter.shape, generator=rng) * step**0.5
        # alpha 8 over rank 2
        update = 4 * layer.lora_B["default"].weight.data @ layer.lora_A["default"].weight.data
        base = layer.get_base_layer().weight.data.float()
        lost.append((base + update).bfloat16().float() - base - update)
        whole.append(update)
    with caplog.at_level(logging.WARNING, merged_weights.__name__):
        generator.save(tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "merged_adapter.json").read_text())
    expected = torch.cat(lost).norm() / torch.cat(whole).norm()
    assert record == {"rounding": pytest.approx(expected.item(), rel=1e-4), "precision": "bfloat16"}
    assert (record["rounding"] > 0.05) is is_told
    told = [entry.getMessage() for entry in caplog.records if entry.name == merged_weights.__name__]
    assert len(told) == is_told
    assert all(f"took {100 * record['rounding']:.0f}% of the adapters' update" in line for line in told)


def test_without_adapters_there_is_no_rounding_to_record(new_generator: NewGenerator, tmp_path: Path):
    new_generator("sd3").save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "merged_adapter.json").exists()


def test_adapters_that_are_switched_off_are_not_saved(new_generator: NewGenerator, tmp_path: Path):
    base = _pictures(new_generator("sd3"))
    generator = _with_adapters(new_generator("sd3"))
    for layer in generator.module.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.enable_adapters(False)
    generator.save(tmp_path / "saved")
    again: Any = load_generator(tmp_path / "saved", device="cpu")
    assert torch.equal(_pictures(again), base)
