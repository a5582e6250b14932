"""Nouns in one order: "the A of B" and "B's A" as "B A", "lend Ann the drill" as "lend the drill to Ann". Pure.

Works on the words of a clause before it is read. Where it cannot be told where a noun ends (a verb may stand behind it)
nothing is turned: two such wordings then simply do not meet.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.cache.grammar import (
    AMOUNTS,
    ARTICLES,
    BE,
    BREAKS,
    DEEDS,
    DO,
    NOUNS,
    PAST,
    POSSESSIVES,
    STOPS,
    stops,
)
from app.cache.synonyms import is_past, stem, verb

_AGENTS = {
    "author": ("write", True), "inventor": ("invent", True), "composer": ("compose", True),
    "painter": ("paint", True), "founder": ("found", True), "owner": ("own", False), "mentor": ("mentor", False),
}  # what they are called by, and whether they did it once  # fmt: skip
_GIVEN = frozenset(map(stem, ["give", "lend", "send", "owe", "show", "sell", "teach", "pay", "bring", "gift", "tell"]))
_RECEIVERS = frozenset({"me", "us", "you", "him", "them"})


def in_order(kind: str, words: list[str], names: frozenset[str]) -> list[str]:
    """The words of a clause with its nouns in one order."""
    words = _of_turned(kind, _agent_as_verb(kind, _numbered(words)), names)
    return _given_to(_had(kind, words, names), names)


def _agent_as_verb(kind: str, words: list[str]) -> list[str]:
    """Who "is the author of" a thing wrote it."""
    bare = [word for word in words if word not in ARTICLES]
    if kind != "who" or len(bare) < 3 or bare[0] not in BE:
        return words
    if bare[1] in _AGENTS and bare[2] == "of":
        agent, thing = bare[1], bare[3:]
    elif bare[-1] in _AGENTS and not any(stops(word) for word in bare[1:-1]):
        agent, thing = bare[-1], bare[1:-1]
    else:
        return words
    does, once = _AGENTS[agent]
    return ["did" if once or bare[0] in PAST else "does", does, *thing]


def _numbered(words: list[str]) -> list[str]:
    """Name "my order 5" as "order 5": whose it is, its number says."""
    return [
        word for place, word in enumerate(words) if word not in ("my", "our") or not _has_number(words[place + 1 :])
    ]


def _has_number(words: Sequence[str]) -> bool:
    """Whether a number ends the noun that begins here, of two words at most."""
    for word in words[1:3]:
        if _is_number(word):
            return True
        if stops(word):
            return False
    return False


def _is_number(word: str) -> bool:
    return (word[0] == "#" and ":" not in word) or any(letter.isdigit() for letter in word)


def _had(kind: str, words: list[str], names: frozenset[str]) -> list[str]:
    """Which price a thing has, or how many doors: "a thing's price", "a thing's doors"."""
    if kind not in ("what", "quantity") or words[-1:] not in (["have"], ["has"]):
        return words
    start = next((place for place, word in enumerate(words) if word in ARTICLES or word in names), 0)
    for place, word in enumerate(words):
        if word in ("do", "does"):
            start = place
    owner = [word for word in words[start:-1] if word not in ARTICLES and word not in DO]
    if not 0 < start < len(words) - 1 or any(word in STOPS for word in (*owner, *words[:start])):
        return words
    return ["is", *owner, *words[:start]]


def _of_turned(kind: str, words: list[str], names: frozenset[str]) -> list[str]:
    """Turn "the A of B" into "B A", "the bill for May" as "the May bill"; of several, the last first."""
    is_noun = kind in NOUNS or kind.startswith("measure")
    nouns_only = kind in DEEDS or (is_noun and bool(words) and words[0] in BE)
    for place in range(len(words) - 2, 0, -1):
        if (
            words[place] == "of"
            or _is_of_an_amount(words, place)
            or (words[place] == "for" and words[place + 1].startswith("month"))
        ):
            start, end = _head(words, place, whole=words[place] == "for"), _end(words, place + 1)
            if start < place and (nouns_only or _is_one_noun(words[place + 1 : end], names)):
                tail = words[place + 1 : end]
                head = words[start:place]
                words = [*words[:start], *tail, *head, *words[end:]]
    return words


def _is_of_an_amount(words: Sequence[str], place: int) -> bool:
    """The fee "for" a thing, or "on" it, is the fee of it."""
    return words[place] in ("for", "on") and stem(words[place - 1]) in AMOUNTS and words[place - 2] in ARTICLES


def _head(words: Sequence[str], place: int, *, whole: bool) -> int:
    """Where the noun before "of" begins: behind its article, or one word; `whole`: behind its owner, too."""
    start = place
    while start and not stops(words[start - 1]):
        start -= 1
    opened = start > 0 and (words[start - 1] in ARTICLES or (whole and words[start - 1] in POSSESSIVES))
    return start if opened else max(start, place - 1)


def _end(words: Sequence[str], start: int) -> int:
    """The place of the next small word behind a noun that begins here, its article or owner aside."""
    end = start
    while end < len(words) and (words[end] in ARTICLES or words[end] in POSSESSIVES):
        end += 1
    if end < len(words) and (":" in words[end] or words[end].startswith("month")):
        return end + 1
    first = end
    while end < len(words) and (not stops(words[end]) or words[end][0] == "#"):
        if end > first and is_past(words[end]):
            break
        end += 1
    return end


def _is_one_noun(words: Sequence[str], names: frozenset[str]) -> bool:
    """Whether it can be told that no verb is among them: one word, and names or a number behind it."""
    first, *others = [word for word in words if word not in ARTICLES and word not in POSSESSIVES] or [""]
    if first[:1] == "#" and ":" not in first:
        return False
    return all(word in names or word[0] == "#" for word in others)


def _given_to(words: list[str], names: frozenset[str]) -> list[str]:
    """Turn "lend Ann the drill" into "lend the drill to Ann"."""
    for place in range(len(words) - 2):
        receiver, behind = words[place + 1], words[place + 2]
        if (
            stem(verb(words[place])) in _GIVEN
            and (receiver in _RECEIVERS or receiver in names)
            and (
                behind in ARTICLES
                or behind in POSSESSIVES
                or behind[0] == "#"
                or receiver in _RECEIVERS
                or receiver in names
            )
            and behind not in BREAKS
            and behind not in names
        ):
            end = _end(words, place + 2)
            return [*words[: place + 1], *words[place + 2 : end], "to", receiver, *words[end:]]
    return words
