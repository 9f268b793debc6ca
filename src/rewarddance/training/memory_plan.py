"""What a run of alignment will hold in memory, before anything large is loaded.

Weights, adapters, gradients and optimizer state follow from the shapes in the files' headers and are exact up to
small buffers; activations are estimates, see `activation_sizes`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rewarddance.config.alignment import AlignConfig, GeneratorLoraConfig
from rewarddance.config.alignment_methods import DiffusionNftConfig, DraftConfig, ReflConfig
from rewarddance.core.errors import ModelError, UsageError
from rewarddance.generators.decoding import pictures_decoded_at_once
from rewarddance.rewards.backbones.kept_states import bytes_beside_training
from rewarddance.rewards.folder import RECORD_NAME, MediaSettings
from rewarddance.training.activation_sizes import (
    CLIP_PIPELINES,
    Side,
    decoder_values,
    default_side,
    frame_multiple,
    judge_values,
    passes_per_step,
    transformer_values,
)
from rewarddance.training.judging_models import place_of
from rewarddance.training.trained_parameters import compute_dtype, refuse_large_rank
from rewarddance.training.weight_headers import (
    Shapes,
    StoredFiles,
    adapter_shapes,
    parameters_in,
    read_settings,
    stored_files,
    tensor_shapes,
)

_FLOAT = 4
_LEARNED_COPIES = 4  # float32 weight, gradient, and AdamW's two moments
_NOT_LEARNED = "pos_embed.pos_embed"  # SD3 stores its table of positions, which is computed
_ONE_BY_ONE = ("mean", "soft_min")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that the run loads.

    Attributes:
        name: What the config calls it.
        location: Folder or hub id.
        revision: Of a hub id.
        dtype: Of a reward model's weights; `auto` as when it is loaded.
        kind: In which a reward model is asked, if the config says it.
        adapter: Of a reward model, if it has one; it is merged, and takes no memory of its own.
    """

    name: str
    location: str
    revision: str | None = None
    dtype: str = "auto"
    kind: str | None = None
    adapter: str | None = None

    @property
    def identity(self) -> "StoredModel":
        """What is loaded once, whatever it is called."""
        adapter = None if self.adapter is None else place_of(self.adapter)
        return replace(self, name="", location=place_of(self.location), adapter=adapter)


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """One model of the run; sizes in bytes.

    Attributes:
        name: Which.
        parameters: Stored numbers.
        trained: How many numbers learn, adapters included.
        weights: Frozen weights.
        learning: Weights that learn in float32, their gradients and the optimizer's state.
        copies: Reference policy, averaged weights, and what autocast holds of weights that learn.
        activations: Estimate for the larger of an update and an evaluation.
        kept: The most that is kept of reference images which have been read.
    """

    name: str
    parameters: int
    trained: int
    weights: int
    learning: int
    copies: int
    activations: int
    kept: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.learning + self.copies + self.activations + self.kept


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Parts of a run, and what the machine has.

    Attributes:
        parts: One a model.
        device_bytes: Memory of the GPU; None without one.
        advice: Settings that would save memory, in words.
    """

    parts: tuple[MemoryPart, ...]
    device_bytes: int | None
    advice: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes of all parts together: they stay in memory side by side."""
        return sum(part.total for part in self.parts)


def plan_memory(
    config: AlignConfig, generator: StoredModel, rewards: Sequence[StoredModel], judges: Sequence[StoredModel] = ()
) -> MemoryPlan:
    """Read configs and headers, and add up.

    Args:
        config: The run.
        generator: What is tuned.
        rewards: What it is tuned with, but for those behind a service.
        judges: Held-out judges, likewise.

    Raises:
        ModelError: A model is missing or damaged.
        UsageError: There is no layer for an adapter, or a clip of so many frames cannot be made.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compute = compute_dtype(config.precision, device).itemsize
    frozen = compute if config.generator.dtype == "auto" else _DTYPES[config.generator.dtype].itemsize
    side, parts = _generator_parts(config, generator, frozen, compute)
    has_gradient = isinstance(config.method, ReflConfig | DraftConfig)
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    kept = 0 if config.references.folder is None else 2 * bytes_beside_training(memory)
    for model, uses in _shared({"reward": rewards, "judge": judges}):
        files = stored_files(model.location, model.revision)
        climbed, values = uses["reward"] if has_gradient else 0, 0
        if climbed:
            each = _reward_values(config, read_settings(files, "config.json"), side, _frames_per_clip(files))
            values = climbed * each
        parameters = parameters_in(tensor_shapes(files))
        name = f"{' and '.join(uses)} {model.name}"
        weights = parameters * compute_dtype(model.dtype, device).itemsize
        activations = values * config.batch_size * compute
        parts.append(MemoryPart(name, parameters, 0, weights, 0, 0, activations, kept))
    return MemoryPlan(tuple(parts), memory, memory_advice(config))


def _shared(models: Mapping[str, Sequence[StoredModel]]) -> list[tuple[StoredModel, Counter[str]]]:
    """Each model once, under its first name, with how often it is used as what."""
    named: dict[StoredModel, StoredModel] = {}
    uses: dict[StoredModel, Counter[str]] = defaultdict(Counter)
    for use, those in models.items():
        for model in those:
            named.setdefault(model.identity, model)
            uses[model.identity][use] += 1
    return [(named[identity], used) for identity, used in uses.items()]


def adapter_parameters(shapes: Shapes, lora: GeneratorLoraConfig) -> int:
    """Numbers that adapters add: rank times the two sides of every target matrix.

    Raises:
        UsageError: No matrix has one of the target names, or the rank is larger than any.
    """
    names = "|".join(re.escape(name) for name in lora.target_modules)
    pattern = re.compile(rf"(?:.*\.)?(?:{names})\.weight")
    layers = {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if len(shape) == 2 and pattern.fullmatch(name)
    }
    if not layers:
        raise UsageError(
            f"generator.lora.target_modules {list(lora.target_modules)} name no layer of the velocity network; "
            "take the names of its linear layers"
        )
    refuse_large_rank(lora.rank, layers, "generator.lora.rank")
    return lora.rank * sum(sum(shape) for shape in layers.values())


def _reward_values(config: AlignConfig, settings: Mapping[str, Any], side: Side, frames_per_clip: int) -> int:
    """Activations of one picture's reward, which is asked for once or once for each reference image."""
    count, combine = config.references.count, config.references.combine
    return judge_values(
        settings,
        side,
        config.generator.gradient_checkpointing,
        comparisons=count if combine in _ONE_BY_ONE else 1,
        references=count if combine == "together" else 1,
        frames_per_clip=frames_per_clip,
    )


def _frames_per_clip(files: StoredFiles) -> int:
    """Of the record of a reward model; what it is made with where there is no record."""
    media = read_settings(files, RECORD_NAME).get("media") or {}
    return int(media.get("frames_per_clip", MediaSettings().frames_per_clip))


def _check_frames(frames: int, pipeline: str, multiple: int) -> None:
    """What the loaded generator would refuse."""
    if pipeline not in CLIP_PIPELINES:
        raise UsageError(f"sampling.frames is {frames}, and the generator makes pictures; leave it out")
    if (frames - 1) % multiple:
        raise UsageError(
            f"sampling.frames is {frames}, and the generator's clips have one more than a multiple of {multiple}"
        )


def _generator_parts(
    config: AlignConfig, generator: StoredModel, frozen: int, compute: int
) -> tuple[Side, list[MemoryPart]]:
    files = stored_files(generator.location, generator.revision)
    index = read_settings(files, "model_index.json")
    pipeline = str(index.get("_class_name", ""))
    if "transformer" not in index:
        raise ModelError(
            f"{generator.location} holds no generator with a transformer; give a folder in diffusers' layout"
        )
    transformer, vae = read_settings(files, "transformer/config.json"), read_settings(files, "vae/config.json")
    chosen = config.sampling
    side = default_side(pipeline, transformer, vae)
    if chosen.height is not None and chosen.width is not None:
        side = replace(side, height=chosen.height, width=chosen.width)
    if chosen.frames is not None:
        _check_frames(chosen.frames, pipeline, frame_multiple(vae))
        side = replace(side, frames=chosen.frames)
    is_checkpointed = config.generator.gradient_checkpointing
    has_gradient = isinstance(config.method, ReflConfig | DraftConfig)
    passes = passes_per_step(pipeline, chosen.guidance)
    passes *= config.method.last_steps if isinstance(config.method, DraftConfig) else 1
    values = passes * transformer_values(pipeline, transformer, vae, side, is_checkpointed) * config.batch_size
    # Without gradient one layer at a time is in memory, as when it is computed again.
    evaluated = config.evaluation_batch_size or config.batch_size
    seen = passes_per_step(pipeline, config.for_evaluation.sampling.guidance) * evaluated
    values = max(values, seen * transformer_values(pipeline, transformer, vae, side, is_checkpointed=True))
    parts = [_velocity_network(config, tensor_shapes(files, "transformer"), frozen, compute, values * compute)]
    for name, home in index.items():
        is_model = isinstance(home, list) and home[0] is not None and name != "transformer"
        if is_model and read_settings(files, f"{name}/config.json"):
            parameters = parameters_in(tensor_shapes(files, name))
            held = 0
            if name == "vae":
                held = decoder_values(vae, side, is_checkpointed, has_gradient)
                held *= config.batch_size if has_gradient else 1
                at_once = min(evaluated, pictures_decoded_at_once(side.height, side.width, side.frames))
                held = max(held, decoder_values(vae, side, is_checkpointed, has_gradient=False) * at_once)
            parts.append(MemoryPart(name.replace("_", " "), parameters, 0, parameters * frozen, 0, 0, held * compute))
    return side, parts


def _velocity_network(config: AlignConfig, shapes: Shapes, frozen: int, compute: int, activations: int) -> MemoryPart:
    earlier = 0 if config.generator.adapter is None else parameters_in(adapter_shapes(config.generator.adapter))
    parameters, lora = parameters_in(shapes), config.generator.lora
    own = {name: shape for name, shape in shapes.items() if name != _NOT_LEARNED}
    trained = parameters_in(own) if lora is None else adapter_parameters(shapes, lora)
    kept = parameters if lora is not None else parameters - trained
    copies = 1 if lora is None else 0  # the reference policy; with adapters it is the network without them
    copies += isinstance(config.method, DiffusionNftConfig)  # the policy that made the pictures
    copies += config.makes_references
    return MemoryPart(
        name="transformer",
        parameters=parameters + earlier,
        trained=trained,
        weights=kept * frozen + earlier * _FLOAT,
        learning=trained * _LEARNED_COPIES * _FLOAT,
        copies=copies * trained * _FLOAT + (trained * compute if compute < _FLOAT else 0),
        activations=activations,
    )


def memory_advice(config: AlignConfig) -> tuple[str, ...]:
    """Settings that would save memory, in words: what `--resume` takes, then what needs a new run."""
    return (*advice_for_resume(config), *_advice_for_a_new_run(config))


def advice_for_resume(config: AlignConfig) -> tuple[str, ...]:
    """Settings that would save memory and that a run may be resumed with."""
    advice = []
    if not config.generator.gradient_checkpointing:
        advice.append("generator.gradient_checkpointing=true computes activations again instead of keeping them")
    if config.batch_size > 1:
        advice.append("batch_size=1 with a higher gradient_accumulation keeps the step and divides the activations")
    if (config.evaluation_batch_size or config.batch_size) > 1:
        advice.append("evaluation_batch_size=1 makes the pictures of an evaluation one by one")
    return tuple(advice)


def _advice_for_a_new_run(config: AlignConfig) -> tuple[str, ...]:
    advice = []
    if config.generator.lora is None:
        advice.append("generator.lora trains adapters instead of every weight")
    is_climbed = isinstance(config.method, ReflConfig | DraftConfig)
    if is_climbed and config.references.count > 1 and config.references.combine in _ONE_BY_ONE:
        advice.append("references.combine=random asks about one reference image a step instead of all")
    return tuple(advice)
