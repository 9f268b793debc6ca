"""What is said after a question, as tokens: an answer, an answer and its rationale, or a rationale and its answer.

A rationale is one line of text. It ends with the line, or with the model's turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rewarddance.core.errors import ModelError
from rewarddance.rewards.answers import AnswerTokens
from rewarddance.rewards.questions import QuestionWording
from rewarddance.rewards.reasoning_settings import Format

_SPELLINGS = {True: ("yes", "Yes", " yes", " Yes", "YES", " YES"), False: ("no", "No", " no", " No", "NO", " NO")}


@dataclass(frozen=True, slots=True)
class Reply:
    """Tokens behind a question.

    Attributes:
        token_ids: All of them, in order.
        answer_place: Which of them is the answer.
    """

    token_ids: tuple[int, ...]
    answer_place: int


@dataclass(frozen=True, slots=True)
class ReplyTokens:
    """The fixed tokens of a model's replies.

    Attributes:
        tokenizer: Of the model.
        yes_id: The spelling of yes that is written; every spelling is read.
        no_id: The same for no.
        end_id: Ends the model's turn.
        rationale_lead: Between an answer and its rationale.
        answer_lead: Between a rationale and its answer; begins a new line.
    """

    tokenizer: Any
    yes_id: int
    no_id: int
    end_id: int
    rationale_lead: tuple[int, ...]
    answer_lead: tuple[int, ...]

    def answer_id(self, is_yes: bool) -> int:
        """The answer as it is written."""
        return self.yes_id if is_yes else self.no_id

    def reply(self, is_yes: bool, rationale: str | None, form: Format) -> Reply:
        """What is to be said: the answer alone when there is no rationale."""
        answer = self.answer_id(is_yes)
        words = () if rationale is None else text_ids(self.tokenizer, one_line(rationale))
        if not words:
            return Reply((answer,), 0)
        if form == "answer_first":
            return Reply((answer, *self.rationale_lead, *words, self.end_id), 0)
        return Reply((*words, *self.answer_lead, answer), len(words) + len(self.answer_lead))


def reply_tokens(tokenizer: Any, answers: AnswerTokens, wording: QuestionWording) -> ReplyTokens:
    """The fixed tokens of a model's replies.

    Raises:
        ModelError: The tokenizer cannot end a turn, or `answer_lead` does not begin with a token that ends a line.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no token that ends a turn; use an instruct model")
    answer_lead = text_ids(tokenizer, wording.answer_lead)
    if not answer_lead or not ends_line(tokenizer, answer_lead[0]):
        raise ModelError(f"answer_lead {wording.answer_lead!r} does not begin a new line; rationales could not end")
    return ReplyTokens(
        tokenizer=tokenizer,
        yes_id=_spelled(tokenizer, answers.yes_ids, is_yes=True),
        no_id=_spelled(tokenizer, answers.no_ids, is_yes=False),
        end_id=int(tokenizer.eos_token_id),
        rationale_lead=text_ids(tokenizer, wording.rationale_lead),
        answer_lead=answer_lead,
    )


def reasons_first(wording: QuestionWording) -> QuestionWording:
    """The same questions, asked for reasons before the answer."""
    old, new = wording.answer_request, wording.reasons_request
    return replace(
        wording,
        comparison=_asking(wording.comparison, old, new),
        comparison_of_several=_asking(wording.comparison_of_several, old, new),
        quality=_asking(wording.quality, old, new),
    )


def one_line(rationale: str) -> str:
    """A rationale without line breaks and double spaces, as it is learned."""
    return " ".join(rationale.split())


def text_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Tokens of text that is not the template's: what looks like a special token is spelled out."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return tuple(int(token_id) for token_id in encoded["input_ids"])


def ends_line(tokenizer: Any, token_id: int) -> bool:
    """Whether a token holds a line break, alone or beside other characters."""
    return "\n" in tokenizer.decode([token_id])


def _asking(text: str, old: str, new: str) -> str:
    return f"{text.removesuffix(old).rstrip()} {new}"


def _spelled(tokenizer: Any, known: Sequence[int], *, is_yes: bool) -> int:
    spellings = {tokenizer.decode([token_id]): token_id for token_id in known}
    return next((spellings[word] for word in _SPELLINGS[is_yes] if word in spellings), known[0])
