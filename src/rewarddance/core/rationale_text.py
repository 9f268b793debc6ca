"""Rationales speak of image 1 and image 2; shown in the other order, they must speak of image 2 and image 1."""

from rewarddance.core.media_places import places_in

_OTHER = {
    "1": "2",
    "2": "1",
    "first": "second",
    "second": "first",
    "1st": "2nd",
    "2nd": "1st",
    "one": "two",
    "two": "one",
}


def with_media_swapped(rationale: str) -> str:
    """The same reasons for two media that have changed places.

    Args:
        rationale: Calls the media "image 1" and "image 2", "the first image" and "the second", or "image one" and
            "image two"; also clips, videos and pictures. Words that follow the order of the text, such as "the
            former", are left as they are.

    Returns:
        With the places exchanged and everything else, case included, as it was; twice gives the text back.

    Raises:
        ValueError: Something is, or may be, a place that cannot be exchanged; see `can_swap_media`.
    """
    places = places_in(rationale)
    if places.is_in_doubt:
        raise ValueError(f"the rationale names a place that cannot be exchanged for certain: {rationale!r}")
    swapped, end = "", 0
    for start, stop in places.spans:
        place = rationale[start:stop]
        swapped += rationale[end:start] + _cased_like(place, _OTHER[place.lower()])
        end = stop
    return swapped + rationale[end:]


def can_swap_media(rationale: str) -> bool:
    """Whether every place that a text names is certain: of "whereas 2 has none" it is not, nor of "the left image"."""
    return not places_in(rationale).is_in_doubt


def rationale_when_swapped(rationale: str | None) -> str | None:
    """What is left of a rationale when its media change places: none, rather than reasons for the wrong medium."""
    return None if rationale is None or not can_swap_media(rationale) else with_media_swapped(rationale)


def _cased_like(original: str, word: str) -> str:
    if original.isupper():
        return word.upper()
    return word.capitalize() if original[0].isupper() else word
