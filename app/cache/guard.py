"""The content guard: whether two near texts may share an answer. Pure, fast, and explained by one reason.

Sentence embeddings put "turn it on" beside "turn it off" and account 1234 beside 1235. After the similarity threshold
this guard compares what the vectors lose: numbers and units, negation, opposites, names, quoted text and code, dates,
the kind of question, who does what to whom. It errs towards refusing: a refusal costs one upstream call, a wrong
answer costs trust. What it cannot read (another language or script, a long text) it refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum

from app.cache.features import Features

MAX_ADDED_WORDS = 2  # content words that one text may say more than the other
TEMPLATE_WORDS = 4  # shared content words from which a single swapped one no longer shows in the similarity


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
    ORDER = "order"
    ADDITION = "addition"
    SUBSTITUTION = "substitution"


def refusal(a: Features, b: Features) -> GuardReason | None:
    """Why an answer to one text must not stand for the other, or None when nothing speaks against it. Symmetric."""
    for reason, differ in _RULES:
        if differ(a, b):
            return reason
    return None


def _unreadable(a: Features, b: Features) -> bool:
    return not (a.readable and b.readable)


def _poles_differ(a: Features, b: Features) -> bool:
    """A marked pole must stand on both sides; a plain one must not meet its marked opposite on either."""
    for pole in set(a.poles) ^ set(b.poles):
        opposite = f"{pole[:-1]}-"
        if pole.endswith("-") or opposite in a.poles or opposite in b.poles:
            return True
    return False


def _names_differ(a: Features, b: Features) -> bool:
    """Every name must occur in the other text, in whatever case, and those named in both in the same order."""
    if not _known(a.names, b) or not _known(b.names, a):
        return True
    shared = set(a.names) & set(b.names)
    return [name for name in a.names if name in shared] != [name for name in b.names if name in shared]


def _known(names: Iterable[str], other: Features) -> bool:
    return all(name in other.names or name in other.words for name in names)


def _order_differs(a: Features, b: Features) -> bool:
    """The same content words in another order, where a word like "to", "from" or "than" gives order its meaning."""
    return (a.directed or b.directed) and a.content != b.content and Counter(a.content) == Counter(b.content)


def _one_says_more(a: Features, b: Features) -> bool:
    only_a, only_b = set(a.content) - set(b.content), set(b.content) - set(a.content)
    return abs(len(only_a) - len(only_b)) > MAX_ADDED_WORDS


def _one_word_swapped(a: Features, b: Features) -> bool:
    """One content word for another in a long text: there the vectors hardly move, whatever the word was."""
    shared = set(a.content) & set(b.content)
    only_a, only_b = set(a.content) - shared, set(b.content) - shared
    return len(only_a) == len(only_b) == 1 and len(shared) >= TEMPLATE_WORDS


_RULES: tuple[tuple[GuardReason, Callable[[Features, Features], bool]], ...] = (
    (GuardReason.LANGUAGE, _unreadable),
    (GuardReason.NUMBER, lambda a, b: a.numbers != b.numbers),
    (GuardReason.NEGATION, lambda a, b: a.negations != b.negations),
    (GuardReason.POLARITY, _poles_differ),
    (GuardReason.DATE, lambda a, b: a.dates != b.dates),
    (GuardReason.QUOTE, lambda a, b: a.exact != b.exact),
    (GuardReason.CODE, lambda a, b: a.symbols != b.symbols),
    (GuardReason.NAME, _names_differ),
    (GuardReason.QUESTION, lambda a, b: a.question != b.question),
    (GuardReason.ORDER, _order_differs),
    (GuardReason.ADDITION, _one_says_more),
    (GuardReason.SUBSTITUTION, _one_word_swapped),
)
