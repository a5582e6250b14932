"""How the guard does on topics it has never seen, estimated from the tuning pairs: leave one topic out.

For every family, all that refuses and is attested by nothing but that family is taken away: the words of the refusing
lists that occur in no other family, and the rules that alone refuse near misses of no other family. What then passes of
the family's near misses would have been let through at first sight. Lists that permit are left whole: the harsher way.

    python -m tests.cache.pairs.leave_out        prints what would have passed
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from app.cache import features as taken_apart
from app.cache import guard, relations
from app.cache.features import Features, features
from tests.cache.pairs.measure import Pair, load

_REFUSING = (
    (taken_apart, "NEGATIONS"),
    (taken_apart, "DIRECTIONS"),
    (taken_apart, "MONTHS"),
    (taken_apart, "WEEKDAYS"),
    (taken_apart, "MOMENTS"),
    (taken_apart, "UNITS"),
    (taken_apart, "NUMBER_WORDS"),
    (guard, "PASTS"),
    (guard, "_POLES"),
    (guard, "_UNIT_WORDS"),
    (relations, "PASTS"),
    (relations, "GOVERNING"),
    (relations, "OWNERS"),
    (relations, "PERSONS"),
)


def passed() -> tuple[list[Pair], int]:
    """Near misses that pass when their topic is left out, and how many there are."""
    near = [pair for pair in load("tuning") if not pair.same]
    families = defaultdict(list)
    for pair in near:
        families[pair.family].append(pair)
    words = _attested(near)
    rules = _needed(near)
    found: list[Pair] = []
    for family, pairs in families.items():
        alone = frozenset(word for word, where in words.items() if where == {family})
        kept = tuple(rule for rule in guard._RULES if rules[rule[0]] != {family})
        with _without(alone), patch.object(guard, "_RULES", kept):
            found += [pair for pair in pairs if guard.refusal(features(pair.a), features(pair.b)) is None]
    return found, len(near)


def _attested(pairs: list[Pair]) -> dict[str, set[str]]:
    """The families in which each word, and its stem, occurs."""
    found: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        for text in (pair.a, pair.b):
            for word in taken_apart._WORD.findall(taken_apart._written_out(text)):
                found[word].add(pair.family)
                found[taken_apart.stem(word)].add(pair.family)
    return found


def _needed(pairs: list[Pair]) -> dict[guard.GuardReason, set[str]]:
    """The families with a near miss that one rule alone refuses."""
    found: dict[guard.GuardReason, set[str]] = defaultdict(set)
    for pair in pairs:
        reasons = _reasons(features(pair.a), features(pair.b))
        if len(reasons) == 1:
            found[reasons[0]].add(pair.family)
    return found


def _reasons(a: Features, b: Features) -> list[guard.GuardReason]:
    return [reason for reason, differ in guard._RULES if differ(a, b)]


@contextmanager
def _without(words: frozenset[str]) -> Iterator[None]:
    """The refusing lists without these words."""
    patches = []
    for module, name in _REFUSING:
        whole = getattr(module, name)
        left = {k: v for k, v in whole.items() if k not in words} if isinstance(whole, dict) else whole - words
        patches.append(patch.object(module, name, left))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def main() -> None:
    """Print them."""
    found, near = passed()
    for pair in found:
        print(f"{pair.kind:9} {pair.family} | {pair.a} | {pair.b}")
    print(f"{len(found)} of {near} near misses would have passed ({len(found) / near:.2%})")


if __name__ == "__main__":
    main()
