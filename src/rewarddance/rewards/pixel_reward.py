"""The differentiable reward: from pixels that a generator made to log-odds that it can climb.

Gradients reach the pixels and nothing else: the reward model's parameters take no part, whatever their
`requires_grad` says before and afterwards.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from rewarddance.core.clips import frame_positions
from rewarddance.core.errors import UsageError
from rewarddance.core.whole_text import prompt_flaw
from rewarddance.rewards.backbones.protocol import EncodedQuestion
from rewarddance.rewards.module_modes import evaluating, frozen
from rewarddance.rewards.paradigm import (
    Paradigm,
    hidden_of,
    instruction_for,
    reference_groups,
    refuse_unknown_modes,
    too_long_message,
)
from rewarddance.rewards.pixel_batch import refuse_other_pixels
from rewarddance.rewards.protocol import ReferenceMode
from rewarddance.rewards.questions import Medium

_CLIP_AXES = 5


def pixel_reward(
    paradigm: Paradigm,
    pixels: Float[Tensor, "batch *frames channels height width"],
    prompts: Sequence[str],
    reference_pixels: Float[Tensor, "batch *more channels height2 width2"] | None = None,
    instruction: str | Path | None = None,
    reference_mode: ReferenceMode | None = None,
) -> Float[Tensor, " batch"]:
    """Log-odds of each sample, with gradient down to `pixels` and `reference_pixels`.

    Args:
        paradigm: The reward model; its order mode holds here too.
        pixels: Candidates, float RGB in [0, 1]. Of a clip, as many evenly spaced frames are looked at as of a file
            (`frames_per_clip` of the model's media); the gradient by the others is 0.
        prompts: One a candidate.
        reference_pixels: What each is judged against; may differ in size. Several reference images of each candidate
            have an axis of their own after the batch. None only for a model that needs none.
        instruction: Name or file of criteria; None for the model's own.
        reference_mode: Show several reference images in one question, or one by one and take the mean log-odds; None
            for the model's own.

    Returns:
        Unbounded, in float32 or better. Not finite where the model's answer is not: the caller's guard decides.

    Raises:
        UsageError: Counts that do not match, pixels in another layout or range, a prompt that is no text, an unknown
            instruction or mode, or a question too long for the model.
    """
    refuse_unknown_modes(None, reference_mode)
    if isinstance(prompts, str):
        raise UsageError("prompts is one text; give a list with one prompt a picture")
    if not prompts:
        raise UsageError("there is nothing to reward: the batch is empty")
    if len(prompts) != len(pixels) or (reference_pixels is not None and len(reference_pixels) != len(pixels)):
        raise UsageError(f"{len(pixels)} candidates need as many prompts and, if any, reference images")
    for flaw in filter(None, map(prompt_flaw, prompts)):
        raise UsageError(flaw)
    refuse_other_pixels(pixels, _CLIP_AXES)
    if reference_pixels is not None:
        refuse_other_pixels(reference_pixels, _CLIP_AXES + 1)
    criteria = instruction_for(paradigm, instruction).text
    with evaluating(paradigm.module), frozen(paradigm.module):
        candidates = _media(paradigm, pixels, is_passing=True)
        references: list[list[Medium]] = [[] for _ in candidates]
        if reference_pixels is not None:
            several = reference_pixels if reference_pixels.ndim > pixels.ndim else reference_pixels[:, None]
            shown_before = _media(paradigm, several.flatten(0, 1))
            count = several.shape[1]
            references = [shown_before[row * count : (row + 1) * count] for row in range(len(candidates))]
        mode = reference_mode or paradigm.record.reference_mode
        asked = [
            paradigm.questions(criteria, prompt, candidate, shown, paradigm.record.order_mode)
            for prompt, candidate, own in zip(prompts, candidates, references, strict=True)
            for shown in reference_groups(own, mode)
        ]
        encoded = [paradigm.backbone.encode(question.parts) for questions in asked for question in questions]
        log_odds = _log_odds(paradigm, encoded)  # (batch * groups * questions,)
        by_group = paradigm.combine(log_odds.reshape(len(asked), -1).T)  # (batch * groups,)
        return by_group.reshape(len(candidates), -1).mean(1)


def _media(
    paradigm: Paradigm, samples: Float[Tensor, "batch *frames channels height width"], is_passing: bool = False
) -> list[Medium]:
    """All samples are of one size, so that their frames are resized in one go."""
    is_clip = samples.ndim == _CLIP_AXES
    if is_clip:
        samples = _frames_looked_at(samples, paradigm.record.media.frames_per_clip)
    made = paradigm.backbone.pictures_from_pixels(samples.flatten(0, 1) if is_clip else samples)
    pictures = [replace(one, is_passing=is_passing) for one in made]
    frames = len(pictures) // len(samples)
    return [Medium("", tuple(pictures[row * frames : (row + 1) * frames]), is_clip) for row in range(len(samples))]


def _frames_looked_at(
    clips: Float[Tensor, "batch frames channels height width"], count: int
) -> Float[Tensor, "batch fewer channels height width"]:
    """Those that would be decoded of a file."""
    chosen = frame_positions(clips.shape[1], count)
    return clips if len(chosen) == clips.shape[1] else clips[:, list(chosen)]


def _log_odds(paradigm: Paradigm, questions: Sequence[EncodedQuestion]) -> Float[Tensor, " questions"]:
    lengths = [len(question.token_ids) for question in questions]
    limit = paradigm.backbone.max_tokens
    if max(lengths) > limit:
        raise UsageError(too_long_message(max(lengths), limit))
    return paradigm.read(hidden_of(paradigm.backbone, questions))
