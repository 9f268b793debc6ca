"""How many activation values a step of alignment keeps for the backward pass: estimates from shapes, not measurements.

They are meant to tell a run that fits from one that does not, within a factor of about two. Attention is taken to run
in fused kernels, which keep no matrix of tokens by tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_VALUES_PER_TOKEN_AND_WIDTH = 17
"""Values that one transformer layer keeps for each token and each unit of its width.

Source: Korthikanti et al., arXiv:2205.05198, section 4.1: 34 bytes in 16 bit, without the attention matrix.
"""
_VALUES_OF_A_FAMILY: Mapping[str, int] = {"WanPipeline": 24}
"""The same where a layer has more: Wan's attends to the prompt apart, and takes norms and gates in float32.

Measured by the saved bytes of layers of Wan 2.1 1.3B on tensors without storage, with a fused attention.
"""
CLIP_PIPELINES = frozenset({"WanPipeline"})
"""Pipelines that make clips; all others make pictures."""
_MAPS_PER_RESNET = 6
"""Maps that one residual block of a decoder keeps: input, and of each half the norm, the activation and the output."""
_FLOAT_SHARE = 1.75
"""Autocast takes the norms of a decoder in float32: what a value in 16 bit comes to on average."""
_MAPS_HELD: Mapping[str, int] = {"block_out_channels": 5, "dim_mult": 9}
"""Maps of the largest block that are there at once without gradient; a decoder of videos pads each in time as well.

Measured by the live bytes of the decoders of Stable Diffusion 3 and Qwen-Image on tensors without storage.
"""
_PROMPT_TOKENS: Mapping[str, int] = {
    "StableDiffusion3Pipeline": 77 + 256,
    "FluxPipeline": 512,
    "QwenImagePipeline": 256,
}
"""Tokens of the prompt in the sequence of the picture's; Wan's stand apart."""
_DEFAULT_CLIP = (480, 832, 81)
_FRAMES_AT_ONCE = 4
"""A decoder of clips goes from latent frame to latent frame, each of so many frames."""
_WITHOUT_SECOND_PASS = frozenset({"FluxPipeline"})
_QUESTION_TOKENS = 256
_PATCHED = 2  # FLUX packs 2 x 2 latents without saying so in its config


@dataclass(frozen=True, slots=True)
class Side:
    """Height and width of a picture, in pixels, and how many of them a clip has."""

    height: int
    width: int
    frames: int = 1


def latent_factor(vae: Mapping[str, Any]) -> int:
    """How many pixels a side of a latent stands for; 1 without a decoder."""
    if "block_out_channels" in vae:
        return int(2 ** (len(vae["block_out_channels"]) - 1))
    return int(2 ** len(vae["temperal_downsample"])) if "temperal_downsample" in vae else 1


def frame_multiple(vae: Mapping[str, Any]) -> int:
    """How many frames share a latent frame, but for the first, which has its own; 1 for a decoder of pictures."""
    return int(2 ** sum(map(bool, vae.get("temperal_downsample", ()))))


def default_side(pipeline: str, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Side:
    """The size that a generator makes unless told otherwise."""
    if pipeline in CLIP_PIPELINES:
        return Side(*_DEFAULT_CLIP)
    latents = transformer.get("sample_size") if pipeline != "FluxPipeline" else None
    side = int(latents or 128) * latent_factor(vae)
    return Side(side, side)


def transformer_values(
    pipeline: str, transformer: Mapping[str, Any], vae: Mapping[str, Any], side: Side, is_checkpointed: bool
) -> int:
    """Values that the pass of one picture or clip through the velocity network keeps.

    Args:
        pipeline: Class name of the pipeline.
        transformer: Its config.
        vae: Config of the decoder; empty for a generator without one.
        side: Of the picture.
        is_checkpointed: Only the input of each layer is kept, and one layer at a time is computed again.
    """
    width = int(transformer.get("num_attention_heads", 0)) * int(transformer.get("attention_head_dim", 0))
    layers = int(transformer.get("num_layers", 0)) + int(transformer.get("num_single_layers", 0))
    sides = transformer.get("patch_size", 1)
    patch = _PATCHED if pipeline == "FluxPipeline" else int(sides[-1] if isinstance(sides, list) else sides)
    cell = latent_factor(vae) * patch
    latent_frames = (side.frames - 1) // frame_multiple(vae) + 1
    tokens = latent_frames * (side.height // cell) * (side.width // cell) + _PROMPT_TOKENS.get(pipeline, 0)
    return _layers(
        tokens, width, layers, is_checkpointed, _VALUES_OF_A_FAMILY.get(pipeline, _VALUES_PER_TOKEN_AND_WIDTH)
    )


def passes_per_step(pipeline: str, guidance: float | None) -> int:
    """Passes through the velocity network at one denoising step: a second one for guidance by the empty prompt."""
    return 1 if pipeline in _WITHOUT_SECOND_PASS or guidance == 1 else 2


def decoder_values(vae: Mapping[str, Any], side: Side, is_checkpointed: bool, has_gradient: bool) -> int:
    """Values that decoding one picture or clip keeps with gradient, or holds at once without."""
    if "block_out_channels" in vae:
        channels = [int(width) for width in vae["block_out_channels"]]
        resnets = int(vae.get("layers_per_block", 2)) + 1
    elif "dim_mult" in vae:
        channels = [int(vae["base_dim"]) * int(factor) for factor in vae["dim_mult"]]
        resnets = int(vae.get("num_res_blocks", 2)) + 1
    else:
        return 0
    # The first width belongs to the full size; each further one to half the side of the one before. A block works at
    # its size on what comes from the coarser one: that one's width counts for half of its first residual block, and
    # for the map before and after its enlargement.
    pixels = [(side.height >> level) * (side.width >> level) for level in range(len(channels))]
    frames = _frames_by_level(side.frames if has_gradient else min(side.frames, _FRAMES_AT_ONCE), vae, len(channels))
    pixels = [size * count for size, count in zip(pixels, frames, strict=True)]
    before = [*channels[1:], channels[-1]]
    kind = "dim_mult" if "dim_mult" in vae else "block_out_channels"
    if not has_gradient:
        return _MAPS_HELD[kind] * max(width * size for width, size in zip(before, pixels, strict=True))
    half = _MAPS_PER_RESNET // 2
    kept = [
        int(_FLOAT_SHARE * size * (half * (wide + width) + (resnets - 1) * _MAPS_PER_RESNET * width + 2 * wide))
        for wide, width, size in zip(before, channels, pixels, strict=True)
    ]
    # A decoder without checkpoints of its own is one as a whole: in the backward pass all of it is there.
    is_in_parts = is_checkpointed and kind == "block_out_channels"
    inputs = sum(width * size for width, size in zip(before, pixels, strict=True))
    return inputs + max(kept) if is_in_parts else sum(kept)


def judge_values(
    config: Mapping[str, Any],
    side: Side,
    is_checkpointed: bool,
    comparisons: int = 1,
    references: int = 1,
    frames_per_clip: int = 1,
) -> int:
    """Values that judging one picture or clip in both orders keeps.

    Args:
        config: Of the vision-language model.
        side: Of the picture.
        is_checkpointed: Only the input of each layer is kept, and one layer at a time is computed again.
        comparisons: How often it is compared.
        references: Reference images in each comparison.
        frames_per_clip: Frames that the model looks at, of a clip that has more.
    """
    frames = min(side.frames, frames_per_clip) if side.frames > 1 else 1
    text = config.get("text_config") or config
    vision = config.get("vision_config") or {}
    picture = _picture_tokens(config, vision, side)
    tokens = (1 + references) * frames * picture + _QUESTION_TOKENS
    language = _layers(tokens, _width(text), _depth(text), is_checkpointed)
    patch = vision.get("patch_size", 14)
    cell = int(patch[0] if isinstance(patch, list) else patch)
    tower = _layers((side.height // cell) * (side.width // cell), _width(vision), _depth(vision), is_checkpointed)
    return comparisons * (2 * language + frames * tower)


def _frames_by_level(frames: int, vae: Mapping[str, Any], levels: int) -> list[int]:
    """Frames of a clip at the full size, and at each coarser one: some levels also halve their number."""
    halved = [*vae.get("temperal_downsample", ()), *(False for _ in range(levels))]
    counts = [frames]
    for is_halved in halved[: levels - 1]:
        counts.append((counts[-1] - 1) // 2 + 1 if is_halved else counts[-1])
    return counts


def _layers(
    tokens: int, width: int, layers: int, is_checkpointed: bool, values: int = _VALUES_PER_TOKEN_AND_WIDTH
) -> int:
    whole = values * tokens * width
    return layers * tokens * width + whole if is_checkpointed else layers * whole


def _picture_tokens(config: Mapping[str, Any], vision: Mapping[str, Any], side: Side) -> int:
    if "image_seq_length" in config:
        return int(config["image_seq_length"])
    patch = vision.get("patch_size", 14)
    cell = int(patch[0] if isinstance(patch, list) else patch)
    cell *= int(vision.get("spatial_merge_size") or config.get("scale_factor") or 2)
    return max(1, (side.height // cell) * (side.width // cell))


def _width(config: Mapping[str, Any]) -> int:
    return int(config.get("hidden_size") or config.get("embed_dim") or 0)


def _depth(config: Mapping[str, Any]) -> int:
    return int(config.get("num_hidden_layers") or config.get("depth") or 0)
