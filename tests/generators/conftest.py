"""Tiny generators of every family, and the diffusers pipelines that they must agree with."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from rewarddance.generators.loading import load_generator
from rewarddance.generators.protocol import ImageSize
from tests.tiny_generators import GeneratorFamily, tiny_generator_folder

FolderOf = Callable[[GeneratorFamily], Path]
NewGenerator = Callable[[GeneratorFamily], Any]

# Not square, so that height and width cannot be confused.
SIZE = ImageSize(32, 48)
PROMPTS = ["a red square", "three yellow stars above one purple hexagon"]
SEEDS = [7, 11]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a family, written once."""
    root = tmp_path_factory.mktemp("generators")
    return cache(lambda family: tiny_generator_folder(family, root / family))


@pytest.fixture(scope="session")
def generator_of(folder_of: FolderOf) -> NewGenerator:
    """A loaded family, for tests that only look."""
    return cache(lambda family: load_generator(folder_of(family), device="cpu"))


@pytest.fixture
def new_generator(generator_of: NewGenerator) -> NewGenerator:
    """A copy of a loaded family, for tests that change it."""
    return lambda family: copy.deepcopy(generator_of(family))


def load_pipeline(folder: Path) -> Any:
    """What diffusers makes of a folder."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pipeline_of(folder_of: FolderOf) -> Callable[[GeneratorFamily], Any]:
    """A family's pipeline, loaded by diffusers."""
    return cache(lambda family: load_pipeline(folder_of(family)))


def rngs() -> list[torch.Generator]:
    """Fresh random number generators with the seeds of the tests."""
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]
