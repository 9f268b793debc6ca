"""Sentences that say which of two media is better: a rationale gives reasons, and is read without them."""

import re

_MEDIUM = r"(?:image|clip|video|picture|photo)"
_ONE = rf"(?:{_MEDIUM} *#?[12]|the (?:first|second|other|former|latter)(?: {_MEDIUM})?)"
_LINK = r"(?:is|was|are|would be|seems|looks|appears|remains)"
_HOW = r"(?:(?:clearly|therefore|thus|overall|much|slightly|far|the|a|an|also|still|definitely|simply) +)*"
_ABOVE = r"(?:better|best|superior|preferable|preferred|chosen|winner|stronger)"
_STATED = (
    rf"{_ONE} +{_LINK} +{_HOW}{_ABOVE}\b(?! (?:at|in|with)\b)",
    rf"{_ONE} +{_HOW}(?:wins|won|beats|outperforms|should be (?:chosen|preferred))\b",
    rf"\b(?:prefer|preferred|choose|chose|chosen|pick|favou?r)\w* +(?:is +)?{_ONE}",
    rf"\b(?:answer|winner|choice|verdict)\b[^.!?]{{0,20}}(?:{_ONE}|\byes\b|\bno\b)",
    rf"\b(?:better|best|superior|preferred) (?:one|{_MEDIUM}|choice)\b[^.!?]{{0,20}}{_ONE}",
)
_VERDICT = re.compile("|".join(_STATED), re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?;]+(?:[.!?;]+(?=\s|$)|$|[.!?;])")


def without_verdicts(rationale: str) -> str:
    """The reasons alone, on one line.

    Args:
        rationale: Calls the media "image 1" and "image 2", or "the first image" and "the second image".

    Returns:
        Sentences that say which medium is better as a whole are left out ("image 2 is better", "so the answer is
        yes"); reasons that compare in one respect stay ("image 2 is sharper"). Empty when nothing else was said.
    """
    sentences = (found.group().strip() for found in _SENTENCE.finditer(" ".join(rationale.split())))
    return " ".join(sentence for sentence in sentences if sentence and not _VERDICT.search(sentence))
