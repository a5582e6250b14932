"""The content guard: whether two near texts may share an answer. Pure, fast, and explained by one reason.

Sentence embeddings put "turn it on" beside "turn it off" and account 1234 beside 1235. So after the similarity
threshold both texts must come to the same normal form: the same kind of question, tense and modality, and the same
words in the same order, once frames, articles, synonyms and the few known turns of the language are taken out of the
way (`frames.py`, `clause.py`, `synonyms.py`). It is closed by default: whatever no rule knows to be the same is
different. The vectors then only have to find candidates. It errs towards refusing: a refusal costs one upstream call, a
wrong answer costs trust. What it cannot read (another language or script, a long text) it refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from app.cache.features import Features
from app.cache.lexicon import OPPOSITES, UNITS, word_set
from app.cache.synonyms import stem


class GuardReason(StrEnum):
    """What differs between two texts; fit for a metric label."""

    LANGUAGE = "language"
    NUMBER = "number"
    NEGATION = "negation"
    POLARITY = "polarity"
    DATE = "date"
    NAME = "name"
    QUOTE = "quote"
    CODE = "code"
    QUESTION = "question"
    TENSE = "tense"
    MODALITY = "modality"
    PERSON = "person"
    ORDER = "order"
    ADDITION = "addition"
    SUBSTITUTION = "substitution"


_OPPOSITES = tuple((frozenset(map(stem, one)), frozenset(map(stem, other))) for one, other in OPPOSITES)
_UNIT_WORDS = frozenset(map(stem, UNITS))
_PERSONS = word_set("i you he she they my your his her their its whose mine yours")


def refusal(a: Features, b: Features) -> GuardReason | None:
    """Why an answer to one text must not stand for the other, or None when nothing speaks against it. Symmetric."""
    for reason, differ in _RULES:
        if differ(a, b):
            return reason
    return None


def _surplus(a: Features, b: Features) -> tuple[frozenset[str], frozenset[str]]:
    """Words that stand in the one normal form more often than in the other, of both."""
    ours, theirs = Counter(a.form), Counter(b.form)
    return frozenset(ours - theirs), frozenset(theirs - ours)


def _numbers(text: Features) -> list[str]:
    return sorted(word for word in text.form if word[0] == "#")


def _differ_in(words: frozenset[str]) -> Callable[[Features, Features], bool]:
    return lambda a, b: a.form != b.form and any(not words.isdisjoint(surplus) for surplus in _surplus(a, b))


def _opposed(a: Features, b: Features) -> bool:
    """Whether the one has a word whose opposite the other has instead."""
    if a.form == b.form:
        return False
    ours, theirs = _surplus(a, b)
    return any((ours & one and theirs & other) or (ours & other and theirs & one) for one, other in _OPPOSITES)


def _names_differ(a: Features, b: Features) -> bool:
    """Whether a name of the one does not occur in the other, in whatever case."""
    return not (_known(a, b) and _known(b, a))


def _known(a: Features, b: Features) -> bool:
    return all(name in b.names or name in b.words for name in a.names)


def _substituted(a: Features, b: Features) -> bool:
    return a.form != b.form and all(_surplus(a, b))


_RULES: tuple[tuple[GuardReason, Callable[[Features, Features], bool]], ...] = (
    (GuardReason.LANGUAGE, lambda a, b: not (a.readable and b.readable)),
    (GuardReason.NUMBER, lambda a, b: _numbers(a) != _numbers(b) or _differ_in(_UNIT_WORDS)(a, b)),
    (GuardReason.NEGATION, lambda a, b: a.negations != b.negations),
    (GuardReason.DATE, lambda a, b: a.dates != b.dates),
    (GuardReason.QUOTE, lambda a, b: a.exact != b.exact),
    (GuardReason.CODE, lambda a, b: a.symbols != b.symbols),
    (GuardReason.NAME, _names_differ),
    (GuardReason.POLARITY, _opposed),
    (GuardReason.QUESTION, lambda a, b: a.kind != b.kind),
    (GuardReason.TENSE, lambda a, b: a.tense != b.tense),
    (GuardReason.MODALITY, lambda a, b: a.modal != b.modal),
    (GuardReason.PERSON, _differ_in(_PERSONS)),
    (GuardReason.SUBSTITUTION, _substituted),
    (GuardReason.ADDITION, lambda a, b: sorted(a.form) != sorted(b.form)),
    (GuardReason.ORDER, lambda a, b: (a.form, a.beside) != (b.form, b.beside)),
)
