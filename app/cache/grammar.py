"""The small words of English that the shape of a clause is read by, and the kinds of question it depends on: data."""

from __future__ import annotations

from app.cache.lexicon import word_set
from app.cache.synonyms import stem

ARTICLES = frozenset({"a", "an", "the"})
BE = frozenset({"is", "are", "am", "was", "were", "be", "been", "being"})
DO = frozenset({"do", "does", "did"})
HAVE = frozenset({"have", "has"})
PAST = frozenset({"was", "were", "did"})
MODALS = {
    "can": "can", "could": "can", "may": "may", "might": "might", "must": "must", "should": "should",
    "shall": "should", "will": "will", "would": "would",
}  # fmt: skip
AUXILIARIES = BE | DO | HAVE | frozenset(MODALS)
POSSESSIVES = frozenset({"my", "our", "your", "his", "her", "their", "its"})
PLACES = word_set(
    "in on at to from by with without about against through during between under over behind near beside before after "
    "since for onto within inside outside across along around off up out down per via as than until of"
)
CLAUSES = word_set("when if while because unless although so that which who where how whether")
BREAKS = PLACES | CLAUSES | {",", ".", "and", "or"}
STOPS = BREAKS | AUXILIARIES | ARTICLES | word_set("we me us him them i you he she they not")

DEEDS = frozenset({"howto", "request", "wish"})  # kinds whose verb comes first, so that only nouns follow
NOUNS = frozenset({"what", "price", "who", "where"})  # kinds of which "is" has only a noun behind it
AMOUNTS = frozenset(
    map(
        stem,
        word_set("fee price cost rate fine deductible salary rent limit premium tax deposit interest bill discount"),
    )
)


def stops(word: str) -> bool:
    """Whether a noun ends before this word."""
    return word in STOPS or word in POSSESSIVES or word[0] == "#"
