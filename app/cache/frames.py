"""What kind of answer a question asks for, and the clause inside the frame it comes in. Pure.

"Could you tell me how to reset my password?", "What is the way to reset my password?" and "I want to reset my password.
How?" are one clause in three frames. Frames are taken away from the outside in, always at the start of the text (or, in
a few known pairs of sentences, as the whole of one of them): what stands in the middle of a sentence is no frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.cache.grammar import AUXILIARIES
from app.cache.turns import turned


@dataclass(frozen=True, slots=True)
class Asked:
    """The kind of a question, its clause, and what else is said beside it."""

    kind: str
    clause: str
    beside: str = ""


_POLITE = (
    r"\b(?:hi|hello|hey|good (?:morning|evening|afternoon))\b(?: there)?",
    r"\b(?:please|kindly|thanks|thank you)\b(?: (?:very much|so much|in advance|a lot))?",
    r"\b(?:i have|one|just|here is) a (?:quick )?question\b",
    r"\b(?:right now|at the moment|at present|currently|nowadays|actually|exactly|really|simply|basically)\b",
)
_ASKS = (
    r"(?:how|what|why|when|where|who|whom|whose|which|by whom|at what|in which|on which|on what|by when|until when|if"
    r"|whether|for how|from what|to whom|to which|in what|through which|at which)"
)
_I = r"(?:i|we)"
_WISH = r"want|would like|would love|need|wish"
_WILL_YOU = r"(?:(?:can|could|would|will) you )"
_WRAPPINGS = (
    rf"{_WILL_YOU}?(?:tell|show|teach|explain to) (?:me|us)(?= {_ASKS}\b)",
    rf"{_WILL_YOU}?(?:tell me|let me know|let us know)(?= (?:the |my |{_ASKS}\b))",
    rf"{_WILL_YOU}?(?:explain|check|say|clarify|look up|find out|see|confirm|verify)(?= {_ASKS}\b)",
    rf"{_WILL_YOU}?(?:check|confirm|verify)(?= that )",
    rf"{_I} (?:{_WISH}|like|am trying|try|must) (?:to )?know(?= (?:the |my |{_ASKS}\b))",
    rf"{_I} (?:{_WISH}|am trying|must) (?:to )?(?:understand|find out|learn|hear)(?= {_ASKS}\b)",
    rf"{_I} (?:(?:am|was|are|were) wondering|wonder|would be (?:glad|happy|grateful) to know)(?= {_ASKS}\b)",
    rf"(?:do|would) you (?:know|happen to know|think|say|believe)(?= {_ASKS}\b)",
    r"(?:do|would) you (?:think|say|believe)",
    r"is it (?:right|true|correct|the case)(?= that )",
    r"(?:do|would) you (?:happen to )?know(?= (?:the|my) )",
)
_DO = r"(?:do|does|can|could|would|should|will|must)"
_IS = r"(?:is|are)"
_DEED = r"(?:do|go about|manage|achieve) (?:it|that|this)"
_BEST = r"(?:best |right |correct |proper |usual )?"
_WAYS = rf"(?:the|a|any|some) {_BEST}(?:ways?|steps?|process|procedure|methods?)"
_END = r"(?=$| (?:per|in|for|to|from|with|on|at|when) )"
_QUANTITY = r"(#\S+(?: [a-z]+)*?)"
_MEASURES = (
    ("weight", "heavy"),
    ("height|elevation", "high|tall"),
    ("size", "big|large"),
    ("age", "old"),
    ("speed", "fast"),
    ("distance", "far(?: away)?"),
    ("depth", "deep"),
    ("width", "wide"),
)
_MEASURED = tuple(
    (
        f"measure {name.split('|')[0]}",
        rf"how (?:{how})|what ({_IS}|was) the (?:{name}) of|what (?:{name})(?= {_IS} )",
        r"\1",
    )
    for name, how in _MEASURES
)
_FRAMES = (
    # kind, pattern at the start of a sentence, what stays in its place
    ("whose", r"whose", ""),
    ("who", r"by whom (.+)", r"\1 by"),
    ("who", r"(?:who|which person|which people) (?:is|are) (?:the )?(?:#1|ones|person|people) (?:that|who)", ""),
    ("who", r"who(?:m)?|(?:which|what) (?:person|people)", ""),
    ("why", rf"why|how come|what makes|what {_IS} the reasons?(?: (?:that|why|for))?", ""),
    ("cause", rf"what {_IS} the (?:causes?) of|what causes", ""),
    ("when", rf"what {_IS} the (?:best|right) time to", "must i"),
    ("when", r"when|(?:at )?(?:what|which) time|at what times|at (?:what|which) hour", ""),
    ("date", r"(?:on )?(?:what|which) (?:date|day)|what is the (?:date|day)(?: (?:when|that|on which|of))?", ""),
    ("deadline", r"by (?:when|what date|which date)|what is the deadline (?:for|of)", ""),
    ("end", r"until when|until (?:what|which) time", ""),
    ("where", rf"(?:where|how|in which place) (?:do|can|could) {_I} (?:find|locate)(?! out)|where to find", "is"),
    ("where", r"where|(?:in|at|on) (?:what|which) (?:place|location|folder|directory)", ""),
    ("duration", r"(?:for )?how long|how much time|what is the (?:length|duration) of", ""),
    ("frequency", r"how often|how frequently|how many times", ""),
    ("conversion", rf"{_WILL_YOU}?convert {_QUANTITY} (?:to|into|in) (.+)", r"\1 to \2"),
    (
        "conversion",
        r"how (?:many|much) ([a-z ]+?) (?:(?:is|are)(?: there)?(?: in)?|makes?|equals?) (#\S+(?: [a-z]+)*)",
        r"\2 to \1",
    ),
    ("conversion", rf"(?:how much|what) (?:is|are) {_QUANTITY} in ([a-z ]+)", r"\1 to \2"),
    ("conversion", r"(#\S+(?: [a-z]+)+?) (?:is|are|equals?|makes?) how (?:many|much) (.+)", r"\1 to \2"),
    ("sum", rf"(?:what|how much) is(?= #)|{_WILL_YOU}?(?:calculate|compute|work out)(?= #)", ""),
    ("quantity", rf"how many(?: of)?|(?:what|which) {_IS} the (?:number|count) of|(?:what|which) number of", ""),
    ("price", rf"(?:how much|what) (?:do|does|will|would) (.+?) cost{_END}", r"is \1"),
    ("price", rf"(?:how much|what) did (.+?) cost{_END}", r"was \1"),
    ("price", rf"(?:how much|what) (.+?) costs{_END}", r"is \1"),
    ("price", r"how (?:expensive|costly|pricey)", ""),
    ("price", rf"what {_IS} the (?:prices?|costs?) (?:of|for)", "is"),
    ("price", r"how much (?:do|would|will) you charge (?:me |us )?for", "is"),
    ("price", rf"how much (?:do|would|will|must|should) {_I} (?:must |need to )?pay for", "is"),
    ("price", r"how much(?= (?:is|are|was|were) )|how much(?= the .* (?:is|are)$)", ""),
    ("measure weight", r"(?:how much|what) (?:do|does|will) (.+?) weigh$|(?:how much|what) (.+?) weighs$", r"is \1\2"),
    *_MEASURED,
    ("amount", rf"how much|what {_IS} the amount of|what (?:amount|quantity) of", ""),
    ("howto", rf"how (?:do|can|could|would) {_I}(?: go about)?", ""),
    ("howto", rf"how (?:do {_I} must|must {_I}|should {_I})", "must i"),
    ("howto", rf"how to|how {_I}(?: can| could)?", ""),
    ("howto", rf"what {_IS} {_WAYS} (?:to|of|for|for (?:me|us) to)|is there {_WAYS} (?:to|of|for (?:me|us) to)", ""),
    ("howto", rf"what(?: {_DO})+ {_I}(?: must)? do to", ""),
    ("what", rf"what {_IS} (?:the meaning of|meant by) (.+)", r"does \1 mean"),
    ("what", rf"{_WILL_YOU}?explain (?:to me )?(.+?)(?: to me)?$", r"does \1 mean"),
    ("what", r"(in|at|on|to|from|through|for|with) (?:what|which) (.+)", r"\2 \1"),
    ("what", r"(?:what|which)(?: (?:city|town|country|company|one)(?= (?:is|was) the ))?", ""),
    ("how", r"how", ""),
)
_REQUESTS = (
    rf"(?:can|could|would) you (?:be so kind (?:as )?to )?|{_I} (?:want|would like|need|wish|would love) you to "
)
_WISHES = rf"{_I} (?:want|would like|wish|would love) to "
_POSSIBLE = (
    rf"(?:is|would) (?:it|that|this) (?:be )?(?:possible|allowed|permitted|okay|ok|fine|all right)"
    rf"(?: for (?:me|us))? (?:to|if {_I})"
)
_POSSIBLE_FOR = r"(?:is|would) it (?:be )?(?:possible|allowed|permitted|okay|ok|fine|all right) for (.+?) to"
_POLITENESS = re.compile("|".join(_POLITE))
_WRAPPED = tuple(re.compile(rf"(?:{pattern})\b ?") for pattern in _WRAPPINGS)
_KINDS = tuple((kind, re.compile(rf"(?:{pattern})(?= |$) ?"), put) for kind, pattern, put in _FRAMES)
_REQUEST = re.compile(_REQUESTS)
_WISHED = re.compile(_WISHES)
_MAY_I = re.compile(_POSSIBLE)
_MAY_ANYONE = re.compile(_POSSIBLE_FOR)
_SENTENCE_END = re.compile(r" ?[.?!]+(?: |$)")
_FRONTED = re.compile(r"((?:if|when|while|with|at|in|on|for|before|after|during) [^,]+) , (.+)")
_BLANKS = re.compile(r"  +")
_TAGGED = re.compile(r"(.+?) ?[,:] ((?:and )?(?:how|why|is|can|may|what)\b.*)")
_WANTED = re.compile(rf"{_I} (?:(?:want|would like|need|wish|plan|am trying|would love) to|must) (.+)")
_HOW = re.compile(
    rf"(?:and )?(?:how|how (?:{_DO} )+{_I} (?:{_DEED})"
    r"|how (?:is|are|does|do|can) (?:it|that|this) (?:be )?(?:done|work|do)"
    rf"|what (?:{_DO} )+{_I} (?:must |need to )?do)"
)
_MET = re.compile(
    rf"(?:{_I} (?:get|see|got|have|had|need|want|would like|am getting|keep getting)|there is) (?!to )(.+)"
)
_IT = re.compile(r"\b(?:it|this|that|them)\b|(?<= )#1$")
_WHAT_NOW = re.compile(rf"what(?: {_DO})+ {_I}(?: must)? do")
_WHETHER = re.compile(
    rf"(?:and )?(?:is (?:it|that|this) (?:possible|ok|okay|allowed)|(?:can|may|could) {_I}(?: do (?:that|it|this))?)"
)


def asked(text: str) -> Asked:
    """The kind and clause of a text that is lower case and written out."""
    text = _BLANKS.sub(" ", _POLITENESS.sub(" ", turned(text)))
    sentences = [part for sentence in _SENTENCE_END.split(text) if (part := sentence.strip(" ,;:!"))]
    if len(sentences) == 2 and (joined := _joined(*sentences)):
        return joined
    if not sentences:
        return Asked("nothing", "")
    if (
        len(sentences) == 1
        and (parted := _TAGGED.fullmatch(text.strip(" ?")))
        and (joined := _joined(*parted.groups()))
    ):
        return joined
    found = _sentence(sentences[-1])
    return Asked(found.kind, found.clause, " . ".join(sentences[:-1]))


def _joined(first: str, second: str) -> Asked | None:
    """Two sentences that ask as one: "I want to leave. How do I do that?", "It is late. Why?"."""
    if second in ("why", "why is that", "how come"):
        return Asked("why", first)
    wanted = _WANTED.fullmatch(first)
    if wanted is not None and _HOW.fullmatch(second):
        return Asked("howto", wanted[1])
    if wanted is not None and _WHETHER.fullmatch(second):
        return Asked("polar", f"can i {wanted[1]}")
    if _WHAT_NOW.fullmatch(second):
        return Asked("what", f"{second.removeprefix('what ')} when {first}")
    met = _MET.fullmatch(first)
    if met is not None and len(_IT.findall(second)) == 1:
        return _sentence(_IT.sub(lambda _: met[1], second))
    return None


def _sentence(text: str) -> Asked:
    fronted = _FRONTED.fullmatch(text)
    if fronted is not None:
        text = f"{fronted[2]} {fronted[1]}"
    bare, wrapped = _unwrapped(text)
    for opening in ("if ", "whether ", "that "):
        if wrapped and bare.startswith(opening):
            return _polar(bare.removeprefix(opening))
    if wrapped and bare.startswith(("the ", "my ", "our ")) and AUXILIARIES.isdisjoint(bare.split()):
        bare = f"what is {bare}"
    for kind, pattern, put in _KINDS:
        match = pattern.match(bare)
        if match is not None:
            return Asked(kind, _advised(kind, _filled(match, put, bare)))
    return _polar(bare) if wrapped else _polar_or_request(bare)


def _advised(kind: str, clause: str) -> str:
    """Advice: "when to leave" asks when I should, "where to pay" where I can."""
    verb = "can" if kind == "where" else "must"
    return f"{verb} i {clause.removeprefix('to ')}" if clause.startswith("to ") else clause


def _filled(match: re.Match[str], put: str, text: str) -> str:
    rest = text[match.end() :]
    return f"{match.expand(put)} {rest}".strip() if put else rest


def _unwrapped(text: str) -> tuple[str, bool]:
    wrapped = False
    while True:
        for pattern in _WRAPPED:
            match = pattern.match(text)
            if match is not None and match.end() < len(text):
                text, wrapped = text[match.end() :], True
                break
        else:
            return text, wrapped


def _polar_or_request(text: str) -> Asked:
    may = _MAY_I.match(text)
    if may is not None:
        return Asked("polar", "can i" + text[may.end() :])
    anyone = _MAY_ANYONE.match(text)
    if anyone is not None:
        return Asked("polar", f"can {anyone[1]}" + text[anyone.end() :])
    wish = _WISHED.match(text)
    if wish is not None:
        return Asked("wish", text[wish.end() :])
    request = _REQUEST.match(text)
    if request is not None:
        text = text[request.end() :]
    if request is not None or text.split(" ", 1)[0] not in AUXILIARIES:
        return Asked("request", text.removesuffix(" for me").removesuffix(" for us"))
    return Asked("polar", text)


def _polar(text: str) -> Asked:
    found = _polar_or_request(text)
    return found if found.kind == "polar" and found.clause != text else Asked("polar", text)
