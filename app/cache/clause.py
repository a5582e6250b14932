"""A clause in its normal form: the same for all wordings that the rules of this module can turn into each other. Pure.

What may be turned is closed: articles go; auxiliaries become flags (tense, modality); "the A of B" and "B's A" become
"B A"; "X is done by Y" becomes "Y does X"; "give me X" becomes "give X to me"; the parts of a sentence that begin with
different prepositions may change places. All else stays where it is: who does what to whom is the order of the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from app.cache.grammar import AMOUNTS, ARTICLES, AUXILIARIES, BE, CLAUSES, HAVE, MODALS, PAST, PLACES
from app.cache.nouns import in_order
from app.cache.shape import Clause
from app.cache.synonyms import bare_form, is_past, stem
from app.cache.verbs import active, finite_past, gerund, perfect, progressive

_ALIKE = {
    "has": "have", "our": "my", "if": "when", "whenever": "when", "while": "when",
    "we": "i", "me": "i", "us": "i", "him": "he", "them": "they",
}  # fmt: skip
_MEASURES = frozenset({"weight", "height", "size", "age", "speed", "distance", "depth", "width"})
_OF_EVENTS = frozenset({"polar", "when", "date", "duration", "price", "howto"})  # "will it open" is "does it open"
_OF_AN_AMOUNT = frozenset({"price", "measure height", "measure size"})
_WITHOUT_BE = frozenset({"price", "duration", "quantity"})


def normal(kind: str, text: str, names: frozenset[str]) -> Clause:
    """The normal form of a clause of a kind of question."""
    words = in_order(kind, text.split(), names)
    clause = Clause(kind)
    _Reader(clause).read(words)
    progressive(clause, words)
    perfect(clause)
    gerund(clause)
    active(clause, words)
    finite_past(clause, words)
    _stemmed(clause, names)
    _settled(clause)
    return clause


class _Reader:
    """Reads a clause word by word: flags of the main clause, then core and parts."""

    def __init__(self, clause: Clause) -> None:
        self._clause = clause
        self._beside = False  # behind "when", "if" and their like, where flags are words

    def read(self, words: Sequence[str]) -> None:
        for place, word in enumerate(words):
            if word in AUXILIARIES:
                self._auxiliary(word, words, place)
            elif word not in ARTICLES:
                self._word(word)

    def _word(self, word: str) -> None:
        clause = self._clause
        if word in CLAUSES:
            self._beside = True
        if word in PLACES or word in CLAUSES:
            clause.parts.append([word])
        elif word != ",":
            (clause.parts[-1] if clause.parts else clause.core).append(word)

    def _auxiliary(self, word: str, words: Sequence[str], place: int) -> None:
        clause = self._clause
        if word in HAVE and not _is_perfect(words, place):
            self._word(word)
        elif self._beside:
            if word in MODALS or word in PAST:
                self._word("+past" if word in PAST else word)
        elif word in MODALS:
            if clause.modal:
                self._word(word)
            unneeded = word == "must" and words[place - 1] == "not"  # "does not have to" is no "must not"
            clause.modal = clause.modal or ("unneeded" if unneeded else MODALS[word])
        else:
            clause.past = clause.past or word in PAST
            clause.be = clause.be or word in BE
            clause.perfect = clause.perfect or word in HAVE


def _is_perfect(words: Sequence[str], place: int) -> bool:
    """Whether "have" is an auxiliary here: a participle follows at once, or later where it begins the clause."""
    if place and not AUXILIARIES.isdisjoint(words[:place]):
        return False
    behind = [word for word in words[place + 1 :] if word != "not"]
    if place:
        return bool(behind) and (is_past(behind[0]) or behind[0] == "been")
    return any((is_past(word) and before not in ARTICLES) or word == "been" for before, word in pairwise(["", *behind]))


def _stemmed(clause: Clause, names: frozenset[str]) -> None:
    clause.core = list(_stems(clause.core, names))
    clause.parts = [list(_stems(part, names)) for part in clause.parts]


def _stems(words: Sequence[str], names: frozenset[str]) -> Iterator[str]:
    return (bare_form(word) if word in names else stem(_ALIKE.get(word, word)) for word in words)


def _settled(clause: Clause) -> None:
    """What the kind of a question says already goes; what comes to the same is one."""
    _settle_modal(clause)
    if clause.kind == "duration":
        _settle_duration(clause)
    if clause.kind in _OF_EVENTS and clause.core[-1:] == ["happen"]:
        clause.core.pop()
        clause.be = True
    if (clause.kind == "deadline" and clause.modal == "must") or (clause.kind == "date" and clause.past):
        clause.kind = "when"
    _settle_measure(clause)


def _settle_modal(clause: Clause) -> None:
    """In a yes-or-no question "may" is "can"; of a way, a place and an event the kind says what is asked."""
    kind, modal = clause.kind, clause.modal
    if kind == "howto":
        clause.modal = "must" if modal in ("must", "should") else ""
    elif kind == "polar" and modal == "may":
        clause.modal = "can"
    elif kind != "polar" and modal == "should":
        clause.modal = "must"
    elif modal in ("will", "would") and kind in _OF_EVENTS:
        clause.modal = ""
    elif kind == "what" and clause.core == ["i"] and not modal:
        clause.modal = "must"  # "what do I do when"
    elif kind == "where" and modal == "can" and clause.core[:1] == ["i"]:
        clause.modal = ""


def _settle_duration(clause: Clause) -> None:
    """How long it "takes" is how long it is; how long I do it is how long I must."""
    for part in (clause.core, *clause.parts):
        if part[-1:] == ["take"]:
            part.pop()
    if not clause.modal and clause.core[:1] == ["i"]:
        clause.modal = "must"


def _settle_measure(clause: Clause) -> None:
    """How high a fee is, is what it is; what the height of a thing is, is how high it is."""
    core, kind = clause.core, clause.kind
    if kind in _OF_AN_AMOUNT and not AMOUNTS.isdisjoint(core):
        clause.kind, clause.be = "what", True
    elif kind == "what" and clause.be and core and not clause.parts and core[-1] in _MEASURES:
        clause.kind, clause.be = f"measure {core.pop()}", False
    elif kind.startswith("measure") or kind in _WITHOUT_BE:
        clause.be = False
