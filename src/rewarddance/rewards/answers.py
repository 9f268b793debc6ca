"""Which tokens of a tokenizer mean yes and no."""

from dataclasses import dataclass
from typing import Any

from rewarddance.core.errors import ModelError


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """Token ids of the two answers; no id is in both.

    Attributes:
        yes_ids: Every single-token spelling of "yes".
        no_ids: Every single-token spelling of "no".
    """

    yes_ids: tuple[int, ...]
    no_ids: tuple[int, ...]

    @property
    def label_ids(self) -> tuple[int, ...]:
        """Yes first, then no: the order of the label rows."""
        return self.yes_ids + self.no_ids


def resolve_answer_tokens(tokenizer: Any) -> AnswerTokens:
    """Finds the spellings of yes and no that the tokenizer has as single tokens.

    Args:
        tokenizer: A transformers tokenizer.

    Returns:
        Ids in ascending order.

    Raises:
        ModelError: One of the two answers has no single-token spelling.
    """
    return AnswerTokens(
        yes_ids=_single_token_ids(tokenizer, "yes"),
        no_ids=_single_token_ids(tokenizer, "no"),
    )


def answer_spellings(word: str) -> tuple[str, ...]:
    """The word in three cases, at the start of a line and after a space."""
    cases = (word, word.capitalize(), word.upper())
    return tuple(spelling for cased in cases for spelling in (cased, f" {cased}"))


def _single_token_ids(tokenizer: Any, word: str) -> tuple[int, ...]:
    """Ids of the spellings that are exactly one token and decode back to the word."""
    ids = set()
    for spelling in answer_spellings(word):
        token_ids = tokenizer(spelling, add_special_tokens=False)["input_ids"]
        # Decoding back rules out the unknown token, which would stand for yes and for no alike.
        if len(token_ids) == 1 and tokenizer.decode(token_ids).strip().lower() == word:
            ids.add(int(token_ids[0]))
    if not ids:
        raise ModelError(
            f'the tokenizer has no single token for "{word}"; '
            "use a model whose tokenizer has one (every supported instruct model does)"
        )
    return tuple(sorted(ids))
