"""One question in the client's own words: the distribution of the token that answers it."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from rewarddance.core.errors import MediaError, ModelError
from rewarddance.core.media import MediaLimits, load_image
from rewarddance.rewards.backbones.protocol import Backbone, EncodedQuestion
from rewarddance.rewards.module_modes import evaluating
from rewarddance.rewards.paradigm import default_batch_tokens, device_and_dtype, hidden_of, token_batches
from rewarddance.serving.refusals import RefusalCode, RefusedError
from rewarddance.serving.work import ChatWork, NextToken, TokenChance


def next_tokens(backbone: Backbone, works: Sequence[ChatWork], limits: MediaLimits) -> list[NextToken | RefusedError]:
    """One answer a question, in order.

    Args:
        backbone: The vision-language model, with a head over its vocabulary.
        works: The questions.
        limits: Of every image.
    """
    found: dict[int, NextToken | RefusedError] = {}
    encoded: dict[int, EncodedQuestion] = {}
    for place, work in enumerate(works):
        try:
            encoded[place] = _encoded(backbone, work, limits)
        except RefusedError as refused:
            found[place] = refused
    device, _ = device_and_dtype(backbone)
    places = list(encoded)
    lengths = [len(encoded[place].token_ids) for place in places]
    with evaluating(backbone.model), torch.no_grad():
        for batch in token_batches(lengths, default_batch_tokens(device)):
            chosen = [places[index] for index in batch]
            hidden = hidden_of(backbone, [encoded[place] for place in chosen])
            logits = cast(Any, backbone.model).get_output_embeddings()(hidden)
            for place, row in zip(chosen, logits.float().log_softmax(-1), strict=True):  # (vocab,)
                found[place] = _answer(backbone, row, works[place], len(encoded[place].token_ids))
    return [found[place] for place in range(len(works))]


def _encoded(backbone: Backbone, work: ChatWork, limits: MediaLimits) -> EncodedQuestion:
    try:
        encoded = backbone.encode(
            [
                piece if isinstance(piece, str) else backbone.picture_from_image(load_image(piece, limits))
                for piece in work.pieces
            ]
        )
    except MediaError:
        raise RefusedError(RefusalCode.UNREADABLE_MEDIA, "messages") from None
    except ModelError:  # the text holds the family's image token
        raise RefusedError(RefusalCode.FAILED, "messages") from None
    if len(encoded.token_ids) > backbone.max_tokens:
        raise RefusedError(RefusalCode.TOO_LONG, "messages")
    return encoded


def _answer(backbone: Backbone, row: Tensor, work: ChatWork, prompt_tokens: int) -> NextToken | RefusedError:
    if not all(0 <= token_id < len(row) for token_id in work.token_ids):
        return RefusedError(RefusalCode.INVALID_REQUEST, "logprob_token_ids")
    if not math.isfinite(float(row.max())):
        return RefusedError(RefusalCode.NON_FINITE)
    wanted = list(work.token_ids) or row.topk(min(work.alternatives, len(row))).indices.tolist()
    chances = [_chance(backbone, row, token_id, work) for token_id in wanted]
    # A token of probability 0 has no logarithm that JSON could carry.
    possible = tuple(chance for chance in chances if math.isfinite(chance.log_probability))
    return NextToken(_chance(backbone, row, _drawn(row, work), work), possible, prompt_tokens)


def _drawn(row: Tensor, work: ChatWork) -> int:
    if work.temperature == 0:
        return int(row.argmax())
    # On the CPU, so that a seed means the same on every device.
    rng = torch.Generator()
    rng.seed() if work.seed is None else rng.manual_seed(work.seed)
    chances = (row.double().cpu() / work.temperature).softmax(-1)
    return int(torch.multinomial(chances, 1, generator=rng))


def _chance(backbone: Backbone, row: Tensor, token_id: int, work: ChatWork) -> TokenChance:
    name = f"token_id:{token_id}" if work.names_ids else str(backbone.tokenizer.decode([token_id]))
    return TokenChance(name, float(row[token_id]))
