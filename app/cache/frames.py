"""What kind of answer a question asks for, and its wording without the frame it comes in. Pure.

"Could you tell me how to reset my password?", "What is the way to reset my password?" and "I want to reset my password.
How?" are one question in three frames. A frame is taken away and its kind noted: wrappings first, then the frames of a
kind, the longer before the shorter. What is left of the text is what it is about.
"""

from __future__ import annotations

import re

_POLITE = (
    r"\b(?:hi|hello|hey|good (?:morning|evening|afternoon))\b(?: there)?",
    r"\b(?:please|kindly|thanks|thank you)\b(?: (?:very much|so much|in advance|a lot))?",
    r"\b(?:i have|one|just|here is) a (?:quick )?question\b",
    r"\b(?:right now|at the moment|at present|currently|nowadays|actually|exactly|really|simply|basically)\b",
    r"\b(?:is|are) there\b(?= (?:a|any|some) (?:[a-z]+ )?(?:ways?|methods?)\b)",
)
_ASKS = "how|what|why|when|where|who|whom|whose|which|by whom|at what|in which|on which|until when|if|whether|for how"
_WILL_YOU = r"(?:(?:can|could|would|will) you )"
_WRAPPINGS = (
    r"\b(?:can|could|would|will) (?:you|someone|somebody|anyone) (?:tell|show|teach|let) me\b(?: know)?",
    rf"\b{_WILL_YOU}?(?:explain|check|say|clarify|look up|find out|confirm)(?: to me)?(?= (?:{_ASKS})\b)",
    rf"\b(?:tell|show) me\b(?= (?:{_ASKS}|the)\b)",
    r"\bi (?:want|would like|like|need|wish|am trying|try) to (?:know|understand|find out|learn|hear)\b",
    r"\bi (?:am|was) wondering\b|\bi would be (?:glad|happy|grateful) to know\b",
    r"\b(?:do|would|did) you (?:know|happen to know|think|say)\b(?: that)?",
    r"\bis it (?:right|true|correct|the case) that\b",
)

_I = r"(?:i|we|one)"
_OF = r"(?: (?:of|for|to))?"
_WHAT_IS = r"(?:\bwhat (?:is|are|was|were|would be) )?"
_DO = r"(?:do|does|can|could|would|should|will)"
_ONE_OF = r"(?:city|town|country|company|one|kind of|type of)"
_BY_WAYS = (
    rf"{_WHAT_IS}\b(?:the|a|my|any|some) ((?:[a-z]+ )?)(?:ways?|steps?|process|procedure|methods?)"
    r"(?: for (?:me|us))?(?: (?:to|of|for|how to))\b"
)
_BY_HOW = (
    rf"\bhow (?:may|might|must|am|are|is|to|shall|{_DO})\b"
    r"(?: (?:i|we|you|one|somebody|someone|anybody|people|users?)\b)?"
    r"(?: (?:have to|must|need to|get to|go about|be able to))?"
)
_FRAMES = (
    # kind, pattern, what stays in its place
    ("why", rf"{_WHAT_IS}\bthe (?:reasons?|causes?)\b(?: (?:that|why|for|of|behind))?", " "),
    ("why", r"\bwhat (?:makes|made|causes|caused)\b|\bhow come\b|\bwhy\b", " "),
    ("whose", r"\bwhose\b", " "),
    ("who", r"\bby whom\b|\bwho(?:m)?\b|\bwhich person\b", " "),
    ("until when", r"\buntil when\b|\bhow long(?= .*\b(?:supported|available|valid|open)\b)", " "),
    ("time", r"\b(?:at |by )?(?:what|which) (?:time|hour)\b", " "),
    ("date", r"\b(?:on |by )?(?:what|which) (?:date|day)\b", " "),
    ("date", r"\bwhat is the (?:date|day)(?: (?:when|that|on which|of))?\b", " "),
    ("when", rf"\bwhen(?= (?:is|are|was|were|did|must|has|have|{_DO})\b)", " "),
    ("when", r"^\W*when\b(?!.*\bhow\b)", " "),
    ("howto", rf"\bwhere (?:must|may|{_DO}) {_I}\b(?! (?:find|get|buy|see|have|put|must)\b)", " "),
    ("where", rf"\bhow {_DO} {_I} (?:find|locate)\b", " "),
    ("where", r"\b(?:in |at |on )?(?:what|which) (?:place|location|folder|directory)\b|\bwhere\b", " "),
    ("where", r"\b(?:in|at) (?:what|which) (?:city|town|country|room|building|street)\b", " "),
    ("duration", rf"\b(?:for )?how long\b|\bhow much time\b|{_WHAT_IS}\bthe (?:length|duration) of\b", " "),
    (
        "duration",
        rf"\bhow many (?:minutes|hours|days|weeks|months|years)(?= (?:must|{_DO})\b.*\b(?:take|last|need|wait)s?\b)",
        " ",
    ),
    ("frequency", r"\bhow often\b|\bhow frequently\b|\bhow many times\b", " "),
    ("quantity", rf"\bhow many\b|{_WHAT_IS}\bthe (?:number|count|quantity) of\b", " "),
    ("quantity", rf"\b{_WILL_YOU}?convert\b", " "),
    ("price", r"\bhow much (?=.*\b(?:cost|costs|pay|charge|charges|spend)\b)", " "),
    ("price", r"\bhow (?:expensive|costly|pricey)\b|\bwhat(?= (?:do|does|would|will)\b.*\bcosts?\b)", " "),
    ("price", r"\bhow much (?:is|are)\b(?= (?:the|a|an|your|this|that|it|one|[a-z]+ing)\b)", " "),
    ("price", rf"{_WHAT_IS}\bthe ((?:[a-z]+ )?)(?:prices?|costs?|fees?|charges?)\b{_OF}", r" \1 "),
    ("amount", rf"\bhow much\b|{_WHAT_IS}\bthe amount(?: of)?\b", " "),
    ("amount", rf"\b{_WILL_YOU}?(?:calculate|compute|work out)\b", " "),
    (
        "howto",
        rf"\bhow (?:is|are|{_DO}) (?:i|we|one|this|that|it)(?: be)? (?:do|done|work|go about)(?: (?:it|that|this))?\b",
        " ",
    ),
    ("howto", _BY_WAYS, r" \1 "),
    (
        "howto",
        rf"\bwhat (?:must|shall|{_DO}) {_I} (?:have to |must |need to )?do\b(?: (?:to|if|in order to|when))?",
        " ",
    ),
    ("howto", _BY_HOW, " "),
    ("what", rf"\bwhat is meant by\b|\b{_WILL_YOU}?explain(?: (?:to me|me))?\b", " mean "),
    ("what", rf"\b(?:what|which)\b(?: {_ONE_OF}(?= (?:is|are|was|were)\b))?", " "),
    ("how", r"\bhow\b(?= [a-z]+ (?:is|are|was|were|do|does|did)\b)", " "),
    ("howto", r"\bhow\b", " "),
)

_WANT = r"(?<!do )\bi (?:want|would like|would love|need|wish|must"
_ASIDE = re.compile(
    rf"{_WANT}|am trying|try|have|intend|plan)(?: (?:my|the|our))?(?: to)?\b"
    r"|\bi (?:see|get|got|keep getting|am getting|receive)\b"
)
_REQUEST = re.compile(
    rf"\b{_WILL_YOU}(?:be so kind (?:as )?to)?|{_WANT})\b(?: you)?(?: to)?|\b(?:can|could|may) (?:i|we) (?:get|have)\b"
)
_POSSIBLE = re.compile(
    r"\b(?:is|would|was) (?:it|that|this) (?:be )?(?:possible|allowed|permitted|okay|ok|fine|all right)"
    r"(?: for (?:me|us))?(?: (?:to|if))?"
    r"|\b(?:allowed|permitted|able|possible)\b(?: to)?"
    rf"|^\W*(?:can|could|may|might) (?!you\b)(?:{_I}\b)?"
)
_AUXILIARIES = frozenset(
    {
        "is",
        "are",
        "am",
        "do",
        "does",
        "did",
        "was",
        "were",
        "has",
        "have",
        "had",
        "can",
        "could",
        "may",
        "might",
        "will",
    }
    | {"would", "shall", "should", "must"}
)
PAST = " past"
_DID = frozenset({"did", "was", "were", "had"})
_DOES = frozenset({"do", "does", "is", "are", "am", "will"})
_TIMELESS = frozenset({"howto", "request", "possible"})
_ARTICLES = frozenset({"the", "a", "an", "my", "your"})
_SUBJECT = re.compile(
    r"\b(?:is|are|am|was|were|do|does|did|has|have|had|can|could|may|might|will|would|shall|should|must) "
    r"(?:not )?(?:the |an? |my |our |your |this |that |these )*([a-z]+)"
)
_FOR_WHOM = re.compile(r"\b(?:possible|allowed|okay|ok) for (?:the |an? |my |our |your )?([a-z]+) to\b")
_IMPERSONAL = re.compile(r"\b(?:allowed|permitted|possible|okay|ok)\b")
_WORD = re.compile(r"[a-z']+")
_POLITENESS = re.compile("|".join(_POLITE))
_WRAPPED = re.compile("|".join(_WRAPPINGS))
_KINDS = tuple((kind, re.compile(pattern), put) for kind, pattern, put in _FRAMES)


def unframed(text: str) -> tuple[str, str, str]:
    """The kind of a question, its words without the frame, and its subject; `text` is lower case, written out.

    Of a kind that ends in PAST something was asked about the past, and not about the present.
    """
    bare, wrappings = _WRAPPED.subn(" ", _POLITENESS.sub(" ", text))
    kind, rest = _framed(bare) or _without_question_word(bare, wrapped=wrappings > 0)
    words = frozenset(_WORD.findall(bare))
    is_past = kind not in _TIMELESS and "by whom" not in bare and not words.isdisjoint(_DID) and words.isdisjoint(_DOES)
    return kind + PAST * is_past, rest, "" if wrappings else _subject(bare)


def _subject(bare: str) -> str:
    """Who or what the first verb belongs to, "i" being the one who asks; "" where the word order does not tell."""
    match = _FOR_WHOM.search(bare) or (None if _IMPERSONAL.search(bare) else _SUBJECT.search(bare))
    if match is None:
        return ""
    return "i" if match[1] == "we" else match[1]


def _framed(bare: str) -> tuple[str, str] | None:
    for kind, pattern, put in _KINDS:
        match = pattern.search(bare)
        if match is not None:
            rest = bare[: match.start()] + match.expand(put) + bare[match.end() :]
            return kind, _ASIDE.sub(" ", rest) if kind in ("howto", "what", "why") else rest
    return None


def _without_question_word(bare: str, *, wrapped: bool) -> tuple[str, str]:
    """Whether something may be, or is, so; a thing to be named; or something to be done."""
    if _POSSIBLE.search(bare):
        return "possible", _ASIDE.sub(" ", _POSSIBLE.sub(" ", bare))
    if _REQUEST.search(bare):
        return "request", _REQUEST.sub(" ", bare, count=1)
    words = _WORD.findall(bare)
    if wrapped:
        named = words and words[0] in _ARTICLES and _AUXILIARIES.isdisjoint(words)
        return ("what" if named else "polar"), bare
    return ("polar" if words and words[0] in _AUXILIARIES else "request"), bare
