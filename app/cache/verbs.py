"""Verbs in one shape: passives, progressives, gerunds and pasts as the plain verb with flags beside it. Pure.

Each function turns one clause in place, and only where the grammar leaves no doubt who does what.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.cache.grammar import ARTICLES, AUXILIARIES, DEEDS, NOUNS, PLACES, POSSESSIVES
from app.cache.shape import Clause
from app.cache.synonyms import SAME_IN_PAST, is_ing, is_past, verb


def progressive(clause: Clause, words: Sequence[str]) -> None:
    """Turn "it is raining" into "it rains"; the subject, or a preposition, stands before such a form."""
    if not clause.be or clause.kind in NOUNS or clause.core[:1] == ["there"]:
        return
    for part, first in ((clause.core, 1), *((part, 2) for part in clause.parts[-1:])):
        for place in range(first, len(part)):
            if is_ing(part[place]) and not _is_noun(part[place], words):
                part[place], clause.be = verb(part[place]), False
                return


def perfect(clause: Clause) -> None:
    """Turn "has it rained" into "did it rain", in a yes-or-no question."""
    if clause.kind != "polar" or not clause.perfect:
        return
    clause.perfect, clause.past = False, True
    done = next((place for place, word in enumerate(clause.core) if is_past(word)), None)
    if done is not None and not clause.be:
        clause.core[done] = verb(clause.core[done])


def _is_noun(word: str, words: Sequence[str]) -> bool:
    before = words[words.index(word) - 1]
    return before in ARTICLES or before in POSSESSIVES or before in PLACES


def gerund(clause: Clause) -> None:
    """Turn "is it safe to run it" into "is running it safe"; of a way to do a thing the verb."""
    core = clause.core
    if core and is_ing(core[0]) and clause.kind == "howto":
        core[0] = verb(core[0])
    elif core and is_ing(core[0]) and clause.kind == "polar" and clause.be:
        core[:1] = ["to", verb(core[0])]
    elif len(core) == 2 and core[0] == "it" and len(clause.parts) == 1 and clause.parts[0][0] == "to":
        clause.core = [*clause.parts.pop(), core[1]]


def active(clause: Clause, words: Sequence[str]) -> None:
    """Turn "X is done by Y" into "Y does X", where nothing else is asked for: in other questions a part is missing."""
    core, parts = clause.core, clause.parts
    done = next((place for place in reversed(range(len(core))) if _is_done(core[place], words)), None)
    by = next((part for part in parts if part[0] == "by"), None)
    if clause.kind not in ("polar", "who") or not clause.be or done is None or by is None:
        return
    if any(word[0] == "#" for word in by) or (clause.kind == "who") != (len(by) == 1):
        return
    parts.remove(by)
    clause.core = [*by[1:], verb(core[done]), *core[:done], *core[done + 1 :]]
    clause.be = False


def _is_done(word: str, words: Sequence[str]) -> bool:
    """Whether a past form is the verb of the clause, and does not only describe: "a cancelled flight"."""
    if not is_past(word):
        return False
    before = words[words.index(word) - 1] if word in words[1:] else ""
    return before not in ARTICLES and before not in POSSESSIVES


def finite_past(clause: Clause, words: Sequence[str]) -> None:
    """A past without an auxiliary is told by its verb: "whether Ann paid it"; some verbs do not tell."""
    if any(word in AUXILIARIES for word in words) or clause.kind in DEEDS:
        return
    for place, word in enumerate(clause.core):
        if word in SAME_IN_PAST and place:
            clause.past = clause.perfect = clause.be = True
            return
        if _is_done(word, words):
            clause.core[place], clause.past = verb(word), True
            return
