"""The content guard: whether two near texts may share an answer. Pure, fast, and explained by one reason.

Sentence embeddings put "turn it on" beside "turn it off" and account 1234 beside 1235. So after the similarity
threshold both texts must say the same: the same numbers with their units, dates, names, negations, quoted text and
code, and ask for the same kind of answer. Then every other word of the one must be matched in the other: the same stem,
a synonym of a closed list, or one of a short closed list of small words that carry nothing; a word that no list knows
is refused, not let through. Matched words must also be in the same tense, of the same person, behind the same
prepositions and in the same order, or a known turn of the language explains it. The vectors then only have to find
candidates. It errs towards refusing: a refusal costs one upstream call, a wrong answer costs trust. What it cannot read
(another language or script, a long text) it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from app.cache.features import Features, bare_form, stem
from app.cache.frames import PAST
from app.cache.lexicon import AXES, MOMENTS, MONTHS, PASTS, TYING, UNITS, WEEKDAYS
from app.cache.relations import explained, inversions, owned_otherwise, tied_otherwise, told_otherwise


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
    PERSON = "person"
    ORDER = "order"
    ADDITION = "addition"
    SUBSTITUTION = "substitution"


_CALENDAR = frozenset(map(stem, (*MONTHS, *WEEKDAYS, *MOMENTS)))
_POLES = frozenset(stem(word) for axis in AXES for word in axis.one | axis.other)
_UNIT_WORDS = frozenset(map(stem, UNITS))
_ALIKE = ({"when", "time"},)
_ACTED = frozenset({"possible", "polar", "quantity", "why", "when", "where", "time", "date", "howto"})
_OF_A_NUMBER = {"what", "amount", "quantity"}
_OF_NUMBERS = _OF_A_NUMBER | {"price"}


def refusal(a: Features, b: Features) -> GuardReason | None:
    """Why an answer to one text must not stand for the other, or None when nothing speaks against it. Symmetric."""
    for reason, differ in _RULES:
        if differ(a, b):
            return reason
    return None


def _unreadable(a: Features, b: Features) -> bool:
    return not (a.readable and b.readable)


def _only(a: Features, b: Features) -> frozenset[str]:
    """Words that count in the one text and not in the other."""
    return frozenset(a.content) ^ frozenset(b.content)


def _numbers_differ(a: Features, b: Features) -> bool:
    return a.numbers != b.numbers or not _only(a, b).isdisjoint(_UNIT_WORDS)


def _poles_differ(a: Features, b: Features) -> bool:
    """Whether a word in which the texts differ is one end of a pair of opposites."""
    return not _only(a, b).isdisjoint(_POLES)


def _names_differ(a: Features, b: Features) -> bool:
    """Every name must occur in the other text, in whatever case, and those named in both in the same order."""
    if not _known(a, b) or not _known(b, a):
        return True
    shared = set(a.names) & set(b.names)
    return [name for name in a.names if name in shared] != [name for name in b.names if name in shared]


def _known(a: Features, b: Features) -> bool:
    return all(name in b.names or name in b.words for name in a.names)


def _kinds_differ(a: Features, b: Features) -> bool:
    """Another kind of answer, unless the two come to the same; where numbers are given, more of them do."""
    if a.kind == b.kind:
        return a.kind == "who" and _told_of_another_time(a, b)
    if a.kind.endswith(PAST) != b.kind.endswith(PAST):
        return True
    kinds = {a.kind.removesuffix(PAST), b.kind.removesuffix(PAST)}
    if kinds in _ALIKE or (a.numbers and kinds <= _OF_A_NUMBER):
        return False
    return not (len(a.numbers) > 1 and kinds <= _OF_NUMBERS)


def _told_of_another_time(a: Features, b: Features) -> bool:
    """Whether one text has a verb in the past that the other has in the present: "who ran it", "who runs it"."""
    forms_a, forms_b = ({bare_form(word): word for word in text.words} for text in (a, b))
    return any((forms_a[word] in PASTS) != (forms_b[word] in PASTS) for word in forms_a.keys() & forms_b.keys())


def _tenses_differ(a: Features, b: Features) -> bool:
    """A verb is in the past in one text only; in "how is it done" that is no past."""
    shared = frozenset(a.content) & frozenset(b.content)
    if a.kind == "howto":
        return False
    return told_otherwise(a.relations, b.relations, shared) or _undergone(a, b) or _undergone(b, a)


def _undergone(a: Features, b: Features) -> bool:
    """Whether one text says of its subject what the other does to it: "what is charged", "what charges"."""
    moved = set(a.relations.past) - set(b.relations.past) & set(b.content)
    return a.kind in ("what", "who") and bool(moved) and "by" not in a.words and not b.relations.agents


def _substituted(a: Features, b: Features) -> bool:
    only = _only(a, b)
    return not only.isdisjoint(a.content) and not only.isdisjoint(b.content)


def _roles_differ(a: Features, b: Features) -> bool:
    """Who does it, or what is counted, is another one of the same words."""
    both = {"i"} | (set(a.content) & set(b.content))
    if a.subject == b.subject:
        turned = set(a.relations.past) ^ set(b.relations.past)  # "how is a driver rated", "how does a driver rate"
        return a.kind == "howto" and a.subject not in ("", "i", "you") and not turned.isdisjoint(both)
    if a.kind == "howto" and (a.relations.passive or b.relations.passive or a.relations.past != b.relations.past):
        return False
    acted = {text.kind.removesuffix(PAST) for text in (a, b)} <= _ACTED
    return acted and {a.subject, b.subject} <= both


def _order_differs(a: Features, b: Features) -> bool:
    """Words have changed places, or hang together by other small words."""
    if _roles_differ(a, b) or _moved(a, b):
        return True
    ends_a, ends_b = _by_direction(a), _by_direction(b)
    for direction in ends_a.keys() & ends_b.keys():
        if not (ends_a[direction] <= ends_b[direction] or ends_b[direction] <= ends_a[direction]):
            return True
    converted = bool(a.numbers) and a.kind != b.kind  # "5 miles in feet", "convert 5 miles to feet"
    return not converted and (
        _tied_otherwise(ends_a, ends_b) or tied_otherwise(a.relations, b.relations, _placed(a) | _placed(b))
    )


def _placed(text: Features) -> frozenset[str]:
    """Names and dates: "of" one and "in" one come to the same."""
    return frozenset(map(stem, (*text.names, *(word for word in text.content if word in _CALENDAR))))


def _moved(a: Features, b: Features) -> bool:
    """Whether two words are the other way round, and nothing explains it."""
    if ("whom" in a.words) != ("whom" in b.words) and a.kind == b.kind and not {a.subject, b.subject} & {"i", "you"}:
        return "by" not in (*a.words[:1], *b.words[:1])
    if a.numbers and a.kind != b.kind:
        return False
    return any(
        not explained(one, other, a.relations, b.relations) and not {one, other} & (_CALENDAR | {*a.dates})
        for one, other in inversions(a.content, b.content)
    )


def _tied_otherwise(ends_a: dict[str, set[str]], ends_b: dict[str, set[str]]) -> bool:
    """Whether a word is tied to the rest by other small words in each text: "pay with a card", "pay for a card"."""
    ties_a, ties_b = _ties(ends_a), _ties(ends_b)
    return any(ties_a[word].isdisjoint(ties_b[word]) for word in ties_a.keys() & ties_b.keys())


def _ties(ends: dict[str, set[str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for direction in ends.keys() & TYING:
        for word in ends[direction]:
            found.setdefault(word, set()).add(direction)
    return found


def _by_direction(text: Features) -> dict[str, set[str]]:
    """The words that count behind each word of direction."""
    found: dict[str, set[str]] = {}
    for end in text.ends:
        direction, *chunk = end.split(" ")
        counted = set(chunk) & set(text.content)
        if counted:
            found.setdefault(direction, set()).update(counted)
    return found


_RULES: tuple[tuple[GuardReason, Callable[[Features, Features], bool]], ...] = (
    (GuardReason.LANGUAGE, _unreadable),
    (GuardReason.NUMBER, _numbers_differ),
    (GuardReason.NEGATION, lambda a, b: a.negations != b.negations),
    (GuardReason.DATE, lambda a, b: a.dates != b.dates),
    (GuardReason.QUOTE, lambda a, b: a.exact != b.exact),
    (GuardReason.CODE, lambda a, b: a.symbols != b.symbols),
    (GuardReason.NAME, _names_differ),
    (GuardReason.POLARITY, _poles_differ),
    (GuardReason.QUESTION, _kinds_differ),
    (GuardReason.SUBSTITUTION, _substituted),
    (GuardReason.ADDITION, lambda a, b: bool(_only(a, b))),
    (GuardReason.TENSE, _tenses_differ),
    (GuardReason.PERSON, lambda a, b: owned_otherwise(a.relations, b.relations)),
    (GuardReason.ORDER, _order_differs),
)
