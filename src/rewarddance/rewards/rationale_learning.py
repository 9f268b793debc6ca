"""Comparisons with rationales become tensors and a loss: what the model is to say after its question.

Both formats share a batch. Answer first asks the question that is asked in judging, so that what the model learns from
a rationale shapes the very token that its reward is read from.

Source:
    RewardDance, arXiv:2509.08826 (decision first, or reasons first); the weighting is that of `objectives.rationale`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import DataError
from rewarddance.core.types import Comparison
from rewarddance.objectives.answer_token import answer_cross_entropy
from rewarddance.objectives.distillation import answer_divergence, with_teacher
from rewarddance.objectives.rationale import answer_and_rationale_loss, token_cross_entropy
from rewarddance.rewards.backbones.protocol import EncodedQuestion
from rewarddance.rewards.paradigm import Paradigm, too_long_message
from rewarddance.rewards.preparation import QuestionMaker, encode_comparison, media_of, target_of
from rewarddance.rewards.protocol import LossSettings, PreparedComparisons, RationaleTargets
from rewarddance.rewards.questions import QuestionWording
from rewarddance.rewards.reasoning_settings import Format
from rewarddance.rewards.replies import Reply, reasons_first, reply_tokens

_NOT_LEARNED = -100
_TIE = 0.5


def prepare_with_rationales(
    paradigm: Paradigm,
    comparisons: Sequence[Comparison],
    formats: Sequence[Format],
    makers_for: Callable[[QuestionWording], QuestionMaker],
) -> PreparedComparisons:
    """One batch of comparisons and their rationales for the loss.

    Args:
        paradigm: Whose backbone preprocesses; its weights are not touched.
        comparisons: Judged, in the order shown; at least one.
        formats: Of each. A comparison without a rationale, a tie, and one of more than two media are asked for their
            answer alone.
        makers_for: From the words of the format to what makes one question of a comparison.

    Raises:
        ValueError: A comparison is not judged, or there is none.
        DataError: A medium cannot be read, or a question with its reply is too long; names the comparison.
    """
    targets = [target_of(comparison) for comparison in comparisons]
    if not targets:
        raise ValueError("there is nothing to prepare: the batch holds no comparison")
    wording = paradigm.record.wording
    tokens = reply_tokens(paradigm.backbone.tokenizer, paradigm.record.answers, wording)
    makers = {"answer_first": makers_for(wording), "reason_first": makers_for(reasons_first(wording))}
    asked: dict[Format, dict[tuple[str, ...], EncodedQuestion]] = {"answer_first": {}, "reason_first": {}}
    media = media_of(paradigm, comparisons)
    questions: list[EncodedQuestion] = []
    replies: list[Reply] = []
    used: list[Format] = []
    for comparison, target, wanted in zip(comparisons, targets, formats, strict=True):
        reply = tokens.reply(target > _TIE, _rationale(comparison, target), wanted)
        form: Format = wanted if len(reply.token_ids) > 1 else "answer_first"
        (question,) = encode_comparison(paradigm, comparison, media, makers[form], asked[form])
        questions.append(_with_reply(question, reply, paradigm.backbone.max_tokens, comparison.id))
        replies.append(reply)
        used.append(form)
    return PreparedComparisons(
        ids=tuple(comparison.id for comparison in comparisons),
        questions=paradigm.backbone.collate(questions),
        targets=torch.tensor(targets, dtype=torch.float32),
        weights=torch.tensor([comparison.weight for comparison in comparisons], dtype=torch.float32),
        rationales=_targets_of(replies, used),
    )


def rationale_loss(
    paradigm: Paradigm, prepared: PreparedComparisons, targets: RationaleTargets, settings: LossSettings
) -> tuple[Float[Tensor, " comparisons"], Float[Tensor, " comparisons"]]:
    """Log-odds of each answer, and the weighted loss of answer and rationale, both with gradient."""
    hidden = paradigm.backbone.last_hidden(prepared.questions, targets.token_ids.shape[1])
    rows = torch.arange(len(hidden), device=hidden.device)
    log_odds = paradigm.read(hidden[rows, targets.answer_places])
    answer = answer_cross_entropy(log_odds, prepared.targets, settings.label_smoothing)
    is_learned = targets.token_ids != _NOT_LEARNED
    # The head is the widest layer of all: it sees the positions of rationales only.
    logits = cast(Any, paradigm.backbone.model).get_output_embeddings()(hidden[is_learned])  # (learned, vocab)
    tokens = token_cross_entropy(logits, targets.token_ids[is_learned])
    return log_odds, answer_and_rationale_loss(answer, tokens, is_learned, settings.rationale_answer_weight)


def taught_loss(
    loss: Float[Tensor, " comparisons"],
    log_odds: Float[Tensor, " comparisons"],
    prepared: PreparedComparisons,
    settings: LossSettings,
) -> Float[Tensor, " comparisons"]:
    """The loss with the teacher's share, where a teacher has answered; as it is without a teacher.

    Answers that the model gives behind a rationale are left alone: what is distilled is the one token. Where nobody has
    chosen, the teacher's share is the whole, and 0 where the teacher gave no answer either.
    """
    teacher = prepared.teacher
    if teacher is None:
        return loss
    is_taught = teacher.is_known
    if prepared.rationales is not None:
        is_taught = is_taught & ~prepared.rationales.is_reason_first
    divergence = answer_divergence(log_odds, teacher.log_odds, settings.teacher_temperature)
    taught = with_teacher(loss, divergence, is_taught, settings.teacher_weight)
    return torch.where(teacher.is_alone, torch.where(is_taught, divergence, 0.0), taught)


def _rationale(comparison: Comparison, target: float) -> str | None:
    # It numbers two media, and is for a choice between them.
    shows_more = bool(comparison.beside_first or comparison.beside_second)
    return None if shows_more or target == _TIE else comparison.rationale


def _with_reply(question: EncodedQuestion, reply: Reply, max_tokens: int, comparison_id: str) -> EncodedQuestion:
    # The last token of a reply is predicted and never read.
    said = reply.token_ids[:-1]
    if not said:
        return question
    whole = replace(question, token_ids=question.token_ids + said)
    if len(whole.token_ids) > max_tokens:
        reason = too_long_message(len(whole.token_ids), max_tokens)
        raise DataError(f"comparison {comparison_id} with its rationale: {reason}, or the rationale")
    return whole


def _targets_of(replies: Sequence[Reply], formats: Sequence[Format]) -> RationaleTargets:
    """Replies at the right edge of the batch, where left-padded questions have them."""
    longest = max(len(reply.token_ids) for reply in replies)
    rows, places = [], []
    for reply in replies:
        learned = list(reply.token_ids)
        learned[reply.answer_place] = _NOT_LEARNED
        padding = longest - len(learned)
        rows.append([_NOT_LEARNED] * padding + learned)
        places.append(padding + reply.answer_place)
    return RationaleTargets(
        token_ids=torch.tensor(rows, dtype=torch.long),
        answer_places=torch.tensor(places, dtype=torch.long),
        is_reason_first=torch.tensor([form == "reason_first" for form in formats]),
    )
