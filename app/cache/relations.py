"""How the words of a text hang together: their order, what governs and owns them, and their tense. Pure.

The same words may ask for different things: "the key of the box" and "the box of the key", "my data" and "your data",
"who founds it" and "who founded it". So what the guard has matched word by word must also hang together alike; where
two texts put matched words in another order, one of a few known turns of the language must explain it, or they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

import msgspec

from app.cache.lexicon import ARTICLES, FUNCTION_WORDS, GOVERNING, IRREGULAR, MOVING, OWNERS, PASTS, PERSONS

_BE = frozenset({"is", "are", "am", "be", "being", "get", "gets", "want", "need", "would"})


class Relations(msgspec.Struct, frozen=True, array_like=True):
    """What of a text is kept of it; pairs are two words with a space between."""

    governed: tuple[str, ...]  # class of the preposition, word
    owned: tuple[str, ...]  # person, word
    linked: tuple[str, ...]  # two words around a preposition
    past: tuple[str, ...]  # words in a form of the past
    persons: tuple[str, ...]  # persons who are subject or object
    agents: tuple[str, ...]  # who does it, as a noun, of whatever time
    named_before: tuple[str, ...]  # what is done to "it", which was named before
    passive: bool


NONE = Relations((), (), (), (), (), (), (), passive=False)


def relations(words: Iterable[str], stem: Callable[[str], str]) -> Relations:
    """Those of the words of a text, in order."""
    governed, owned, linked, past, persons, agents, named = (set[str]() for _ in range(7))
    governor = owner = before = ""
    passive = False
    chunk: list[str] = []
    for word in words:
        passive = passive or word in _BE
        if word in GOVERNING:
            governor, before, chunk = GOVERNING[word], " ".join(chunk), []
        elif word in OWNERS:
            owner, chunk = OWNERS[word], []
        elif word in PERSONS:
            persons.add(PERSONS[word])
            governor, owner, before, chunk = "", "", "", []
        elif word in FUNCTION_WORDS and word not in ARTICLES:
            if word == "it":
                named.update(chunk[-1:])
            governor, owner, before, chunk = "", "", "", []
        elif word not in ARTICLES:
            known = stem(word)
            chunk.append(known)
            if governor:
                governed.add(f"{governor} {known}")
                linked.update(f"{head} {known}" for head in before.split())
            if owner:
                owned.add(f"{owner} {known}")
            if word in PASTS or (word.endswith("ed") and word not in IRREGULAR):
                past.add(known)
            elif word.endswith(("er", "or")):
                agents.add(known)
        else:
            owner = ""
    parts = (governed, owned, linked, past, persons, agents, named)
    return Relations(*(tuple(sorted(part)) for part in parts), passive=passive)


def _grouped(pairs: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for pair in pairs:
        first, word = pair.split(" ", 1)
        found.setdefault(word, set()).add(first)
    return found


def tied_otherwise(a: Relations, b: Relations, placed: frozenset[str]) -> bool:
    """Whether a word is governed in both texts by prepositions of another class; of `placed` ones "of" is "in"."""
    ours, theirs = (
        [pair.replace("of ", "in ", 1) if pair.startswith("of ") and pair[3:] in placed else pair for pair in text.governed]
        for text in (a, b)
    )
    return _apart(ours, theirs)


def owned_otherwise(a: Relations, b: Relations) -> bool:
    """Whether a thing is somebody else's, or somebody else does it or is told of."""
    return _apart(a.owned, b.owned) or (bool(a.persons) and bool(b.persons) and a.persons != b.persons)


def _apart(a: Iterable[str], b: Iterable[str]) -> bool:
    ours, theirs = _grouped(a), _grouped(b)
    return any(ours[word].isdisjoint(theirs[word]) for word in ours.keys() & theirs.keys())


def told_otherwise(a: Relations, b: Relations, shared: frozenset[str]) -> bool:
    """Whether a word is in the past in one text only, and no passive explains it."""
    ours, theirs = (set(text.past) & shared for text in (a, b))
    return _past_only(ours - theirs, a, b) or _past_only(theirs - ours, b, a)


def _past_only(words: set[str], told: Relations, other: Relations) -> bool:
    return not told.passive and not words <= set(other.agents)


def inversions(a: Iterable[str], b: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of words that both texts have, in another order."""
    place = {word: number for number, word in enumerate(b)}
    for one, other in combinations([word for word in a if word in place], 2):
        if place[one] > place[other]:
            yield one, other


def explained(one: str, other: str, a: Relations, b: Relations) -> bool:
    """Whether a known turn explains that `one` is before `other` in a and behind it in b.

    "the manual of the lamp" is "the lamp manual", "how is it cleaned" is "how do I clean it"; but what is so linked in
    both texts, or in neither, has changed places.
    """
    if one in MOVING or other in MOVING:
        return True
    linked_a, linked_b = f"{one} {other}" in a.linked, f"{other} {one}" in b.linked
    if linked_a != linked_b:
        return True
    moved = (set(a.past) ^ set(b.past)) | (set(a.named_before) ^ set(b.named_before))
    return one in moved or other in moved
