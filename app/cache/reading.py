"""A text taken apart letter by letter: exact spans, names, numbers with units, dates, and plain tokens. Pure.

The plain text that comes out is lower case, one space between tokens, contractions written out. A number with its unit
is one token (`#5:gb`), so is a date (`#5/14`), and what is quoted, code or an address is a `§` whose wording is kept
aside: what is compared letter by letter never meets a list of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.cache.lexicon import (
    CALENDAR_ONLY_CAPITALISED,
    CURRENCIES,
    FOREIGN_WORDS,
    MOMENTS,
    MONTHS,
    NUMBER_WORDS,
    SMALL_WORDS,
    UNITS,
    WEEKDAYS,
)

_EXACT = re.compile(
    r"```(?P<block>.*?)```|`(?P<code>[^`]+)`|\"(?P<quote>[^\"]+)\"|“(?P<curly>[^”]+)”|«(?P<guillemets>[^»]+)»"
    r"|(?<!\w)'(?P<single>[^']+)'(?!\w)|(?P<url>\b\w+://\S+|\bwww\.\S+)|(?P<email>(?<!\S)[^\s@]+@[^\s@]*\w)|(?P<path>(?<!\w)~?/\S+)",
    re.DOTALL,
)
_OPENING = frozenset("`\"“«'/@")
_TOKEN = re.compile(r"§\d+|[$€£¥₹%°]|\d+(?:[.,:/]\d+)*(?!\w)|[\w#+.'-]+(?:[:/][\w#+.'-]+)*|\S")
_GLUED = re.compile(r"(\d+(?:[.,:/]\d+)*)-?([a-z]+)")  # "5gb", "90-day"
_FIGURE = re.compile(r"\d+(?:[.,:/]\d+)*", re.ASCII)
_DAY = re.compile(r"#?(\d{1,2})(?:st|nd|rd|th)?")
_SPECIAL = re.compile(r"\w_\w|[a-z][A-Z]|\w[#+]|\w\.\w|^--\w|\w[:/]\w")  # snake_case, camelCase, C#, notes.txt, --flag
_CURLY_APOSTROPHE = "\u2019"
_SYMBOLS = frozenset("<>=+*/^&|~#@\\{}[]")
_ENDS = frozenset(".!?;:")
_ABBREVIATIONS = frozenset({"mr.", "mrs.", "ms.", "dr.", "st.", "no.", "vs.", "prof."})
_DEGREES = frozenset({"°", "degree", "degrees"})
_CONTRACTIONS = (
    (re.compile(r"\bcan't\b|\bcannot\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"'m\b"), " am"),
    (re.compile(r"\b(i|you|he|she|we|they)'d\b"), r"\1 would"),
    (re.compile(r"\b(what|how|where|who|when|why|it|that|there|here|he|she)'s\b"), r"\1 is"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'ve\b"), " have"),
    (re.compile(r"'ll\b"), " will"),
    (re.compile(r"'s\b|(?<=s)'(?= |$)"), ""),
)
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Reading:
    """What is compared letter by letter, and the plain tokens of the rest."""

    plain: str
    words: tuple[str, ...]
    numbers: tuple[str, ...]
    dates: tuple[str, ...]
    names: tuple[str, ...]
    exact: tuple[str, ...]
    symbols: str
    is_english: bool


def read(text: str) -> Reading:
    """Take a text apart."""
    exact, bare = _without_exact(text)
    bare = bare.replace(_CURLY_APOSTROPHE, "'").replace("a.m.", "am").replace("p.m.", "pm")
    tokens = [part for token in _TOKEN.findall(bare) for part in _parted(token)]
    plain = list(_dated(_numbered(tokens)))
    written = _written_out(" ".join(plain))
    words = tuple(_WORD.findall(written))
    return Reading(
        plain=written,
        words=words,
        numbers=tuple(sorted(token for token in plain if token[0] == "#" and "/" not in token)),
        dates=tuple(sorted(_calendar(plain))),
        names=tuple(_names(tokens, shouted=text.isupper())),
        exact=exact,
        symbols="".join(token for token in tokens if token in _SYMBOLS),
        is_english=_is_english(words, text),
    )


def _without_exact(text: str) -> tuple[tuple[str, ...], str]:
    """Spans that are compared letter by letter, and the text with a numbered sign in place of each."""
    if "www." not in text and _OPENING.isdisjoint(text):
        return (), text
    exact: list[str] = []

    def taken(match: re.Match[str]) -> str:
        exact.append(match.group(match.lastgroup or 0).strip())
        return f" §{len(exact)} "

    bare = _EXACT.sub(taken, text)
    return tuple(exact), bare


def _parted(token: str) -> Iterator[str]:
    """A token without the punctuation that stands around it; a full stop is a token of its own."""
    if len(token) == 1 or token.startswith("--"):
        yield token
        return
    if token.casefold() in _ABBREVIATIONS:
        yield token[:-1]
        return
    bare = token.strip("'-.")
    if bare:
        yield bare
    if token.endswith("."):
        yield "."


def _written_out(text: str) -> str:
    if "'" in text or "cannot" in text:
        for pattern, put in _CONTRACTIONS:
            text = pattern.sub(put, text)
    return text


def _numbered(tokens: Sequence[str]) -> Iterator[str]:
    """Lower case; each number with its unit or currency as one token."""
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.isalpha() and token.casefold() not in NUMBER_WORDS:
            yield _as_written(token, is_first=place == 0)
        elif token in CURRENCIES and place + 1 < len(tokens) and tokens[place + 1][0].isdigit():
            place += 1
            yield f"#{_digits(tokens[place])}:{CURRENCIES[token]}"
        elif (glued := _GLUED.fullmatch(token.casefold())) and glued[2] in UNITS:
            yield f"#{_digits(glued[1])}:{UNITS[glued[2]]}"
        elif (number := _number(token)) is not None and tokens[place - 1 : place] != ["per"]:
            unit, place = _unit(tokens, place)
            yield f"#{number}:{unit}" if unit else f"#{number}"
        else:
            yield _as_written(token, is_first=place == 0)
        place += 1


def _number(token: str) -> str | None:
    return _digits(token) if _FIGURE.fullmatch(token) else NUMBER_WORDS.get(token.casefold())


def _digits(token: str) -> str:
    return token.replace(",", "")


def _unit(tokens: Sequence[str], place: int) -> tuple[str, int]:
    """The unit behind the number at a place, and the place of its last token."""
    following = [token.casefold() for token in tokens[place + 1 : place + 3]]
    if following[:1] in (["square"], ["cubic"]) and following[-1] in UNITS:
        return following[0] + UNITS[following[1]], place + 2
    if following and following[0] in _DEGREES:
        scale = UNITS.get(following[1], "") if len(following) > 1 else ""
        scale = scale if scale in ("c", "f") else ""
        return "degrees" + scale, place + 1 + bool(scale)
    if following and (unit := UNITS.get(following[0]) or CURRENCIES.get(following[0])):
        return unit, place + 1
    return "", place


def _as_written(token: str, *, is_first: bool) -> str:
    """Lower case, a month or weekday as its number; "may" and its like only where a capital tells."""
    word = token.casefold()
    if word in CALENDAR_ONLY_CAPITALISED and (not token[0].isupper() or (word == "may" and is_first)):
        return word
    if word in MONTHS:
        return f"month{MONTHS[word]}"
    day = WEEKDAYS.get(word) or WEEKDAYS.get(word.removesuffix("s"))
    return f"weekday{day}" if day else word


def _dated(tokens: Iterator[str]) -> Iterator[str]:
    """A day of a month, on either side of it, as one token."""
    found: list[str] = []
    for token in tokens:
        last = found[-1] if found else ""
        if token.startswith("month") and (day := _DAY.fullmatch(last)):
            found[-1] = f"#{token.removeprefix('month')}/{day[1]}"
        elif last.startswith("month") and (day := _DAY.fullmatch(token)):
            found[-1] = f"#{last.removeprefix('month')}/{day[1]}"
        else:
            found.append(token)
    return iter(found)


def _calendar(tokens: Sequence[str]) -> Iterator[str]:
    for token in tokens:
        is_date = token[0] == "#" and "/" in token
        if is_date or token.startswith(("month", "weekday")) or token in MOMENTS:
            yield token


def _names(tokens: Sequence[str], *, shouted: bool) -> Iterator[str]:
    """Words that name something: capitals inside a sentence, acronyms, and whatever mixes letters with digits."""
    opening = True
    for token in tokens:
        if token.isalpha() and token.islower():
            opening = False
        elif token in _ENDS:
            opening = True
        elif _is_identifier(token):
            yield token.casefold()
            opening = False
        elif token[0].isalpha():
            acronym = len(token) > 1 and token.isupper() and not shouted
            word = token.casefold().removesuffix("'s")
            if acronym or (token[0].isupper() and not opening and word not in _NOT_NAMES and "'" not in word):
                yield word
            opening = False


_NOT_NAMES = frozenset({"i", *SMALL_WORDS, *MONTHS, *WEEKDAYS, *UNITS})


def _is_identifier(token: str) -> bool:
    if _DAY.fullmatch(token):
        return False
    mixed = any(letter.isdigit() for letter in token) and any(letter.isalpha() for letter in token)
    glued = _GLUED.fullmatch(token.casefold())
    return bool(mixed or _SPECIAL.search(token)) and not (glued and glued[2] in UNITS)


def _is_english(words: Sequence[str], text: str) -> bool:
    """Whether the word lists can be trusted here: Latin letters, and no more foreign than English small words."""
    if not text.isascii() and any(ord(letter) > 0x24F and letter.isalpha() for letter in text):
        return False
    foreign = sum(word in FOREIGN_WORDS for word in words)
    return foreign < 2 or foreign <= sum(word in SMALL_WORDS for word in words)
