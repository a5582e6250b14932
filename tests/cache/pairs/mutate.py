"""Near misses made by machine: every question of a half with one word of it changed, moved, left out or put in.

People write near misses that they think of; a machine also makes the silly ones. Each mutant asks something else than
its question, so the guard must refuse it, whatever it has been tuned on: it is closed by default. Seeded.

    python -m tests.cache.pairs.mutate        prints what passes
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from app.cache.features import features
from app.cache.guard import refusal
from app.cache.lexicon import word_set
from tests.cache.pairs.generate import SEED, families

_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_SWAPS = (
    ("my", "your", "his", "her", "their"),
    ("i", "you", "he", "they"),
    ("me", "you", "him", "them"),
    ("do", "did"),
    ("does", "did"),
    ("is", "was"),
    ("are", "were"),
    ("can", "must", "should", "did"),
    ("must", "can"),
    ("to", "from", "with", "without", "about"),
    ("from", "to", "for", "by"),
    ("on", "before", "after", "under", "without"),
    ("in", "before", "after", "near", "without", "outside"),
    ("for", "against", "with", "without", "before"),
    ("with", "without", "against", "for", "from"),
    ("before", "after", "during"),
    ("why", "when", "where"),
    ("when", "why", "where"),
    ("where", "why", "when"),
    ("who", "why", "when", "whose"),
    ("how", "why", "when", "where"),
)
_PUT_IN = ("not", "never", "only", "always", "all", "some", "no", "first", "last", "another", "green", "two", "still")
_SMALL = word_set(
    "a an the i we you he she it they me us my your our is are am was were be do does did has have had can could "
    "may might will would shall should must to of in on at for from with by about and or not no if whether that "
    "this there how what why when where who which whose whom please hi hello tell know let explain say think like "
    "want need take takes so long much many exactly right now possible allowed able way best true us"
)
_OTHERS = ("window", "train", "garden", "cheap", "sister", "paint", "borrow", "winter", "engine", "listen")


def mutants(text: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Questions that differ from this one in one thing, and what that is."""
    words = [(match.start(), match.end(), match[0]) for match in _WORD.finditer(text)]
    for start, end, word in words:
        for first, *others in _SWAPS:
            if word.casefold() == first:
                yield "swap", text[:start] + rng.choice(others) + text[end:]
    content = [word for word in words if word[2].casefold() not in _SMALL and len(word[2]) > 2]
    if not content:
        return
    start, end, _ = rng.choice(content)
    yield "replace", text[:start] + rng.choice(_OTHERS) + text[end:]
    yield "leave out", re.sub(r"\s+", " ", text[:start] + text[end:])
    yield "put in", text[:start] + rng.choice(_PUT_IN) + " " + text[start:]
    if len(content) > 1:
        yield from _exchanged(text, rng.sample(content, 2))


def _exchanged(text: str, two: Sequence[tuple[int, int, str]]) -> Iterator[tuple[str, str]]:
    """Two words in each other's place."""
    (start_a, end_a, a), (start_b, end_b, b) = sorted(two)
    if a.casefold() != b.casefold():
        yield "exchange", text[:start_a] + b + text[end_a:start_b] + a + text[end_b:]


def passed(half: str) -> tuple[list[tuple[str, str, str]], int]:
    """Mutants of a half's paraphrases that the guard lets through, and how many there are."""
    rng = random.Random(f"{SEED}-mutants-{half}")
    found: list[tuple[str, str, str]] = []
    made = 0
    for family in families(half):
        for text in family.same:
            question = re.sub(r"\{(\w+)\}", lambda slot: slot[1].title().replace("_", ""), text)
            told = features(question)
            for kind, mutant in mutants(question, rng):
                made += 1
                if refusal(told, features(mutant)) is None:
                    found.append((kind, question, mutant))
    return found, made


def main() -> None:
    """Print them."""
    found, made = passed("tuning")
    for kind, question, mutant in found:
        print(f"{kind:9} | {question} | {mutant}")
    print(f"{len(found)} of {made} mutants pass ({len(found) / made:.2%})")


if __name__ == "__main__":
    main()
