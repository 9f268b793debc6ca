"""Judged comparisons become tensors: decoded, preprocessed and tokenised on the CPU, in a worker if there is one."""

from collections.abc import Callable, Sequence

import torch

from rewarddance.core.errors import DataError, MediaError
from rewarddance.core.types import Comparison, Media
from rewarddance.rewards.backbones.protocol import Backbone, EncodedQuestion
from rewarddance.rewards.media_cache import MediaCache
from rewarddance.rewards.paradigm import Paradigm, instruction_for, too_long_message
from rewarddance.rewards.protocol import PreparedComparisons
from rewarddance.rewards.questions import Medium, Question, Side

QuestionMaker = Callable[[str, str, Side, Side, Medium | None], tuple[Question, ...]]
"""From criteria, prompt, first and second side, and source to the questions that a comparison is learned from."""


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
    targets = [target_of(comparison) for comparison in comparisons]
    if not targets:
        raise ValueError("there is nothing to prepare: the batch holds no comparison")
    media = media_of(paradigm, comparisons)
    asked: dict[tuple[str, ...], EncodedQuestion] = {}
    encoded = [encode_comparison(paradigm, comparison, media, make_questions, asked) for comparison in comparisons]
    by_place = [question for same_place in zip(*encoded, strict=True) for question in same_place]
    return PreparedComparisons(
        ids=tuple(comparison.id for comparison in comparisons),
        questions=paradigm.backbone.collate_to_learn(by_place),
        targets=torch.tensor(targets, dtype=torch.float32),
        weights=torch.tensor([comparison.weight for comparison in comparisons], dtype=torch.float32),
    )


def target_of(comparison: Comparison) -> float:
    """Preference for the second medium in [0, 1].

    Raises:
        ValueError: The comparison is not judged.
    """
    if comparison.target is None:
        raise ValueError(f"comparison {comparison.id} is not judged, so nothing can be learned from it; leave it out")
    return comparison.target


def encode_comparison(
    paradigm: Paradigm,
    comparison: Comparison,
    media: MediaCache,
    make_questions: QuestionMaker,
    asked: dict[tuple[str, ...], EncodedQuestion],
) -> list[EncodedQuestion]:
    """The comparison's questions; one that another comparison of the batch has asked is the same object."""
    criteria = instruction_for(paradigm, comparison.instruction).text
    try:
        first = _side(media, comparison.first, comparison.beside_first)
        second = _side(media, comparison.second, comparison.beside_second)
        source = None if comparison.source_media is None else media.get(comparison.source_media)
    except MediaError as error:
        raise DataError(f"comparison {comparison.id}: {error}") from error
    questions = make_questions(criteria, comparison.prompt, first, second, source)
    for question in questions:
        if question.key not in asked:
            asked[question.key] = _checked(paradigm.backbone, question, comparison.id)
    return [asked[question.key] for question in questions]


def _side(media: MediaCache, shown: Media, beside: Sequence[Media]) -> Side:
    return tuple(media.get(one) for one in (shown, *beside)) if beside else media.get(shown)


def media_of(paradigm: Paradigm, comparisons: Sequence[Comparison]) -> MediaCache:
    """A cache with room for two or three media of each comparison, and for those beside them."""
    count = sum(3 + len(one.beside_first) + len(one.beside_second) for one in comparisons)
    return MediaCache(paradigm.backbone, paradigm.record.media.frames_per_clip, capacity=count)


def _checked(backbone: Backbone, question: Question, comparison_id: str) -> EncodedQuestion:
    encoded = backbone.encode(question.parts)
    if len(encoded.token_ids) > backbone.max_tokens:
        reason = too_long_message(len(encoded.token_ids), backbone.max_tokens)
        raise DataError(f"comparison {comparison_id}: {reason}")
    return encoded
