"""What the content guard compares of a text, found once and kept beside its vector.

Features hold words of the text. They live in Redis under the tenant's own prefix, for as long as the answer they guard,
and nowhere else: never in logs, metrics or errors. Pure, and linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from app.cache.lexicon import (
    AXES,
    CALENDAR_ONLY_CAPITALISED,
    COMPOUNDS,
    CURRENCIES,
    DIRECTIONS,
    FOREIGN_WORDS,
    FUNCTION_WORDS,
    MEASURED,
    MOMENTS,
    MONTHS,
    NEGATIONS,
    NUMBER_WORDS,
    PARTICLES,
    PHRASAL_VERBS,
    QUESTIONS,
    UNITS,
    WEEKDAYS,
)

MAX_CHARACTERS = 600  # beyond this the embedder may have cut the text, and nobody could vouch for the rest
PARTICLE_REACH = 4  # words between a verb and its particle: "turn the kitchen light off"

_EXACT = re.compile(
    r"```(?P<block>.*?)```|`(?P<code>[^`]+)`|\"(?P<quote>[^\"]+)\"|“(?P<curly>[^”]+)”|«(?P<guillemets>[^»]+)»"
    r"|(?<!\w)'(?P<single>[^']+)'(?!\w)|(?P<url>\b\w+://\S+|\bwww\.\S+)|(?P<email>\S+@\S+\.\w+)|(?P<path>(?<!\w)~?/\S+)",
    re.DOTALL,
)
_TOKEN = re.compile(r"[$€£¥₹]|\d[\d.,:/]*\d|\d|%|[^\W\d_]+(?:'[^\W\d_]+)?|_|\S")
_IDENTIFIER = re.compile(r"(?<!\w)[\w#+-]*(?:\d[\w#+-]*[^\W\d]|[^\W\d][\w#+-]*\d|\w_\w|[a-z][A-Z]|\w[#+])[\w#+]*")
_MEASURE = re.compile(rf"\d+(?:{'|'.join(map(re.escape, UNITS))})", re.IGNORECASE)  # a number, not a name: "5GB"
_CURLY_APOSTROPHE = "\u2019"
_SENTENCE_END = frozenset(".!?\n:")
_SYMBOLS = frozenset("<>=+*/^&|~#@\\{}[]!")
_POLES = {
    word: pole
    for axis in AXES
    for words, pole in ((axis.plain, f"{axis.name}+"), (axis.marked, f"{axis.name}-"), (axis.second, f"{axis.name}=-"))
    for word in words.split()
}


class Features(msgspec.Struct, frozen=True, array_like=True):
    """A text as the guard sees it."""

    words: tuple[str, ...]
    content: tuple[str, ...]
    numbers: tuple[str, ...]
    negations: int
    poles: tuple[str, ...]
    names: tuple[str, ...]
    exact: tuple[str, ...]
    symbols: str
    dates: tuple[str, ...]
    question: str
    directed: bool
    readable: bool


def features(text: str) -> Features:
    """The features of one text."""
    exact = tuple(match.group(match.lastgroup or 0).strip() for match in _EXACT.finditer(text))
    bare = _EXACT.sub(" ", text)
    tokens = _TOKEN.findall(bare.replace(_CURLY_APOSTROPHE, "'"))
    words = tuple(word for token in tokens if token[0].isalpha() for word in _words(token))
    return Features(
        words=words,
        content=tuple(_stem(word) for word in words if word not in FUNCTION_WORDS and word not in NEGATIONS),
        numbers=tuple(_numbers(tokens)),
        negations=sum(word in NEGATIONS for word in words),
        poles=tuple(sorted({*_plain_poles(words), *_phrasal_poles(words)})),
        names=tuple(_names(tokens, bare)),
        exact=exact,
        symbols="".join(token for token in tokens if token in _SYMBOLS),
        dates=tuple(_dates(tokens)),
        question=_question(words),
        directed=not DIRECTIONS.isdisjoint(words),
        readable=len(text) <= MAX_CHARACTERS and _is_english(words, text),
    )


def _words(token: str) -> Iterator[str]:
    """A token in lower case; a contracted "n't" becomes a word of its own."""
    word = token.casefold()
    if word.endswith("n't"):
        yield word[:-3] if word not in ("can't", "won't") else word[:2]
        yield "not"
        return
    yield from (part for part in word.split("'") if part)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _numbers(tokens: Sequence[str]) -> Iterator[str]:
    for place, token in enumerate(tokens):
        if token[0].isdigit():
            before = tokens[place - 1] if place else ""
            after = tokens[place + 1].casefold() if place + 1 < len(tokens) else ""
            unit = CURRENCIES.get(before) or UNITS.get(after) or CURRENCIES.get(after, "")
            yield f"{token.replace(',', '')} {unit}".strip()
        elif (number := NUMBER_WORDS.get(token.casefold())) is not None:
            after = tokens[place + 1].casefold() if place + 1 < len(tokens) else ""
            yield f"{number} {UNITS.get(after, '')}".strip()


def _plain_poles(words: Iterable[str]) -> Iterator[str]:
    return (_POLES[word] for word in words if word in _POLES)


def _phrasal_poles(words: Sequence[str]) -> Iterator[str]:
    """Verb and particle as one meaning, whatever stands between: "turn … off", "sign up", "log in"."""
    for place, word in enumerate(words):
        if word in COMPOUNDS:
            yield _phrasal(*COMPOUNDS[word])
        elif word in PHRASAL_VERBS:
            reach = words[place + 1 : place + 1 + PARTICLE_REACH]
            particle = next((PARTICLES[near] for near in reach if near in PARTICLES), None)
            if particle is not None:
                yield _phrasal(_stem(word), particle)


def _phrasal(verb: str, particle: str) -> str:
    if verb in ("turn", "switch", "power"):
        return {"on": "power+", "off": "power-", "up": "amount-", "down": "amount=-"}.get(
            particle, f"{verb}:{particle}-"
        )
    family = "log" if verb in ("log", "logg", "sign") else verb
    entered = {"on": "in", "off": "out"}.get(particle, particle) if family == "log" else particle
    return f"{family}:{entered}-"


def _names(tokens: Sequence[str], text: str) -> Iterator[str]:
    """Words that name something: capitals inside a sentence, acronyms, and whatever mixes letters with digits."""
    opening = True
    for token in tokens:
        if token[0].isalpha():
            acronym = len(token) > 1 and token.isupper()
            if (acronym or (token[0].isupper() and not opening)) and token.casefold() not in _NOT_NAMES:
                yield token.casefold().removesuffix("'s")
            opening = False
        elif token in _SENTENCE_END:
            opening = True
    yield from (match.casefold() for match in _IDENTIFIER.findall(text) if not _MEASURE.fullmatch(match))


_NOT_NAMES = frozenset({"i", "i'm", "i've", "i'd", "i'll", "ok", *FUNCTION_WORDS, *NEGATIONS, *UNITS})


def _dates(tokens: Sequence[str]) -> Iterator[str]:
    for token in tokens:
        word = token.casefold()
        if word in CALENDAR_ONLY_CAPITALISED and not token[0].isupper():
            continue
        if word in MONTHS:
            yield f"month {MONTHS[word]}"
        elif word in WEEKDAYS or word.removesuffix("s") in WEEKDAYS:
            yield f"day {WEEKDAYS.get(word) or WEEKDAYS[word.removesuffix('s')]}"
        elif word in MOMENTS:
            yield word


def _question(words: Sequence[str]) -> str:
    """What kind of answer the first question word asks for; "how", "what" and none at all are one kind."""
    for place, word in enumerate(words):
        if word in QUESTIONS:
            after = words[place + 1] if place + 1 < len(words) else ""
            return MEASURED.get(after, QUESTIONS[word]) if QUESTIONS[word] == "how" else QUESTIONS[word]
    return "how"


def _is_english(words: Sequence[str], text: str) -> bool:
    """Whether the word lists can be trusted here: Latin letters, and no more foreign than English small words."""
    if any(ord(letter) > 0x24F and letter.isalpha() for letter in text):
        return False
    foreign = sum(word in FOREIGN_WORDS for word in words)
    return foreign < 2 or foreign <= sum(word in FUNCTION_WORDS for word in words)
