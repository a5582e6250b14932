"""What the content guard compares of a text, found once and kept beside its vector.

A text is taken apart into what is compared letter by letter (quoted text, code, addresses), numbers with their units,
dates, names and negations, and into the normal form of what it asks: the kind of answer, tense and modality, and its
words in normal order.

Features hold words of the text. They live in Redis under the tenant's own prefix, for as long as the answer they guard,
and nowhere else: never in logs, metrics or errors. Pure, and linear in the text.
"""

from __future__ import annotations

import msgspec

from app.cache.clause import normal
from app.cache.frames import asked
from app.cache.lexicon import NEGATIONS
from app.cache.reading import read

REVISION = 3  # raise it when features change: those of another revision are never compared
MAX_CHARACTERS = 600  # beyond this the embedder may have cut the text, and nobody could vouch for the rest


class Features(msgspec.Struct, frozen=True, array_like=True):
    """A text as the guard sees it."""

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    negations: tuple[str, ...]
    names: tuple[str, ...]
    exact: tuple[str, ...]
    symbols: str
    dates: tuple[str, ...]
    kind: str
    tense: str
    modal: str
    form: tuple[str, ...]
    beside: str
    readable: bool


def features(text: str) -> Features:
    """The features of one text; of one that is too long, that it cannot be read, at no cost."""
    if len(text) > MAX_CHARACTERS:
        return UNREADABLE
    reading = read(text)
    question = asked(reading.plain)
    clause = normal(question.kind, question.clause, frozenset(reading.names))
    return Features(
        words=reading.words,
        numbers=reading.numbers,
        negations=tuple(word for word in reading.words if word in NEGATIONS),
        names=reading.names,
        exact=reading.exact,
        symbols=reading.symbols,
        dates=reading.dates,
        kind=clause.kind,
        tense=" ".join(name for name in ("past", "perfect", "be") if getattr(clause, name)),
        modal=clause.modal,
        form=clause.form(),
        beside=question.beside,
        readable=reading.is_english,
    )


UNREADABLE = Features((), (), (), (), (), "", (), "", "", "", (), "", readable=False)
