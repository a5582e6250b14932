"""Near turns of one scope, shared by all replicas through a Redis stream.

Every replica appends what it stores to the scope's stream and reads the stream on from where it stopped before each
search. So an entry is visible everywhere at once, a restarted process warms itself with its first lookup, and there is
no background task to fall behind. Applying is idempotent (entries up to `last_id` are skipped), so concurrent lookups
need no lock. A stream is bounded in length and age; one that nobody adds to expires.

The prompt itself is not stored, but its vector and the guard's features are, and features hold words of it: they live
in Redis under the tenant's prefix, no longer than the answers they lead to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.cache.features import Features
from app.cache.guard import GuardReason, refusal
from app.cache.index import Indexes, ScopeIndex
from app.storage.redis import RedisStore

CANDIDATES = 8  # near turns that the guard looks at; one that is refused does not hide the next
PAGE = 256  # stream entries read at once, about 250 kB

_FEATURES = msgspec.msgpack.Decoder(Features)
_VECTOR, _WORDS, _KEY = b"v", b"f", b"k"


class SemanticIndex:
    """Finds the keys of answers to near turns; the answers themselves are elsewhere."""

    def __init__(
        self,
        store: RedisStore,
        indexes: Indexes,
        *,
        dimensions: int,
        max_entries: int,
        on_refusal: Callable[[GuardReason], None],
    ) -> None:
        self._store = store
        self._indexes = indexes
        self._row_bytes = dimensions * 2
        self._max_entries = max_entries
        self._on_refusal = on_refusal

    async def current(self, tenant_id: str, scope: bytes) -> ScopeIndex:
        """The scope's index with everything any replica has added by now. Raises RedisDown."""
        index = self._indexes.get(tenant_id, scope) or self._indexes.new()
        while await self._read_on(tenant_id, scope, index):
            pass
        if len(index):
            self._indexes.keep(tenant_id, scope, index)
        return index

    def matches(
        self, index: ScopeIndex, vector: NDArray[np.float32], asked: Features, threshold: float
    ) -> Sequence[bytes]:
        """Keys of the turns that are near enough and that the guard lets through, nearest first."""
        keys = []
        for near in index.nearest(vector, threshold, CANDIDATES):
            reason = refusal(asked, _FEATURES.decode(near.features))
            if reason is None:
                keys.append(near.key)
            else:
                self._on_refusal(reason)
        return keys

    def add(
        self, tenant_id: str, scope: bytes, key: bytes, vector: NDArray[np.float32], told: Features
    ) -> Awaitable[Any]:
        """Tell every replica of a turn whose answer is stored under `key`."""
        row = vector.astype("<f2").tobytes()
        fields = (_VECTOR, row, _WORDS, msgspec.msgpack.encode(told), _KEY, key)
        return self._store.command("XADD", _name(tenant_id, scope), "MAXLEN", "~", self._max_entries, "*", *fields)

    def age(self, tenant_id: str, scope: bytes, *, now: float, ttl_seconds: int) -> list[Awaitable[Any]]:
        """Let go of entries whose answers have expired, and of the stream when its last one has."""
        name, oldest = _name(tenant_id, scope), max(0, int((now - ttl_seconds) * 1000))
        return [
            self._store.command("XTRIM", name, "MINID", "~", oldest),
            self._store.command("EXPIRE", name, ttl_seconds),
        ]

    async def _read_on(self, tenant_id: str, scope: bytes, index: ScopeIndex) -> bool:
        after = b"(" + index.last_id
        page = await self._store.command("XRANGE", _name(tenant_id, scope), after, "+", "COUNT", PAGE)
        for entry_id, fields in page:
            if _order(entry_id) > _order(index.last_id):
                index.last_id = entry_id
                self._apply(index, fields)
        return len(page) == PAGE

    def _apply(self, index: ScopeIndex, fields: dict[bytes, bytes]) -> None:
        row = fields.get(_VECTOR, b"")
        if len(row) == self._row_bytes:  # another length is another embedder's
            index.add(fields[_KEY], np.frombuffer(row, "<f2").astype(np.float32), fields[_WORDS])


def _order(entry_id: bytes) -> tuple[int, int]:
    moment, _, number = entry_id.partition(b"-")
    return int(moment), int(number or 0)


def _name(tenant_id: str, scope: bytes) -> str:
    return f"tg:{{{tenant_id}}}:sem:{scope.hex()}"
