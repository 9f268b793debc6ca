"""Rationales speak of image 1 and image 2; shown in the other order, they must speak of image 2 and image 1."""

import re

_NUMBERED = re.compile(r"\b(image|clip|video|picture)( *#?)([12])\b(?!\.\d)", re.IGNORECASE)
_ORDINAL = re.compile(r"\b(first|second)(?= (?:image|clip|video|picture)\b)", re.IGNORECASE)
_OTHER = {"1": "2", "2": "1", "first": "second", "second": "first"}


def with_media_swapped(rationale: str) -> str:
    """The same reasons for two media that have changed places.

    Args:
        rationale: Calls the media "image 1" and "image 2", or "the first image" and "the second image"; also clips,
            videos and pictures. Other names of a place, such as "the former", are left as they are.

    Returns:
        With the numbers exchanged and everything else, case included, as it was; twice gives the text back.
    """
    numbered = _NUMBERED.sub(lambda found: f"{found[1]}{found[2]}{_OTHER[found[3]]}", rationale)
    return _ORDINAL.sub(lambda found: _cased_like(found[0], _OTHER[found[0].lower()]), numbered)


def _cased_like(original: str, word: str) -> str:
    if original.isupper():
        return word.upper()
    return word.capitalize() if original[0].isupper() else word
