"""What the content guard compares of a text, found once and kept beside its vector.

A text is taken apart into what is compared letter by letter (quoted text, code, addresses), numbers with their units,
dates, names, negations, the kind of answer that it asks for, and the words that are left: their stems, synonyms taken
together, without the frame of the question and the small words of the language.

Features hold words of the text. They live in Redis under the tenant's own prefix, for as long as the answer they guard,
and nowhere else: never in logs, metrics or errors. Pure, and linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from app.cache.frames import PAST, unframed
from app.cache.lexicon import (
    CALENDAR_ONLY_CAPITALISED,
    CURRENCIES,
    DIRECTIONS,
    FOREIGN_WORDS,
    FUNCTION_WORDS,
    GOVERNING,
    IRREGULAR,
    KEPT_FOR,
    MEASURES,
    MOMENTS,
    MONTHS,
    NEGATIONS,
    NUMBER_WORDS,
    PHRASES,
    SAME_DIRECTION,
    SYNONYM_GROUPS,
    UNITS,
    WEEKDAYS,
)
from app.cache.relations import NONE, Relations, relations

REVISION = 2  # raise it when features change: those of another revision are never compared
MAX_CHARACTERS = 600  # beyond this the embedder may have cut the text, and nobody could vouch for the rest

_EXACT = re.compile(
    r"```(?P<block>.*?)```|`(?P<code>[^`]+)`|\"(?P<quote>[^\"]+)\"|“(?P<curly>[^”]+)”|«(?P<guillemets>[^»]+)»"
    r"|(?<!\w)'(?P<single>[^']+)'(?!\w)|(?P<url>\b\w+://\S+|\bwww\.\S+)|(?P<email>(?<!\S)[^\s@]+@[^\s@]*\w)|(?P<path>(?<!\w)~?/\S+)",
    re.DOTALL,
)
_TOKEN = re.compile(r"[$€£¥₹°]|\d[\d.,:/]*\d|\d|%|[^\W\d_]+(?:['-][^\W\d_]+)*|_|\S")
_RUN = re.compile(r"[\w#+.-]+")
_SPECIAL = re.compile(r"\w_\w|[a-z][A-Z]|\w[#+]|\w\.\w")  # inside a run: snake_case, camelCase, C#, notes.txt
_MEASURE = re.compile(rf"[\d.]+(?:{'|'.join(map(re.escape, UNITS))})?", re.IGNORECASE)  # a number, not a name: "5GB"
_CURLY_APOSTROPHE = "\u2019"
_SENTENCE_END = frozenset(".!?\n:")
_SYMBOLS = frozenset("<>=+*/^&|~#@\\{}[]")
_CONTRACTIONS = (
    (re.compile(r"\bcan't\b|\bcannot\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"'m\b"), " am"),
    (re.compile(r"\bi'd\b"), "i would"),
    (re.compile(r"\b(what|how|where|who|when|why|it|that|there|here|he|she)'s\b"), r"\1 is"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'ve\b"), " have"),
    (re.compile(r"'ll\b"), " will"),
    (re.compile(r"'s\b"), ""),
)
_PHRASES = tuple((re.compile(pattern), put) for pattern, put in PHRASES)
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_NOT_NAMES = frozenset(
    {"i", "i'm", "i've", "i'd", "i'll", "ok", *FUNCTION_WORDS, *NEGATIONS, *UNITS, *MONTHS, *WEEKDAYS}
)
_MAY_BE = frozenset({"howto", "where", "possible", "polar", "request"})  # of these "can" makes no other question
_MAY = frozenset({"can", "could", "may", "might", "allowed", "permitted", "able"})
_OF = frozenset({"of", "with"})  # "a file of 5 MB", "with 5 MB"
_FINDING = frozenset({"find", "get"})
_DEGREES = frozenset({"°", "degree", "degrees"})


class Features(msgspec.Struct, frozen=True, array_like=True):
    """A text as the guard sees it."""

    words: tuple[str, ...]
    content: tuple[str, ...]
    numbers: tuple[str, ...]
    negations: int
    names: tuple[str, ...]
    exact: tuple[str, ...]
    symbols: str
    dates: tuple[str, ...]
    kind: str
    ends: tuple[str, ...]
    subject: str
    relations: Relations
    readable: bool


def features(text: str) -> Features:
    """The features of one text; of one that is too long, that it cannot be read, at no cost."""
    if len(text) > MAX_CHARACTERS:
        return UNREADABLE
    exact = tuple(match.group(match.lastgroup or 0).strip() for match in _EXACT.finditer(text))
    bare = _EXACT.sub(" ", text).replace(_CURLY_APOSTROPHE, "'")
    tokens = _TOKEN.findall(bare)
    numbers, plain = _numbers(tokens)
    words = tuple(_WORD.findall(_written_out(bare)))
    kind, rest, subject = unframed(_phrased(_written_out(" ".join(plain))))
    kind, content = _content(kind, rest)
    if kind == "where" and not _FINDING.isdisjoint(words):
        subject = ""  # "where do I find it" is "where is it"
    return Features(
        words=words,
        content=tuple(content),
        numbers=numbers,
        negations=sum(word in NEGATIONS for word in words),
        names=tuple(_names(tokens, bare)),
        exact=exact,
        symbols="".join(token for token in tokens if token in _SYMBOLS),
        dates=tuple(_dates(tokens)),
        kind=kind,
        ends=tuple(sorted(_ends(rest))),
        subject=subject if subject == "i" else stem(subject),
        relations=relations(_WORD.findall(rest), _before_numbers(tokens), _last_word(text), stem),
        readable=_is_english(words, text),
    )


UNREADABLE = Features((), (), (), 0, (), (), "", (), "", (), "", NONE, readable=False)


def stem(word: str) -> str:
    """A word without its endings, and for all words of a group of synonyms the same."""
    bare = bare_form(word)
    return _SYNONYMS.get(bare, bare)


def bare_form(word: str) -> str:
    """A word without its endings; irregular forms come to their verb."""
    known = IRREGULAR.get(word)
    if known is not None:
        word = known
    elif word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "ches", "shes", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    elif word.endswith("ing") and len(word) > 5:
        word = _undoubled(word[:-3])
    elif word.endswith("ed") and len(word) > 4:
        word = _undoubled(word[:-2])
    elif word.endswith("ly") and len(word) > 5:
        word = word[:-2]
    return word.removesuffix("e") if len(word) > 3 else word


def _undoubled(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz" else word


_SYNONYMS = {bare_form(word): bare_form(group.split()[0]) for group in SYNONYM_GROUPS for word in group.split()}
_KEPT_FOR = {kind: frozenset(map(stem, words)) for kind, words in KEPT_FOR.items()}
_MEASURES = {bare_form(word): name for name, words in MEASURES.items() for word in words.split()}


def _before_numbers(tokens: Sequence[str]) -> Iterator[str]:
    """The prepositions that stand before numbers, a currency between them or not."""
    for place, token in enumerate(tokens):
        if token[0].isdigit() or token.casefold() in NUMBER_WORDS:
            before = place - 1 - (place > 1 and tokens[place - 1] in CURRENCIES)
            if before >= 0 and (word := tokens[before].casefold()) in GOVERNING.keys() - _OF:
                yield SAME_DIRECTION.get(word, word)


def _last_word(text: str) -> str:
    words = text.rsplit(None, 1)
    return words[-1].rstrip(".?!").casefold() if words else ""


def _written_out(text: str) -> str:
    text = text.casefold()
    for pattern, put in _CONTRACTIONS:
        text = pattern.sub(put, text)
    return text


def _phrased(text: str) -> str:
    for pattern, put in _PHRASES:
        text = pattern.sub(put, text)
    return re.sub(r"\s+", " ", text)


def _content(kind: str, rest: str) -> tuple[str, list[str]]:
    """The words that count, once each and in order; a measured quantity is a kind of its own.

    Whether something may be counts, but where the kind says it: "when can I leave" is not "when do I leave".
    """
    base, past = kind.removesuffix(PAST), kind[len(kind.removesuffix(PAST)) :]
    said = _KEPT_FOR.get(base, frozenset())
    found: dict[str, None] = {}
    for word in _WORD.findall(rest):
        if base not in _MAY_BE and word in _MAY:
            found["may"] = None
        if word in FUNCTION_WORDS or word in NEGATIONS:
            continue
        if base in ("how", "what", "amount", "howto") and bare_form(word) in _MEASURES:
            base = f"measure {_MEASURES[bare_form(word)]}"
        elif stem(word) not in said:
            found[stem(word)] = None
    return base + past, list(found)


def _ends(rest: str) -> Iterator[str]:
    """Where something comes from and goes to: a word of direction and the words that count up to the next small one."""
    direction, chunk = "", list[str]()
    for word in [*_WORD.findall(rest), "to"]:
        if word not in FUNCTION_WORDS and word not in DIRECTIONS:
            chunk.append(stem(word))
        elif word in DIRECTIONS or chunk:
            if direction and chunk:
                yield " ".join((direction, *chunk))
            direction, chunk = (SAME_DIRECTION.get(word, word), []) if word in DIRECTIONS else ("", [])


def _numbers(tokens: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Numbers with their units, and the tokens without them."""
    numbers: list[str] = []
    plain: list[str] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        number = token.replace(",", "") if token[0].isdigit() else NUMBER_WORDS.get(token.casefold())
        if number is None:
            plain.append(token)
            place += 1
            continue
        before = CURRENCIES.get(plain[-1], "") if plain else ""
        if before:
            plain.pop()
        unit, place = _unit(tokens, place + 1)
        numbers.append(f"{number} {before or unit}".strip())
    return tuple(numbers), plain


def _unit(tokens: Sequence[str], place: int) -> tuple[str, int]:
    """The unit that begins at a place, and the place behind it."""
    following = [token.casefold() for token in tokens[place : place + 2]]
    if following and following[0] in _DEGREES:
        scale = UNITS.get(following[1], "") if len(following) > 1 else ""
        return ("degrees " + scale).strip(), place + 1 + (scale in ("c", "f"))
    if following and (unit := UNITS.get(following[0]) or CURRENCIES.get(following[0])):
        return unit, place + 1
    return "", place


def _names(tokens: Sequence[str], text: str) -> Iterator[str]:
    """Words that name something: capitals inside a sentence, acronyms, and whatever mixes letters with digits."""
    opening, shouted = True, text.isupper()
    for token in tokens:
        if token[0].isalpha():
            acronym = len(token) > 1 and token.isupper() and not shouted
            if acronym or (token[0].isupper() and not opening and token.casefold() not in _NOT_NAMES):
                yield token.casefold().removesuffix("'s")
            opening = False
        elif token in _SENTENCE_END:
            opening = True
    yield from (run.casefold() for run in _runs(text) if _is_identifier(run))


def _runs(text: str) -> Iterator[str]:
    return (run.strip(".-") for run in _RUN.findall(text))


def _is_identifier(run: str) -> bool:
    mixed = any(letter.isdigit() for letter in run) and any(letter.isalpha() for letter in run)
    return bool(mixed or _SPECIAL.search(run)) and not _MEASURE.fullmatch(run)


def _dates(tokens: Sequence[str]) -> Iterator[str]:
    for token in tokens:
        word = token.casefold()
        if word in CALENDAR_ONLY_CAPITALISED and (not token[0].isupper() or (word == "may" and token is tokens[0])):
            continue
        if word in MONTHS:
            yield f"month {MONTHS[word]}"
        elif word in WEEKDAYS or word.removesuffix("s") in WEEKDAYS:
            yield f"day {WEEKDAYS.get(word) or WEEKDAYS[word.removesuffix('s')]}"
        elif word in MOMENTS:
            yield word


def _is_english(words: Sequence[str], text: str) -> bool:
    """Whether the word lists can be trusted here: Latin letters, and no more foreign than English small words."""
    if any(ord(letter) > 0x24F and letter.isalpha() for letter in text):
        return False
    foreign = sum(word in FOREIGN_WORDS for word in words)
    return foreign < 2 or foreign <= sum(word in FUNCTION_WORDS for word in words)
