"""How the words of a text hang together: their order, what governs and owns them, and their tense. Pure.

The same words may ask for different things: "the key of the box" and "the box of the key", "my data" and "your data",
"who founds it" and "who founded it". So what the guard has matched word by word must also hang together alike; where
two texts put matched words in another order, one of a few known turns of the language must explain it, or they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations

import msgspec

from app.cache.lexicon import ARTICLES, FUNCTION_WORDS, GOVERNING, IRREGULAR, MOVING, OWNERS, PASTS, PERSONS

# forms that go with a participle: it is no past then
_BE = frozenset({"is", "are", "am", "be", "being", "get", "gets", "want", "need", "would"})


class Relations(msgspec.Struct, frozen=True, array_like=True):
    """What of it is kept beside a text; pairs are two words with a space between."""

    governed: tuple[str, ...]  # class of the preposition, word
    owned: tuple[str, ...]  # person, word
    linked: tuple[str, ...]  # two words around a preposition
    past: tuple[str, ...]  # words in a form of the past
    persons: tuple[str, ...]  # persons who are subject or object
    agents: tuple[str, ...]  # who does it, as a noun, of whatever time
    named_before: tuple[str, ...]  # what is done to "it", which was named before
    counted: tuple[str, ...]  # prepositions before numbers
    trailing: str  # the preposition at the end
    passive: bool


NONE = Relations((), (), (), (), (), (), (), (), "", passive=False)


def relations(words: Iterable[str], counted: Iterable[str], trailing: str, stem: Callable[[str], str]) -> Relations:
    """Those of the words of a text, in order, given the prepositions before its numbers and its last word."""
    reading = _Reading()
    for word in words:
        reading.take(word, stem)
    return reading.done(counted, GOVERNING.get(trailing, ""))


@dataclass(slots=True)
class _Reading:
    """What has been read so far, and what the next word stands behind."""

    governed: set[str] = field(default_factory=set)
    owned: set[str] = field(default_factory=set)
    linked: set[str] = field(default_factory=set)
    past: set[str] = field(default_factory=set)
    persons: set[str] = field(default_factory=set)
    agents: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    passive: bool = False
    governor: str = ""
    owner: str = ""
    before: tuple[str, ...] = ()  # the words that the preposition stands behind
    chunk: tuple[str, ...] = ()  # the words since the last small one

    def take(self, word: str, stem: Callable[[str], str]) -> None:
        """Read one word more."""
        self.passive = self.passive or word in _BE
        if word in GOVERNING:
            self.governor, self.before, self.chunk = GOVERNING[word], self.chunk, ()
        elif word in OWNERS:
            self.owner, self.chunk = OWNERS[word], ()
        elif word in ARTICLES:
            self.owner = ""
        elif word in PERSONS or word in FUNCTION_WORDS:
            self._break_off(word)
        else:
            self._count(word, stem(word))

    def _break_off(self, word: str) -> None:
        if word in PERSONS:
            self.persons.add(PERSONS[word])
        elif word == "it":
            self.named.update(self.chunk[-1:])
        self.governor, self.owner, self.before, self.chunk = "", "", (), ()

    def _count(self, word: str, known: str) -> None:
        self.chunk += (known,)
        if self.governor:
            self.governed.add(f"{self.governor} {known}")
            self.linked.update(f"{head} {known}" for head in self.before)
        if self.owner:
            self.owned.add(f"{self.owner} {known}")
        if word in PASTS or (word.endswith("ed") and word not in IRREGULAR):
            self.past.add(known)
        elif word.endswith(("er", "or")):
            self.agents.add(known)

    def done(self, counted: Iterable[str], trailing: str) -> Relations:
        """All of it, in a fixed order."""
        return Relations(
            governed=tuple(sorted(self.governed)),
            owned=tuple(sorted(self.owned)),
            linked=tuple(sorted(self.linked)),
            past=tuple(sorted(self.past)),
            persons=tuple(sorted(self.persons)),
            agents=tuple(sorted(self.agents)),
            named_before=tuple(sorted(self.named)),
            counted=tuple(sorted(counted)),
            trailing=trailing,
            passive=self.passive,
        )


def _grouped(pairs: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for pair in pairs:
        first, word = pair.split(" ", 1)
        found.setdefault(word, set()).add(first)
    return found


def tied_otherwise(a: Relations, b: Relations, placed: frozenset[str]) -> bool:
    """Whether a word is governed in both texts by prepositions of another class; of `placed` ones "of" is "in"."""
    ours, theirs = ([_placed(pair, placed) for pair in text.governed] for text in (a, b))
    counted = bool(a.counted) and bool(b.counted) and set(a.counted).isdisjoint(b.counted)
    return _apart(ours, theirs) or counted or a.trailing != b.trailing


def _placed(pair: str, placed: frozenset[str]) -> str:
    governor, word = pair.split(" ", 1)
    return f"in {word}" if governor == "of" and word in placed else pair


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
    return bool(words) and not told.passive and not words <= set(other.agents)


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
