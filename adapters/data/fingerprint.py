"""What a duplicate is judged by, as fixed-size arrays per part: content hash, MinHash signature, its LSH bands.

The exact hash is over the whole conversation, letters and digits only. The signature is over the user's turns, for the
question is what leaks from one side of a split to the other: hashed character 5-grams, by datasketch's permutations.
Bands are datasketch's own choice for the grouping threshold, hashed to 64 bits each; they lie band by band, so that the
search reads one band of all parts and nothing else (8 bytes per row).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.data.rows import read_examples, user_text
from adapters.data.stage import PartSeal, Stage
from adapters.data.storage import replacing
from adapters.errors import MissingLibraryError
from adapters.types import Example

GRAM = 5
_TIGHTEST = 0.95
PERMUTATION_SEED = 1
_FNV_PRIME = np.uint32(0x01000193)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATION = re.compile(r"\b(?:not|no|never|without|cannot|nicht|kein|pas|sin)\b|n['\u2019]t\b")
_WORDS = re.compile(r"[^\W_]+")

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Signing:
    """How signatures are made: number of permutations, bands, and rows of a band."""

    permutations: int
    bands: int
    rows: int


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The task: read a part, write its arrays. `embed` is given where duplicates are also judged by meaning."""

    source: Stage
    target: Stage
    signing: Signing
    embed: Embed | None = field(default=None)

    def __call__(self, index: int) -> int:
        """Write `exact`, `minhash`, `bands`, `synthetic` (and `vectors`, `guard`) of one part."""
        examples = list(read_examples(self.source.part(index)))
        texts = [normal(user_text(example.messages)) for example in examples]
        signatures = np.stack([*signatures_of(texts, self.signing.permutations)]) if texts else _none(self.signing)
        self._save(index, "exact", exact_hashes(examples))
        self._save(index, "minhash", signatures)
        self._save(index, "bands", band_hashes(signatures, self.signing))
        self._save(index, "synthetic", np.array([example.synthetic for example in examples], dtype=np.bool_))
        if self.embed is not None:
            questions = [user_text(example.messages) for example in examples]
            self._save(index, "vectors", self.embed(questions))
            self._save(index, "guard", guard_hashes(questions))
        self.target.seal_arrays(PartSeal(index, len(examples), "", {}, {}))
        return len(examples)

    def _save(self, index: int, name: str, array: NDArray[Any]) -> None:
        with replacing(self.target.array(index, name)) as file:
            np.save(file, array, allow_pickle=False)


def signing(permutations: int, threshold: float) -> Signing:
    """Ask datasketch for the bands that fit a threshold best (equal weight to misses and false candidates).

    Above 0.95 it has no bands to offer; looser ones give more candidates, and the similarity decides anyway.
    """
    lsh = minhash_library().MinHashLSH(threshold=min(threshold, _TIGHTEST), num_perm=permutations)
    return Signing(permutations, lsh.b, lsh.r)


def normal(text: str) -> str:
    """Give lower-case words with single spaces, what two texts that only look different share; without words, all."""
    return " ".join(_WORDS.findall(text.casefold()) or text.casefold().split())


def exact_hashes(examples: Sequence[Example]) -> NDArray[np.uint64]:
    """Hash each whole conversation to 128 bits, speakers included."""
    digests = (hashlib.blake2b(_spoken(example).encode(), digest_size=16).digest() for example in examples)
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)


def signatures_of(texts: Iterable[str], permutations: int) -> Iterator[NDArray[np.uint32]]:
    """Give datasketch's MinHash values of each normalized text."""
    library, parameters = minhash_library(), _permutations(permutations)
    for text in texts:
        minhash = library.MinHash(
            permutations, PERMUTATION_SEED, hashfunc=int, permutations=parameters, scheme="affine32"
        )
        minhash.update_batch(grams(text))
        yield minhash.hashvalues


def grams(text: str) -> NDArray[np.uint32]:
    """Hash the distinct 5-grams of bytes (FNV-1); a shorter text is one gram."""
    raw = np.frombuffer(text.encode().ljust(GRAM, b"\0"), dtype=np.uint8).astype(np.uint32)
    hashes = np.full(len(raw) - GRAM + 1, 0x811C9DC5, dtype=np.uint32)
    for offset in range(GRAM):
        hashes = (hashes * _FNV_PRIME) ^ raw[offset : len(raw) - GRAM + 1 + offset]
    return np.unique(hashes)


def band_hashes(signatures: NDArray[np.uint32], how: Signing) -> NDArray[np.uint64]:
    """Hash each band of each signature to 64 bits; the result is (bands, rows of the part)."""
    out = np.empty((how.bands, len(signatures)), dtype=np.uint64)
    for band in range(how.bands):
        values = signatures[:, band * how.rows : (band + 1) * how.rows].astype(np.uint64)
        mixed = np.full(len(signatures), 0xCBF29CE484222325 ^ band, dtype=np.uint64)
        for column in range(values.shape[1]):
            mixed = (mixed ^ values[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        out[band] = mixed
    return out


def guard_hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Hash what must be equal in two texts that mean the same: their numbers, and whether something is denied.

    Sentence embeddings hardly see either: with MiniLM "account 1234" and "account 1235" have cosine 0.95, "How do I
    reset" and "How do I not reset" 0.93.
    """
    return np.array([_guard(text.casefold()) for text in texts], dtype=np.uint64)


def _guard(text: str) -> int:
    facts = f"{sorted(_NUMBER.findall(text))} {len(_NEGATION.findall(text)) % 2}"
    return int.from_bytes(hashlib.blake2b(facts.encode(), digest_size=8).digest(), "little")


def _spoken(example: Example) -> str:
    turns = []
    for message in example.messages:
        calls = "".join(call.function.name + call.function.arguments for call in message.tool_calls)
        turns.append(f"{message.role}\x1f{normal(message.content or '')}\x1f{calls}")
    return "\x1e".join(turns)


def _none(how: Signing) -> NDArray[np.uint32]:
    return np.empty((0, how.permutations), dtype=np.uint32)


@lru_cache(maxsize=2)
def _permutations(count: int) -> Any:
    return minhash_library().MinHash(num_perm=count, seed=PERMUTATION_SEED).permutations


def minhash_library() -> Any:
    """Give datasketch, loaded when it is first needed."""
    try:
        import datasketch
    except ImportError as exc:
        raise MissingLibraryError.of("datasketch", "data") from exc
    return datasketch
