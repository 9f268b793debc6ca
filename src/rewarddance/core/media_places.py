"""Where a rationale names one of two media by its place, and whether it leaves any doubt.

"Image 2", "images 1 and 2", "the second clip", "the first lacks it" and "in #2" are places; "2 circles" and "the second
circle" count things of one picture. Between the two stand words that may be either ("whereas 2 has none"), and places
without a number ("the left image"): they are in doubt. English only.
"""

import re
from dataclasses import dataclass
from itertools import pairwise, takewhile

from rewarddance.core.place_words import (
    ARTICLES,
    COUNTED_AFTER,
    COUNTING,
    COUNTS,
    DETERMINERS,
    DIGITS,
    GOES_ON,
    JOINS,
    LEADS,
    LINKS,
    LITTLE_WORDS,
    NOT_COUNTED,
    NOUNS,
    ORDINALS,
    OTHER_NAMES,
    OTHER_PLACES,
    PLURAL_VERBS,
    SIGNS,
    SPELLED,
    STOPS,
    VERBS,
    Reading,
)

_NO_NOUN = re.compile(r".*[^su]s|.{3,}ed|.+ing|.+ly")


@dataclass(frozen=True, slots=True)
class MediaPlaces:
    """Places that a text names.

    Attributes:
        spans: Where the words stand that change when the media change places ("2", "first", "one").
        is_in_doubt: Whether something else is, or may be, a place as well.
    """

    spans: tuple[tuple[int, int], ...]
    is_in_doubt: bool


def places_in(rationale: str) -> MediaPlaces:
    """Find every place that is named."""
    reading = Reading.of(rationale)
    for place in range(len(reading.tokens)):
        word = reading.word(place)
        if word in DIGITS:
            _read_digit(reading, place)
        elif word in SPELLED:
            _read_spelled(reading, place)
        elif word in ORDINALS:
            _read_ordinal(reading, place)
        else:
            reading.is_in_doubt |= _is_another_name(reading, place)
    is_in_doubt = reading.is_in_doubt or _mixes_styles(reading) or _may_be_things(reading)
    spans = tuple(reading.tokens[place].span() for place in sorted(reading.named | reading.bare))
    return MediaPlaces(spans, is_in_doubt)


def _read_digit(reading: Reading, place: int) -> None:
    before, after = reading.word(place - 1), reading.word(place + 1)
    head, joined = _head(reading, place), _joined_to(reading, place)
    if _is_part_of_more(reading, place):
        reading.is_in_doubt |= head is not None
    elif head is not None:
        # "In the image 2 dogs play" is about one image.
        reading.take(place, is_certain=_is_plural(reading, head) or reading.word(head - 1) not in ARTICLES)
    elif joined in reading.named and reading.word(joined) in DIGITS:
        is_plural = _is_plural(reading, _head(reading, joined))
        reading.take(place, is_certain=is_plural or before == "#" or _ends_or_goes_on(after))
    elif before == "#":
        reading.take(place, is_certain=reading.word(place - 2) in STOPS | LEADS)
    else:
        is_noun = after.isalpha() and after not in VERBS | LINKS | LITTLE_WORDS
        is_counted = before in COUNTING and after in STOPS | {","}
        reading.is_in_doubt |= not (is_counted or (is_noun and before in COUNTING | COUNTED_AFTER))


def _read_spelled(reading: Reading, place: int) -> None:
    word, before, after = reading.word(place), reading.word(place - 1), reading.word(place + 1)
    head, joined = _head(reading, place), _joined_to(reading, place)
    if head is not None and _is_plural(reading, head):
        reading.take(place, is_certain=after in JOINS and reading.word(place + 2) in SPELLED)
    elif head is not None:
        # "The image one sees" has no number.
        reading.take(place, is_certain=reading.word(head - 1) in STOPS | LEADS)
    elif joined in reading.named and reading.word(joined) in SPELLED:
        is_plural = _is_plural(reading, _head(reading, joined))
        reading.take(place, is_certain=is_plural or _ends_or_goes_on(after))
    else:
        is_subject = word == "two" and after.endswith("s") and after in VERBS
        reading.is_in_doubt |= is_subject or before == "number"


def _read_ordinal(reading: Reading, place: int) -> None:
    before, after = reading.word(place - 1), reading.word(place + 1)
    other = place + (3 if reading.word(place + 2) == "the" else 2)
    end = other if after in JOINS and reading.word(other) in ORDINALS else place
    if reading.is_medium(end + 1):
        reading.named.add(place)
    elif after == "-" and reading.is_glued(place):
        return
    elif before == "the" or (before in JOINS and place - 2 in reading.bare):
        _read_bare_ordinal(reading, place, end)
    elif not (before in DETERMINERS or (before in STOPS and after == ",")):
        reading.is_in_doubt |= not _counts_a_thing(reading, place)


def _read_bare_ordinal(reading: Reading, place: int, end: int) -> None:
    """The first, the second one: a place where the sentence goes on as behind a name."""
    behind = end + 2 if reading.word(end + 1) == "one" else end + 1
    after = reading.word(behind)
    goes_on = after == "," and reading.word(behind + 1) in GOES_ON
    are_both = end > place or bool({place - 2, place - 3} & reading.bare)
    if goes_on or after in STOPS | VERBS | LINKS | {"'"} or (are_both and after in PLURAL_VERBS):
        reading.bare.add(place)
    else:
        reading.things.add(place)
        reading.is_in_doubt |= behind > place + 1 or not _counts_a_thing(reading, place)


def _is_another_name(reading: Reading, place: int) -> bool:
    """Whether a word begins or ends a name of a place that cannot be exchanged: image A, option 3, the left image."""
    word, after = reading.word(place), reading.word(place + 1)
    is_lettered = place + 1 < len(reading.tokens) and reading.tokens[place + 1].group() in ("A", "B")
    if reading.is_medium(place):
        after = reading.word(place + 2) if after == "#" else after
        is_beside = reading.word(place + 2) == "the" and reading.word(place + 3) in ("left", "right")
        return is_lettered or (after.isdigit() and after not in DIGITS) or (after in ("on", "to", "at") and is_beside)
    if word.removesuffix("s") in OTHER_NAMES:
        return is_lettered or after.isdigit() or after in SPELLED
    behind = place + (3 if after == "-" and reading.word(place + 2) == "hand" else 1)
    return word in OTHER_PLACES and reading.is_medium(behind)


def _counts_a_thing(reading: Reading, place: int) -> bool:
    """Whether an ordinal is about things: the second circle, but not the second darker image, nor the second omits."""
    word = reading.word(place + 1)
    if not word.isalpha() or word in NOT_COUNTED or word.removesuffix("s") in OTHER_NAMES:
        return False
    if word not in NOUNS and len(word) > 4 and _NO_NOUN.fullmatch(word):
        return False
    adjectives = takewhile(lambda one: reading.word(one).isalpha(), range(place + 2, place + 4))
    return not any(reading.is_medium(one) and reading.word(one - 1) not in LITTLE_WORDS | VERBS for one in adjectives)


def _head(reading: Reading, place: int) -> int | None:
    """The medium that a number follows: image 1, image #1, image no. 1."""
    head = place - 1
    if reading.word(head) == "." and reading.word(head - 1) == "no":
        head -= 2
    elif reading.word(head) in ("#", "-", "_", "no", "number"):
        head -= 1
    return head if reading.is_medium(head) else None


def _joined_to(reading: Reading, place: int) -> int:
    """The number before an "and" and this one; -1 for none."""
    join = place - (2 if reading.word(place - 1) == "#" else 1)
    join -= reading.word(join) == "." and reading.word(join - 1) == "vs"
    return join - 1 if reading.word(join) in JOINS else -1


def _is_plural(reading: Reading, head: int | None) -> bool:
    return head is not None and reading.word(head).endswith("s")


def _ends_or_goes_on(after: str) -> bool:
    return after in STOPS | PLURAL_VERBS | VERBS | {",", ")"}


def _is_part_of_more(reading: Reading, place: int) -> bool:
    """Whether a digit is none of its own: 1.5, 2D, 2-legged, 1:2, x2."""
    after, behind = reading.word(place + 1), reading.word(place + 2)
    if reading.is_glued(place) and (after.isalpha() or after in "%°"):
        return True
    if reading.is_glued(place) and reading.is_glued(place + 1) and after in SIGNS:
        return behind.isdigit() or (after == "-" and behind.isalpha())
    before = reading.word(place - 1)
    if not reading.is_glued(place - 1):
        return False
    is_second_half = before in SIGNS and reading.is_glued(place - 2) and reading.word(place - 2).isdigit()
    return is_second_half or (before.isalpha() and not reading.is_medium(place - 1))


def _mixes_styles(reading: Reading) -> bool:
    """Whether places have numbers elsewhere, so that "the second" or "two" alone may be things."""
    has_numbers = any(reading.word(place) in (*DIGITS, *SPELLED) for place in reading.named)
    if not any(reading.word(place) in SPELLED for place in reading.named):
        return bool(reading.bare) and has_numbers
    others = [place for place in range(len(reading.tokens)) if reading.word(place) in SPELLED]
    return bool(reading.bare) or any(
        place not in reading.named and reading.word(place - 1) in STOPS | LEADS and reading.word(place + 1) != "of"
        for place in others
    )


def _may_be_things(reading: Reading) -> bool:
    """Of "two dogs; the first is brown" nobody can tell what the first is."""
    places = sorted(place for place in reading.named | reading.bare if reading.word(place) in ORDINALS)
    if places and reading.things:
        return True
    for before, after in pairwise(places):
        is_said_again = _rank(reading, before) == _rank(reading, after)
        words_between = [reading.word(place) for place in range(before, after)]
        if after in reading.bare and is_said_again and not set(words_between) & STOPS:
            return True
    counts = [place for place in range(len(reading.tokens)) if _is_count(reading, place)]
    behind = {_rank(reading, place) for place in reading.bare if counts and place > counts[0]}
    before_count = [_rank(reading, place) for place in places if counts and place < counts[0]]
    return bool(behind) and (not before_count or behind != {not before_count[-1]})


def _is_count(reading: Reading, place: int) -> bool:
    return reading.word(place) in COUNTS and place not in reading.named and not reading.is_medium(place + 1)


def _rank(reading: Reading, place: int) -> bool:
    return reading.word(place) in ("first", "1st")
