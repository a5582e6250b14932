"""Whether two answers to the same question say the same. Pure.

Models word one answer in many ways, so only what looks plainly different counts as wrong: vectors that have little to
do with each other, figures of which not one is common, an opening "yes" against a "no". The bar is low on purpose: the
comparison feeds a budget of one error in a thousand, which a strict comparison would spend on style.
"""

from __future__ import annotations

import re

from app.cache.features import MAX_CHARACTERS as READ_CHARACTERS
from app.cache.features import features

AGREEMENT = 0.6  # cosine of two answers; unrelated ones of one assistant are rarely above 0.5
MAX_CHARACTERS = 1500  # what the embedder reads

_YES, _NO = frozenset({"yes", "yeah", "sure", "certainly"}), frozenset({"no", "not", "unfortunately", "sorry"})
_BLANKS = re.compile(r"\s+")


def same_words(one: str, other: str) -> bool:
    """Whether nothing but white space and case differs."""
    return _plain(one) == _plain(other)


def agree(one: str, other: str, similarity: float) -> bool:
    """Whether two answers whose vectors are that similar may stand for each other."""
    if same_words(one, other):
        return True
    a, b = features(one[:READ_CHARACTERS]), features(other[:READ_CHARACTERS])
    if a.numbers and b.numbers and not set(a.numbers) & set(b.numbers):
        return False
    if _opening(a.words) * _opening(b.words) < 0:
        return False
    return similarity >= AGREEMENT


def _plain(text: str) -> str:
    return _BLANKS.sub(" ", text).strip().casefold()


def _opening(words: tuple[str, ...]) -> int:
    first = words[0] if words else ""
    return (first in _YES) - (first in _NO)
