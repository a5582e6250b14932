"""The content guard: whether two near texts may share an answer. Pure, fast, and explained by one reason.

Sentence embeddings put "turn it on" beside "turn it off" and account 1234 beside 1235. So after the similarity
threshold both texts must say the same: the same numbers with their units, dates, names, negations, quoted text and code,
ask for the same kind of answer, and, once frames, small words and synonyms are set aside, use the same words, with the
same ends of every "from … to". The vectors then only have to find candidates. It errs towards refusing: a refusal costs
one upstream call, a wrong answer costs trust. What it cannot read (another language or script, a long text) it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from app.cache.features import Features, stem
from app.cache.lexicon import AXES, UNITS


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


_POLES: dict[str, frozenset[tuple[str, bool]]] = {}
for _axis in AXES:
    for _word in _axis.one | _axis.other:
        _POLES[stem(_word)] = _POLES.get(stem(_word), frozenset()) | {(_axis.name, _word in _axis.one)}
_RECKONING = {"what", "amount", "quantity"}
_UNIT_WORDS = frozenset(map(stem, UNITS))


def refusal(a: Features, b: Features) -> GuardReason | None:
    """Why an answer to one text must not stand for the other, or None when nothing speaks against it. Symmetric."""
    for reason, differ in _RULES:
        if differ(a, b):
            return reason
    return None


def _only(a: Features, b: Features) -> frozenset[str]:
    """Words that count in one of the texts."""
    return frozenset(a.content) ^ frozenset(b.content)


def _poles_differ(a: Features, b: Features) -> bool:
    """Whether a word in which the texts differ is one end of a pair of opposites."""
    return any(word in _POLES for word in _only(a, b))


def _names_differ(a: Features, b: Features) -> bool:
    """Every name must occur in the other text, in whatever case, and those named in both in the same order."""
    if not _known(a, b) or not _known(b, a):
        return True
    shared = set(a.names) & set(b.names)
    return [name for name in a.names if name in shared] != [name for name in b.names if name in shared]


def _known(a: Features, b: Features) -> bool:
    return all(name in b.names or name in b.words for name in a.names)


def _kinds_differ(a: Features, b: Features) -> bool:
    """Another kind of answer; of given numbers, "what is" and "how much is" ask the same."""
    return a.kind != b.kind and not (a.numbers and {a.kind, b.kind} <= _RECKONING)


def _order_differs(a: Features, b: Features) -> bool:
    """Two words have changed places around a word of direction, or in otherwise the same text."""
    ends_a, ends_b = _by_direction(a), _by_direction(b)
    if any(ends_a[direction] != ends_b[direction] for direction in ends_a.keys() & ends_b.keys()):
        return True
    if len(a.words) != len(b.words) or set(a.words) != set(b.words):
        return False
    moved = [(one, other) for one, other in zip(a.words, b.words, strict=True) if one != other]
    return len(moved) == 2 and moved[0] == moved[1][::-1]


def _by_direction(text: Features) -> dict[str, set[str]]:
    """The words that count behind each word of direction."""
    found: dict[str, set[str]] = {}
    for end in text.ends:
        direction, _, word = end.partition(" ")
        if word in text.content:
            found.setdefault(direction, set()).add(word)
    return found


_RULES: tuple[tuple[GuardReason, Callable[[Features, Features], bool]], ...] = (
    (GuardReason.LANGUAGE, lambda a, b: not (a.readable and b.readable)),
    (GuardReason.NUMBER, lambda a, b: a.numbers != b.numbers or bool(_only(a, b) & _UNIT_WORDS)),
    (GuardReason.NEGATION, lambda a, b: a.negations != b.negations),
    (GuardReason.DATE, lambda a, b: a.dates != b.dates),
    (GuardReason.QUOTE, lambda a, b: a.exact != b.exact),
    (GuardReason.CODE, lambda a, b: a.symbols != b.symbols),
    (GuardReason.NAME, _names_differ),
    (GuardReason.POLARITY, _poles_differ),
    (GuardReason.QUESTION, _kinds_differ),
    (
        GuardReason.SUBSTITUTION,
        lambda a, b: bool(set(a.content) - set(b.content)) and bool(set(b.content) - set(a.content)),
    ),
    (GuardReason.ADDITION, lambda a, b: bool(_only(a, b))),
    (GuardReason.ORDER, _order_differs),
)
