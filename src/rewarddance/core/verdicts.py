"""Sentences that say which of two media is better: a rationale gives reasons, and is read without them.

The teacher is told what people chose, so its words for it are above all those of judging: "people found image 2
better", "image 2 was preferred". What is compared in one respect is a reason, whoever is said to have seen it.
"""

import re

_MEDIUM = r"(?:image|clip|video|picture|photo)"
_ONE = (
    rf"(?:\b{_MEDIUM} *(?:number |no\. ?)?#?(?:[12]|one|two)\b|#[12]\b|"
    rf"\bthe (?:first|second|1st|2nd|other|former|latter|left|right)\b(?: {_MEDIUM}\b| one\b)?)"
)
_ANY = rf"(?:{_ONE}|\b(?:it|this|that)\b(?: one\b| {_MEDIUM}\b)?)"
_GAP = r"[,:'\"*_]* +[*_]*"
_LINK = (
    r"(?:is|was|are|were|be|would be|seems|looks|appears|remains|has been|had been|being|gets|got|came out|comes out|"
    r"ended up|ends up|turned out|to be|as|emerges as)"
)
_HOW = (
    rf"(?:(?:clearly|therefore|thus|hence|so|overall|much|slightly|far|the|a|an|also|still|definitely|simply|generally|"
    rf"mostly|usually|commonly|ultimately|finally|then|to be|as|by far|by most|by people|considerably|somewhat|more|"
    rf"most|even|consistently|rather|of the two|highly|not|in the end|again|rightly|their|our|my){_GAP}){{0,6}}"
)
_NOUN = rf"(?:one|choice|option|pick|version|result|{_MEDIUM})"
_OVERALL = r"(?:every|all|most|general|total|the end|comparison|both|each|any|people|their)"
_LIKED = r"(?:lik|rat|rank|judg|receiv|preferr|regard|consider|suit)ed"
# "Better at hands" and "better lit" are reasons; "better in every way" and "better liked" are not.
_IN_ONE_RESPECT = (
    rf"(?! (?:at|in|with)\b(?! {_OVERALL}\b))(?! (?!{_LIKED}\b)(?:\w+ed|lit|drawn|made|done|built|shown|seen)\b)"
)
_ABOVE = (
    rf"(?:better|best|superior|preferable|preferred|favou?red|chosen|winner|stronger|favou?rite|worse|worst|inferior|"
    rf"weaker|loser)\b{_IN_ONE_RESPECT}"
)
_PLACED = r"(?:higher|highest|above|ahead|first|lower|lowest|below|last|favou?rably|on top)\b(?! in\b)"
_FOUND = (
    r"\b(?:found|finds?|judged?|judges|rated?|rates|considered|considers?|deemed|deems?|ranked|ranks?|regarded|thought|"
    r"believed|perceived|evaluated|assessed|graded|scored|called|declared|named|voted|saw|seen|felt|held)\b"
)
_RATED = r"\b(?:rank(?:s|ed)?|rat(?:es?|ed)|scor(?:es?|ed)|graded|came|comes|voted)\b"
_CHOSE = (
    r"\b(?:prefer\w*|choos\w+|chose|chosen|pick(?:s|ed)?|favou?r(?:s|ed)?|selected|liked|likes|loved|enjoyed|rejected|"
    r"disliked|voted(?: for)?|votes? (?:for|to|went to)|opted for|went (?:with|for)|go (?:with|for)|sided with|"
    r"settled on|decided on|leaned towards?|drawn to)\b"
)
_PEOPLE = r"\b(?:people|raters?|annotators?|judges?|voters?|viewers?|they|everyone|most|majority|I|we)\b"
_STATED = (
    rf"{_ANY}{_GAP}{_LINK}{_GAP}{_HOW}{_ABOVE}",
    rf"{_ANY}{_GAP}{_HOW}(?:wins?|won|beats?|outperforms?|outperformed|prevails?|should be (?:chosen|preferred))\b",
    rf"{_ANY}{_GAP}(?:loses|lost) (?:to|out|against)\b",
    rf"{_ANY}{_GAP}{_HOW}(?:{_LINK}{_GAP})?{_HOW}{_FOUND}(?:{_GAP}\w+){{0,3}}?{_GAP}{_HOW}{_ABOVE}",
    rf"{_ANY}{_GAP}{_HOW}(?:{_LINK}{_GAP})?{_HOW}{_RATED}(?: out\b)?{_GAP}{_HOW}{_PLACED}",
    rf"{_ANY}{_GAP}{_HOW}(?:appeals|appealed|pleases|pleased) (?:\w+ ){{0,3}}more\b",
    rf"{_ANY}{_GAP}{_LINK}{_GAP}{_HOW}(?:what |the one )?(?:(?:that |which )?{_PEOPLE} )?{_CHOSE}(?! (?:in|at|with)\b)",
    rf"{_FOUND}{_GAP}(?:that +)?{_HOW}{_ANY}{_GAP}(?:{_LINK}{_GAP})?{_HOW}{_ABOVE}",
    rf"{_RATED}{_GAP}{_HOW}{_ANY}{_GAP}{_HOW}{_PLACED}",
    rf"{_CHOSE}{_GAP}(?:is +)?{_HOW}{_ANY}",
    rf"{_PEOPLE} (?:\w+ )?like +{_ANY}",
    rf"\bma(?:kes?|king|de){_GAP}{_ANY}{_GAP}{_HOW}{_ABOVE}",
    rf"{_ANY}[^.!?;]{{0,30}}\b(?:winner|votes|the vote|people's (?:choice|pick))\b",
    rf"\b(?:answer|winner|choice|verdict|judge?ment|preference|votes?)\b[^.!?]{{0,20}}(?:{_ONE}|\byes\b|\bno\b)",
    rf"\b(?:answer|winner|choice|verdict)(?: *:| is) *[12]\b|^{_HOW}{_ONE}(?: it is)?\W*$",
    rf"\b(?:better|best|superior|preferred|winning|chosen|favou?rite) {_NOUN}\b[^.!?]{{0,20}}(?:{_ONE}|\b[12]\b)",
)
_VERDICT = re.compile("|".join(_STATED), re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?;]+(?:[.!?;]+(?=\s|$)|$|[.!?;])")
_THINKING_BEGINS = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_THINKING_ENDS = re.compile(r"</think(?:ing)?>", re.IGNORECASE)


def without_verdicts(rationale: str) -> str:
    """The reasons alone, on one line.

    Args:
        rationale: Calls the media "image 1" and "image 2", or "the first image" and "the second image".

    Returns:
        Sentences that say which medium is better as a whole, or was chosen, are left out ("image 2 is better", "people
        liked image 2 more", "so the answer is yes"), and what a model thought before it spoke; reasons that compare in
        one respect stay ("image 2 is sharper"). Empty when nothing else was said.
    """
    said = " ".join(without_thinking(rationale).split())
    sentences = (found.group().strip() for found in _SENTENCE.finditer(said))
    return " ".join(sentence for sentence in sentences if sentence and not _VERDICT.search(sentence))


def without_thinking(reply: str) -> str:
    """What a model said once it had thought: what stands behind `</think>`, and nothing if it never got there."""
    said = _THINKING_ENDS.split(reply)[-1]
    return _THINKING_BEGINS.split(said)[0].strip()
