"""A model writes its reasons, and its answer is read after them, or before them.

Every question is read once; its key/value cache is shared by all its rationales. What is drawn depends on the seed
and the question alone, so that a judgement does not depend on what else is in the batch (up to rounding of the forward
pass, which differs between batches by about 1e-6).

Source:
    RewardDance, arXiv:2509.08826 (decision first, or reasons first).
    Differs: the answer is read as log-odds after the rationale instead of as text, and averaged over several.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import JudgementCost
from rewarddance.rewards.backbones.continuation import Continuation
from rewarddance.rewards.backbones.protocol import Backbone, EncodedQuestion
from rewarddance.rewards.paradigm import Paradigm, default_batch_tokens, device_and_dtype, token_batches
from rewarddance.rewards.reasoning_settings import Format, ReasoningSettings
from rewarddance.rewards.replies import ReplyTokens, ends_line, reply_tokens

# Writing takes one short forward pass a token, so that more rows cost little more time.
_MIN_BATCH_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class Reasons:
    """One rationale with the answer that belongs to it.

    Attributes:
        text: None when it did not end within the limit, or was empty.
        log_odds: Of yes; None when it depends on a rationale that is None.
        leaked_mass: Probability outside yes and no where the answer was read; None with `log_odds`.
    """

    text: str | None
    log_odds: float | None
    leaked_mass: float | None


@dataclass(frozen=True, slots=True)
class ReasonedAnswer:
    """All rationales of one question, and what they took."""

    samples: tuple[Reasons, ...]
    cost: JudgementCost


def reason(
    paradigm: Paradigm, questions: Sequence[EncodedQuestion], settings: ReasoningSettings
) -> list[ReasonedAnswer]:
    """Rationales and answers of each question, in order.

    Args:
        paradigm: Reads the answers; its module is in evaluation mode.
        questions: In the words of the format, each object once; no longer than `room_for_question`.
        settings: How reasons are asked for.
    """
    tokens = reply_tokens(paradigm.backbone.tokenizer, paradigm.record.answers, paradigm.record.wording)
    device, dtype = device_and_dtype(paradigm.backbone)
    # Every sample has a cache of its own.
    lengths = [(len(question.token_ids) + settings.max_tokens) * settings.samples for question in questions]
    answers: dict[int, ReasonedAnswer] = {}
    with torch.no_grad():
        for batch in token_batches(lengths, max(default_batch_tokens(device), _MIN_BATCH_TOKENS)):
            asked = [questions[place] for place in batch]
            rows = paradigm.backbone.begin(paradigm.backbone.collate(asked).to(device, dtype))
            written = _answered(paradigm, tokens, rows, asked, settings)
            answers |= dict(zip(batch, written, strict=True))
    return [answers[place] for place in range(len(questions))]


def room_for_question(paradigm: Paradigm, settings: ReasoningSettings) -> int:
    """Longest question after which a whole rationale and an answer still fit, in tokens."""
    tokens = reply_tokens(paradigm.backbone.tokenizer, paradigm.record.answers, paradigm.record.wording)
    around = max(len(tokens.rationale_lead), len(tokens.answer_lead)) + 1
    return paradigm.backbone.max_tokens - settings.max_tokens - around


def _answered(
    paradigm: Paradigm,
    tokens: ReplyTokens,
    rows: Continuation,
    asked: Sequence[EncodedQuestion],
    settings: ReasoningSettings,
) -> list[ReasonedAnswer]:
    """Writes and reads one batch."""
    answered = None
    if settings.format == "answer_first":
        answered = _read(paradigm, rows.hidden)
        yes = torch.tensor([odds > 0 for odds, _ in answered], device=rows.hidden.device)
        answer = torch.where(yes, tokens.yes_id, tokens.no_id)[:, None]
        lead = torch.tensor([tokens.rationale_lead], device=answer.device).expand(len(asked), -1)
        rows.feed(torch.cat([answer, lead.to(answer)], dim=1), torch.ones_like(yes))
    rows.repeat(settings.samples)
    uniforms = np.stack([_uniforms(question, settings, n) for question in asked for n in range(settings.samples)])
    drafts = [_Draft() for _ in uniforms]
    fed = len(tokens.rationale_lead) + 1 if answered else len(tokens.answer_lead)
    for ended, places in _write(paradigm.backbone, rows, drafts, torch.from_numpy(uniforms), settings):
        if answered is None:
            lead = torch.tensor([tokens.answer_lead], device=ended.hidden.device).expand(len(places), -1)
            ended.feed(lead, torch.ones_like(lead[:, 0], dtype=torch.bool))
            for place, read in zip(places, _read(paradigm, ended.hidden), strict=True):
                drafts[place].answer = read
    for draft, read in zip(drafts, answered or (), strict=answered is not None):
        draft.answer = read
    tokenizer = paradigm.backbone.tokenizer
    groups = [drafts[n : n + settings.samples] for n in range(0, len(drafts), settings.samples)]
    return [
        _together(question, [_reasons(tokenizer, draft, settings.format) for draft in group], group, fed)
        for question, group in zip(asked, groups, strict=True)
    ]


@dataclass(slots=True)
class _Draft:
    """One rationale while it is written.

    Attributes:
        token_ids: Without the token that ends it.
        drawn: Tokens that were drawn.
        is_ended: Whether the model ended it.
        answer: Log-odds of yes and the probability outside yes and no, once they were read.
    """

    token_ids: list[int] = field(default_factory=list)
    drawn: int = 0
    is_ended: bool = False
    answer: tuple[float, float | None] | None = None


def _write(
    backbone: Backbone,
    rows: Continuation,
    drafts: Sequence[_Draft],
    uniforms: Float[Tensor, "rows tokens"],
    settings: ReasoningSettings,
) -> Iterator[tuple[Continuation, list[int]]]:
    """Draw tokens until every draft has ended or is too long.

    Yields:
        Rows that have ended, with the places of their drafts: half of all that are left, or the last. Those behind
        them are written without them, so that short rationales do not wait for long ones.
    """
    tokenizer, device = backbone.tokenizer, rows.hidden.device
    head = cast(Any, backbone.model).get_output_embeddings()
    ends = _end_ids(backbone)
    forbidden = torch.tensor(sorted(set(tokenizer.added_tokens_decoder) - ends), dtype=torch.long, device=device)
    places = list(range(len(drafts)))
    for number in range(settings.max_tokens):
        logits = head(rows.hidden).float()
        logits[:, forbidden] = -math.inf
        logits[:, len(tokenizer) :] = -math.inf  # rows of the head that stand for no token
        chosen = _chosen(logits, settings.temperature, uniforms[places, number].to(device))
        for place, token_id in zip(places, chosen.tolist(), strict=True):
            _put(drafts[place], token_id, is_end=token_id in ends or ends_line(tokenizer, token_id))
        is_last = number == settings.max_tokens - 1
        ended = [place for place in places if drafts[place].is_ended]
        if len(ended) == len(places):
            yield rows, places
            return
        has_ended = torch.tensor([drafts[place].is_ended for place in places], device=device)
        if ended and (is_last or 2 * len(ended) >= len(places)):
            yield rows.split_off(has_ended), ended
            places = [place for place in places if not drafts[place].is_ended]
            chosen, has_ended = chosen[~has_ended], has_ended[~has_ended]
        if not is_last:
            rows.feed(chosen[:, None], ~has_ended)


def _put(draft: _Draft, token_id: int, *, is_end: bool) -> None:
    if draft.is_ended:
        return
    draft.drawn += 1
    draft.is_ended = is_end
    if not is_end:
        draft.token_ids.append(token_id)


def _chosen(
    logits: Float[Tensor, "rows vocab"], temperature: float, uniforms: Float[Tensor, " rows"]
) -> Int[Tensor, " rows"]:
    """The most probable tokens, or those at which the cumulative probability passes a number in [0, 1)."""
    if temperature == 0:
        return logits.argmax(-1)
    # float32 sums of a large vocabulary's probabilities would miss the last ones.
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    threshold = uniforms.double()[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return place.clamp(max=logits.shape[-1] - 1)


def _end_ids(backbone: Backbone) -> set[int]:
    """Tokens with which the model ends its turn."""
    configured = cast(Any, backbone.model).generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {int(one) for one in (*listed, backbone.tokenizer.eos_token_id) if one is not None}


def _uniforms(question: EncodedQuestion, settings: ReasoningSettings, sample: int) -> Float[np.ndarray, " tokens"]:
    """One number a token, from the seed and from what is asked and shown."""
    digest = hashlib.sha256(np.array(question.token_ids, dtype=np.int64).tobytes())
    for picture in question.pictures:
        digest.update(picture.pixel_values.detach().float().cpu().numpy().tobytes())
    return numpy_rng(settings.seed, "rationale", digest.hexdigest(), sample).random(settings.max_tokens)


def _read(paradigm: Paradigm, hidden: Float[Tensor, "rows width"]) -> list[tuple[float, float | None]]:
    """Log-odds of yes, and the probability outside yes and no."""
    leaked = paradigm.leaked(hidden)
    masses = [None] * len(hidden) if leaked is None else leaked.tolist()
    return list(zip(paradigm.read(hidden).tolist(), masses, strict=True))


def _reasons(tokenizer: Any, draft: _Draft, form: Format) -> Reasons:
    text = tokenizer.decode(draft.token_ids).strip() if draft.is_ended else ""
    if draft.answer is None or (form == "reason_first" and not text):
        return Reasons(text or None, None, None)
    return Reasons(text or None, *draft.answer)


def _together(
    question: EncodedQuestion, samples: Sequence[Reasons], drafts: Sequence[_Draft], fed: int
) -> ReasonedAnswer:
    cost = JudgementCost(
        questions=1,
        read_tokens=len(question.token_ids) + fed * len(samples),
        generated_tokens=sum(draft.drawn for draft in drafts),
        unfinished_rationales=sum(one.text is None for one in samples),
    )
    return ReasonedAnswer(tuple(samples), cost)
