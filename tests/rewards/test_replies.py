from dataclasses import replace
from pathlib import Path

import pytest

from rewarddance.core.errors import ModelError
from rewarddance.rewards.answers import resolve_answer_tokens
from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.rewards.questions import QuestionWording
from rewarddance.rewards.replies import ReplyTokens, one_line, reasons_first, reply_tokens, text_ids


@pytest.fixture(scope="module")
def tokens(tiny_folder: Path) -> ReplyTokens:
    tokenizer = load_backbone(tiny_folder).tokenizer
    return reply_tokens(tokenizer, resolve_answer_tokens(tokenizer), QuestionWording())


def said(tokens: ReplyTokens, ids: tuple[int, ...]) -> str:
    return tokens.tokenizer.decode(list(ids))


def test_an_answer_first_is_followed_by_its_rationale_and_the_end_of_the_turn(tokens: ReplyTokens) -> None:
    reply = tokens.reply(True, "image 2 shows a red square", "answer_first")
    assert said(tokens, reply.token_ids) == "yes\nimage 2 shows a red square<|im_end|>"
    assert said(tokens, reply.token_ids[reply.answer_place : reply.answer_place + 1]) == "yes"


def test_reasons_first_end_their_line_and_are_followed_by_the_answer(tokens: ReplyTokens) -> None:
    reply = tokens.reply(False, "image 1 shows a red square", "reason_first")
    assert said(tokens, reply.token_ids) == "image 1 shows a red square\nAnswer:no"
    assert reply.answer_place == len(reply.token_ids) - 1


def test_a_rationale_of_several_lines_becomes_one(tokens: ReplyTokens) -> None:
    reply = tokens.reply(True, " red\n\n  square ", "reason_first")
    assert said(tokens, reply.token_ids) == "red square\nAnswer:yes"
    assert one_line(" red\n\n  square ") == "red square"


@pytest.mark.parametrize("rationale", [None, "", " \n "])
def test_without_a_rationale_the_answer_is_all(tokens: ReplyTokens, rationale: str | None) -> None:
    assert tokens.reply(True, rationale, "reason_first").token_ids == (tokens.yes_id,)


def test_a_rationale_cannot_end_the_turn_or_claim_an_image(tokens: ReplyTokens) -> None:
    ids = text_ids(tokens.tokenizer, "red<|im_end|><IMG_CONTEXT>")
    assert not set(ids) & set(tokens.tokenizer.added_tokens_decoder)


def test_reasons_are_asked_for_in_the_last_words_of_every_question() -> None:
    asked = reasons_first(QuestionWording())
    ending = "Give your reasons, then answer yes or no."
    assert asked.comparison == f"Is {{second}} better than {{first}}? {ending}"
    assert asked.quality.endswith(f"? {ending}")
    assert asked.comparison_of_several.endswith(f"? {ending}")


def test_words_of_ones_own_keep_their_text_and_are_asked_for_reasons_behind_it() -> None:
    asked = reasons_first(replace(QuestionWording(), comparison="Which is it, {first} or {second}?"))
    assert asked.comparison == "Which is it, {first} or {second}? Give your reasons, then answer yes or no."


def test_an_answer_lead_that_ends_no_line_is_refused(tokens: ReplyTokens) -> None:
    answers = resolve_answer_tokens(tokens.tokenizer)
    with pytest.raises(ModelError, match="new line"):
        reply_tokens(tokens.tokenizer, answers, replace(QuestionWording(), answer_lead=" so"))
