"""What kind of answer a question asks for, and its wording without the frame it comes in. Pure.

"Could you tell me how to reset my password?", "What is the way to reset my password?" and "I want to reset my password.
How?" are one question in three frames. A frame is taken away and its kind noted: wrappings first, then the frames of a
kind, the longer before the shorter. What is left of the text is what it is about.
"""

from __future__ import annotations

import re

_ASKS = "how|what|why|when|where|who|whom|whose|which|by whom|at what|in which|on which|until when|if|whether|for how"
_POLITE = (
    r"\b(?:hi|hello|hey|good (?:morning|evening|afternoon))\b(?: there)?",
    r"\b(?:please|kindly|thanks|thank you)\b(?: (?:very much|so much|in advance|a lot))?",
    r"\b(?:i have|one|just|here is) a (?:quick )?question\b",
    r"\b(?:right now|at the moment|at present|currently|nowadays|actually|exactly|really|simply|basically)\b",
)
_WRAPPINGS = (
    r"\b(?:can|could|would|will) (?:you|someone|somebody|anyone) (?:tell|show|teach|let) me\b(?: know)?",
    rf"\b(?:(?:can|could|would|will) you )?(?:explain|check|say|clarify|look up|find out|confirm)(?: to me)?(?= (?:{_ASKS})\b)",
    rf"\b(?:tell|show) me\b(?= (?:{_ASKS}|the)\b)",
    r"\bi (?:want|would like|like|need|wish|am trying|try) to (?:know|understand|find out|learn|hear)\b",
    r"\bi (?:am|was) wondering\b|\bi would be (?:glad|happy|grateful) to know\b",
    r"\b(?:do|would|did) you (?:know|happen to know|think|say)\b(?: that)?",
    r"\bis it (?:right|true|correct|the case) that\b",
)
_OF = r"(?: (?:of|for|to))?"
_WHAT_IS = r"(?:\bwhat (?:is|are|was|were|would be) )?"
_FRAMES: tuple[tuple[str, str, str], ...] = (
    ("why", rf"{_WHAT_IS}\bthe (?:reasons?|causes?)\b(?: (?:that|why|for|of|behind))?", " "),
    ("why", r"\bwhat (?:makes|made|causes|caused)\b|\bhow come\b|\bwhy\b", " "),
    ("whose", r"\bwhose\b", " "),
    ("who", r"\bby whom\b|\bwho(?:m)?\b|\bwhich person\b", " "),
    ("until when", r"\buntil when\b|\bhow long(?= .*\b(?:supported|available|valid|open)\b)", " "),
    ("when", r"\b(?:at |on |by |in )?(?:what|which) (?:time|date|day|hour|month|year)\b", " "),
    ("when", r"\bwhen(?= (?:is|are|was|were|do|does|did|will|would|can|could|should|must|has|have)\b)", " "),
    ("where", r"\b(?:in |at |on )?(?:what|which) (?:place|location|folder|directory)\b|\bwhere\b", " "),
    ("duration", rf"\b(?:for )?how long\b|\bhow much time\b|{_WHAT_IS}\bthe (?:length|duration) of\b", " "),
    ("duration", r"\bhow many (?:minutes|hours|days|weeks|months|years)"
                 r"(?= (?:do|does|will|would|must|should)\b.*\b(?:take|last|need|wait)s?\b)", " "),
    ("frequency", r"\bhow often\b|\bhow frequently\b|\bhow many times\b", " "),
    ("quantity", rf"\bhow many\b|{_WHAT_IS}\bthe (?:number|count|quantity) of\b|\bconvert\b", " "),
    ("price", r"\bhow much (?=.*\b(?:cost|costs|pay|charge|charges|spend)\b)|\bhow (?:expensive|costly|pricey)\b", " "),
    ("price", r"\bhow much (?:is|are)\b(?= (?:the|a|an|your|this|that|it|one|[a-z]+ing)\b)|\bwhat(?= (?:do|does|would|will)"
              r"\b.*\bcosts?\b)", " "),
    ("price", rf"{_WHAT_IS}\bthe ((?:[a-z]+ )?)(?:prices?|costs?|fees?|charges?)\b{_OF}", r" \1 "),
    ("amount", rf"\bhow much\b|{_WHAT_IS}\bthe amount(?: of)?\b|\bcalculate\b|\bcompute\b|\bwork out\b", " "),
    ("howto", r"\bhow (?:do|does|can|could|would|should|is|are) (?:i|we|one|this|that|it)(?: be)? (?:do|done|work|go about)"
              r"(?: (?:it|that|this))?\b", " "),
    ("howto", rf"{_WHAT_IS}\b(?:the|a|my|any|some) ((?:[a-z]+ )?)(?:ways?|steps?|process|procedure|methods?)"
              rf"(?: for (?:me|us))?(?: (?:to|of|for|how to))\b", r" \1 "),
    ("howto", r"\bwhat (?:do|must|should|can|shall|would) (?:i|we|one) (?:have to |must |need to )?do\b"
              r"(?: (?:to|if|in order to|when))?", " "),
    ("howto", r"\bhow (?:do|does|can|could|should|would|may|might|must|am|are|is|to|shall|will)\b(?: (?:i|we|you|one|"
              r"somebody|someone|anybody|people|users?)\b)?(?: (?:have to|must|need to|get to|go about|be able to))?", " "),
    ("what", r"\bwhat is meant by\b|\bexplain(?: (?:to me|me))?\b", " mean "),
    ("what", r"\bwhat\b|\bwhich\b", " "),
    ("how", r"\bhow\b(?= [a-z]+ (?:is|are|was|were|do|does|did)\b)", " "),
    ("howto", r"\bhow\b", " "),
)  # fmt: skip
_THERE_IS = re.compile(r"\b(?:is|are) there\b(?= (?:a|any|some) (?:[a-z]+ )?(?:way|ways|method|methods)\b)")
_ASIDE = re.compile(
    r"(?<!do )\bi (?:want|would like|would love|need|wish|must|am trying|try|have|intend|plan)(?: (?:my|the|our))?(?: to)?\b"
    r"|\bi (?:see|get|got|keep getting|am getting|receive)\b"
)
_REQUEST = re.compile(
    r"\b(?:can|could|would|will) you\b(?: be so kind (?:as )?to)?|(?<!do )\bi (?:want|would like|would love|need|wish|must)\b"
    r"(?: you)?(?: to)?|\b(?:can|could|may) (?:i|we) (?:get|have)\b"
)
_POSSIBLE = re.compile(
    r"\b(?:is|would|was) (?:it|that|this) (?:be )?(?:possible|allowed|permitted|ok|okay|fine|all right)(?: for (?:me|us))?"
    r"(?: (?:to|if))?|\b(?:allowed|permitted|able|possible)\b(?: to)?|^\W*(?:can|could|may|might) (?!you\b)(?:(?:i|we|one)\b)?"
)
_AUXILIARIES = frozenset(
    "is are am do does did was were has have had can could may might will would shall should must".split()
)
_PAST = frozenset({"did", "was", "were", "had"})
_WORD = re.compile(r"[a-z']+")
_POLITENESS = re.compile("|".join(_POLITE))
_WRAPPED = re.compile("|".join(_WRAPPINGS))
_KINDS = tuple((kind, re.compile(pattern), put) for kind, pattern, put in _FRAMES)


def unframed(text: str) -> tuple[str, str]:
    """The kind of a question, and its words without the frame; `text` is lower case with contractions written out."""
    polite = _THERE_IS.sub(" ", _POLITENESS.sub(" ", text))
    bare, wrappings = _WRAPPED.subn(" ", polite)
    for kind, pattern, put in _KINDS:
        match = pattern.search(bare)
        if match is not None:
            rest = bare[: match.start()] + match.expand(put) + bare[match.end() :]
            return kind, _ASIDE.sub(" ", rest) if kind in ("howto", "what", "why") else rest
    return _without_question_word(bare, wrapped=wrappings > 0)


def _without_question_word(bare: str, *, wrapped: bool) -> tuple[str, str]:
    """A yes or no, a thing to be named, or something to be done; whether it may be done counts as the last."""
    if _POSSIBLE.search(bare):
        return "request", _ASIDE.sub(" ", _POSSIBLE.sub(" ", bare))
    words = _WORD.findall(bare)
    first = words[0] if words else ""
    if wrapped and first in ("the", "a", "an", "my", "your"):
        return ("polar" if _has_verb(words) else "what"), bare
    if wrapped:
        return "polar", bare
    if _REQUEST.search(bare):
        return "request", _REQUEST.sub(" ", bare, count=1)
    if first in _AUXILIARIES:
        return ("polar past" if first in _PAST else "polar"), bare
    return "request", bare


def _has_verb(words: list[str]) -> bool:
    return not _AUXILIARIES.isdisjoint(words)
