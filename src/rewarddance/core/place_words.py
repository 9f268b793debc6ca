"""A text as words, and the words that tell whether a number names one of two media or counts things of one."""

import re
from dataclasses import dataclass, field


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


DIGITS = ("1", "2")
SPELLED = ("one", "two")
ORDINALS = ("first", "second", "1st", "2nd")
MEDIA = ("image", "clip", "video", "picture", "photo", "photograph")
OTHER_NAMES = _words(
    "option candidate version sample choice result output generation entry rendering artwork depiction attempt "
    "response answer pic img side"
)
OTHER_PLACES = _words("left right last final initial previous preceding next following earlier later")
JOINS = ("and", "or", "nor", "&", "/", "vs", "versus")
SIGNS = (".", ",", ":", "/", "×", "–", "-")
STOPS = frozenset(("", ".", "!", "?", ";", ":"))
LEADS = _words(
    "in of than and while whereas but vs versus to from unlike like both as that or for between because since although "
    "though when where by , ("
)
VERBS = _words(
    "is was has had does did shows lacks contains depicts looks features includes misses fails renders gives appears "
    "seems keeps makes draws captures presents displays follows matches omits ignores adds places puts gets needs "
    "holds leaves comes loses introduces replaces paints suffers uses provides delivers offers remains feels stays "
    "wins can cannot could may might would should will must isn't wasn't hasn't doesn't didn't can't"
)
PLURAL_VERBS = _words("both each are were have do show lack contain depict look differ share seem appear match fail")
LINKS = _words("also still just only not instead while whereas because since though although than")
LITTLE_WORDS = _words(
    "in of on at from to with without for by as and or but nor vs versus be been being are were the a an it there none "
    "nothing everything"
)
GOES_ON = _words(
    "the a an it its there they but while whereas however and which where all no nothing though although so"
)
ARTICLES = _words("the a an this that each its")
DETERMINERS = _words("a an one his her its at each every any no this that their another per")
COUNTING = _words("has have had shows show contains contain depicts depict draws includes wants only exactly just")
COUNTED_AFTER = _words("are were with of the these those into its their all least most about around requested")
COUNTS = _words("two three four five six seven eight several many multiple few pair couple both 2 3 4 5 6 7 8 9")
NOT_COUNTED = VERBS | PLURAL_VERBS | LINKS | LITTLE_WORDS | {"one"}
NOUNS = _words("frames seconds king ring wing thing string spring swing building painting")
_TOKEN = re.compile(r"\d+(?:st|nd|rd|th)\b|\d+|[a-z]+(?:['’]t\b)?|\S", re.IGNORECASE)


@dataclass
class Reading:
    """A text as tokens, and which of them name places, with the medium or without, or things of one picture."""

    tokens: list[re.Match[str]]
    named: set[int] = field(default_factory=set)
    bare: set[int] = field(default_factory=set)
    things: set[int] = field(default_factory=set)
    is_in_doubt: bool = False

    @classmethod
    def of(cls, text: str) -> "Reading":
        """Nothing is found yet."""
        return cls(list(_TOKEN.finditer(text)))

    def word(self, place: int) -> str:
        """In small letters; empty before the beginning and behind the end."""
        return self.tokens[place].group().lower().replace("’", "'") if 0 <= place < len(self.tokens) else ""

    def is_glued(self, place: int) -> bool:
        """Whether nothing stands between a token and the next."""
        return 0 <= place < len(self.tokens) - 1 and self.tokens[place].end() == self.tokens[place + 1].start()

    def is_medium(self, place: int) -> bool:
        """Whether it is what an image or a clip is called, or several."""
        return self.word(place).removesuffix("s") in MEDIA

    def take(self, place: int, *, is_certain: bool) -> None:
        """Count a token as the place of a named medium, or the text as one in doubt."""
        if is_certain:
            self.named.add(place)
        else:
            self.is_in_doubt = True
