from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch

from rewarddance.core.errors import ModelError
from rewarddance.generators.adapter_file import FILE_NAME
from rewarddance.generators.loading import load_generator
from tests.generators.conftest import FolderOf, NewGenerator
from tests.tiny_generators import GENERATOR_FAMILIES, GeneratorFamily

LAYER = "transformer.transformer_blocks.0.attn.to_q"


def _velocity(generator: Any) -> torch.Tensor:
    conditions, latents = generator.encode(["a red square"]), generator.initial_noise([1])
    with torch.no_grad():
        velocity: torch.Tensor = generator.velocity(latents, torch.tensor([0.5]), conditions, 3.0)
    return velocity


def _write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(tensors, folder / FILE_NAME)
    return folder


@pytest.mark.parametrize("family", GENERATOR_FAMILIES)
def test_an_adapter_that_diffusers_has_written_is_computed_as_peft_does(
    folder_of: FolderOf, new_generator: NewGenerator, tmp_path: Path, family: GeneratorFamily
):
    """Its scale, alpha over rank, stands in the metadata."""
    theirs = new_generator(family)
    settings = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_v"], init_lora_weights=False)
    theirs.module.add_adapter(settings)
    theirs.module.save_lora_adapter(str(tmp_path))
    tensors = safetensors.torch.load_file(tmp_path / FILE_NAME)
    with safetensors.safe_open(tmp_path / FILE_NAME, framework="pt") as file:  # type: ignore[no-untyped-call]
        metadata = file.metadata()
    if not next(iter(tensors)).startswith("transformer."):  # a network alone leaves the pipeline's prefix out
        tensors = {f"transformer.{name}": value for name, value in tensors.items()}
        safetensors.torch.save_file(tensors, tmp_path / FILE_NAME, metadata=metadata)
    ours = load_generator(folder_of(family), device="cpu", adapter=tmp_path)
    torch.testing.assert_close(_velocity(ours), _velocity(theirs), rtol=0.0, atol=1e-5)
    assert not torch.allclose(_velocity(ours), _velocity(new_generator(family)), atol=1e-3)


def test_a_folder_without_an_adapter_is_named(folder_of: FolderOf, tmp_path: Path):
    with pytest.raises(ModelError, match=r"holds no adapter: there is no pytorch_lora_weights\.safetensors"):
        load_generator(folder_of("sd3"), device="cpu", adapter=tmp_path)


def test_a_damaged_adapter_is_named(folder_of: FolderOf, tmp_path: Path):
    (tmp_path / FILE_NAME).write_bytes(b"broken")
    with pytest.raises(ModelError, match="is no adapter that can be read"):
        load_generator(folder_of("sd3"), device="cpu", adapter=tmp_path)


def test_an_adapter_of_another_generator_is_refused(folder_of: FolderOf, tmp_path: Path):
    own = {f"{LAYER}.lora_A.weight": torch.zeros(2, 5), f"{LAYER}.lora_B.weight": torch.zeros(7, 2)}
    with pytest.raises(ModelError, match=r"changes the layer transformer_blocks\.0\.attn\.to_q, 7 by 5"):
        load_generator(folder_of("sd3"), device="cpu", adapter=_write(tmp_path, own))


@pytest.mark.parametrize("name", ["text_encoder.q.lora_A.weight", f"{LAYER}.hada_w1", f"{LAYER}.lora_magnitude_vector"])
def test_what_is_no_low_rank_update_of_the_network_is_refused(folder_of: FolderOf, tmp_path: Path, name: str):
    with pytest.raises(ModelError, match="only low-rank updates of the velocity network are taken"):
        load_generator(folder_of("sd3"), device="cpu", adapter=_write(tmp_path, {name: torch.zeros(2, 5)}))
