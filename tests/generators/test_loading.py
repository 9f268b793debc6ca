import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from rewarddance.core.errors import ModelError, UsageError
from rewarddance.generators.loading import load_generator
from rewarddance.generators.protocol import Generator
from tests.generators.conftest import FolderOf, NewGenerator
from tests.tiny_generators import GENERATOR_FAMILIES, GeneratorFamily, tiny_generator_folder


@pytest.fixture
def copied(folder_of: FolderOf, tmp_path: Path) -> Path:
    """A tiny SD3 that a test may spoil."""
    return Path(shutil.copytree(folder_of("sd3"), tmp_path / "sd3"))


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _refused(folder: Path | str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        load_generator(folder, device="cpu")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("family", GENERATOR_FAMILIES)
def test_a_folder_becomes_a_frozen_generator_of_its_family(generator_of: NewGenerator, family: GeneratorFamily):
    generator = generator_of(family)
    assert isinstance(generator, Generator)
    assert generator.name == family
    modules = [generator.module, *generator.frozen_modules.values()]
    assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())
    assert not any(module.training for module in modules)


def test_the_same_seed_writes_the_same_tiny_generator(folder_of: FolderOf, tmp_path: Path):
    again = tiny_generator_folder("qwen_image", tmp_path / "again")
    for path in sorted(folder_of("qwen_image").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folder_of("qwen_image"))).read_bytes(), path


def test_a_missing_folder_is_named(tmp_path: Path):
    _refused(tmp_path / "nowhere", "nowhere does not exist")


def test_a_hub_id_without_a_connection_is_refused_in_one_line():
    _refused("nobody/nothing", "could not be fetched from the hub")


def test_a_folder_without_an_index_holds_no_generator(tmp_path: Path):
    _refused(tmp_path, r"there is no model_index\.json")


@pytest.mark.parametrize("name", ["OraclePipeline", ["pipeline", "Own"], None])
def test_an_unknown_pipeline_is_refused(copied: Path, name: Any):
    _change(copied / "model_index.json", _class_name=name)
    _refused(copied, "names the pipeline .*; known are FluxPipeline, QwenImagePipeline, StableDiffusion3Pipeline")


def test_a_component_of_another_library_is_refused(copied: Path):
    _change(copied / "model_index.json", vae=["antigravity", "AutoencoderKL"])
    _refused(copied, "takes vae from 'antigravity'; only diffusers and transformers")


@pytest.mark.parametrize("name", ["transformer/weights.bin", "vae/modeling.py", "text_encoder/model.pt"])
def test_pickles_and_code_are_refused(copied: Path, name: str):
    (copied / name).write_bytes(b"")
    _refused(copied, "the folder is not loaded")


def _truncate(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _lose_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def _lose_a_component(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder_2")


def _lose_a_tensor(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["proj_out.weight"]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def _misshape_a_tensor(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["proj_out.weight"] = tensors["proj_out.weight"][:-1].contiguous()
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def _lose_a_text_encoders_tensor(folder: Path) -> None:
    path = folder / "text_encoder_3" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def _garble_the_config(folder: Path) -> None:
    (folder / "transformer" / "config.json").write_text("{")


@pytest.mark.parametrize(
    "spoil",
    [
        _truncate,
        _lose_weights,
        _lose_a_component,
        _lose_a_tensor,
        _misshape_a_tensor,
        _lose_a_text_encoders_tensor,
        _garble_the_config,
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(copied: Path, spoil: Callable[[Path], None]):
    spoil(copied)
    _refused(copied, str(copied))


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2", "vae"])
def test_a_folder_without_a_part_that_its_index_names_is_refused(copied: Path, part: str):
    shutil.rmtree(copied / part)
    _refused(copied, f"has no folder {part}, which model_index.json names")


def test_a_tokenizer_without_words_is_refused(copied: Path):
    for path in (copied / "tokenizer_2").iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    _refused(copied, "tokenizer_2 has no vocabulary")


def test_a_folder_has_no_revision(copied: Path):
    with pytest.raises(UsageError, match="is a folder and has no revision 'main'; leave it out, or give a hub id"):
        load_generator(copied, device="cpu", revision="main")


def test_a_scheduler_of_another_kind_is_refused(copied: Path):
    _change(copied / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler")
    _change(copied / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    _refused(copied, "scheduler is DDIMScheduler; only FlowMatchEulerDiscreteScheduler")


def test_inverted_noise_levels_are_refused(copied: Path):
    _change(copied / "scheduler" / "scheduler_config.json", invert_sigmas=True)
    _refused(copied, "invert_sigmas")


def test_the_package_exports_the_loader(folder_of: FolderOf):
    import rewarddance

    assert rewarddance.load_generator is load_generator


@pytest.mark.parametrize("option", [{"device": "abacus"}, {"dtype": "float7"}])
def test_an_unknown_device_or_precision_is_refused(folder_of: FolderOf, option: dict[str, Any]):
    with pytest.raises(UsageError, match="unknown d"):
        load_generator(folder_of("sd3"), **option)
