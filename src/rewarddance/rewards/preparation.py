"""Judged comparisons become tensors: decoded, preprocessed and tokenised on the CPU, in a worker if there is one."""

from collections.abc import Callable, Sequence

import torch

from rewarddance.core.errors import DataError, MediaError
from rewarddance.core.types import Comparison
from rewarddance.rewards.backbones.protocol import Backbone, EncodedQuestion
from rewarddance.rewards.media_cache import MediaCache
from rewarddance.rewards.paradigm import Paradigm, instruction_for, too_long_message
from rewarddance.rewards.protocol import PreparedComparisons
from rewarddance.rewards.questions import Medium, Question

QuestionMaker = Callable[[str, str, Medium, Medium], tuple[Question, ...]]
"""From criteria, prompt, first and second medium to the questions that a comparison is learned from."""


def prepare(
    paradigm: Paradigm, comparisons: Sequence[Comparison], make_questions: QuestionMaker
) -> PreparedComparisons:
    """One batch of comparisons for the loss.

    Args:
        paradigm: Whose backbone preprocesses; its weights are not touched.
        comparisons: Judged, in the order shown; at least one.
        make_questions: Gives every comparison the same number of questions.

    Returns:
        All first questions, then all second questions, ... in the order of the comparisons.

    Raises:
        ValueError: A comparison is not judged, or there is none.
        DataError: A medium cannot be read or a question is too long; names the comparison.
    """
    targets = [_target(comparison) for comparison in comparisons]
    if not targets:
        raise ValueError("there is nothing to prepare: the batch holds no comparison")
    media = MediaCache(paradigm.backbone, paradigm.record.media.frames_per_clip, capacity=2 * len(targets))
    asked: dict[tuple[str, ...], EncodedQuestion] = {}
    encoded = [_encoded(paradigm, comparison, media, make_questions, asked) for comparison in comparisons]
    by_place = [question for same_place in zip(*encoded, strict=True) for question in same_place]
    return PreparedComparisons(
        ids=tuple(comparison.id for comparison in comparisons),
        questions=paradigm.backbone.collate(by_place),
        targets=torch.tensor(targets, dtype=torch.float32),
        weights=torch.tensor([comparison.weight for comparison in comparisons], dtype=torch.float32),
    )


def _target(comparison: Comparison) -> float:
    if comparison.target is None:
        raise ValueError(f"comparison {comparison.id} is not judged, so nothing can be learned from it; leave it out")
    return comparison.target


def _encoded(
    paradigm: Paradigm,
    comparison: Comparison,
    media: MediaCache,
    make_questions: QuestionMaker,
    asked: dict[tuple[str, ...], EncodedQuestion],
) -> list[EncodedQuestion]:
    """The comparison's questions; one that another comparison of the batch has asked is the same object."""
    criteria = instruction_for(paradigm, comparison.instruction).text
    try:
        first, second = media.get(comparison.first), media.get(comparison.second)
    except MediaError as error:
        raise DataError(f"comparison {comparison.id}: {error}") from error
    questions = make_questions(criteria, comparison.prompt, first, second)
    for question in questions:
        if question.key not in asked:
            asked[question.key] = _checked(paradigm.backbone, question, comparison.id)
    return [asked[question.key] for question in questions]


def _checked(backbone: Backbone, question: Question, comparison_id: str) -> EncodedQuestion:
    encoded = backbone.encode(question.parts)
    if len(encoded.token_ids) > backbone.max_tokens:
        reason = too_long_message(len(encoded.token_ids), backbone.max_tokens)
        raise DataError(f"comparison {comparison_id}: {reason}")
    return encoded
