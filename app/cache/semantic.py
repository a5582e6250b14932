"""Near turns of one scope, shared by all replicas through a Redis stream.

Every replica appends what it stores to the scope's stream and reads the stream on from where it stopped with each
lookup. So an entry is visible everywhere at once, a restarted process warms itself with its first lookup, and no
background task can fall behind. Applying is idempotent (entries up to `last_id` are skipped), so concurrent lookups
need no lock. One page is read with a lookup; a scope that has more (after a restart) is caught up by a task of its
own, for which a lookup waits only a moment. A stream is bounded in length and age; one that nobody adds to expires.

The prompt itself is not stored, but its vector and the guard's features are, and features hold words of it: they live
in Redis under the tenant's prefix, no longer than the answers they lead to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray
from redis.exceptions import ResponseError

from app.cache.features import REVISION, Features
from app.cache.guard import GuardReason, refusal
from app.cache.index import Indexes, Neighbour, ScopeIndex, encode, row_bytes
from app.cache.key import Keys, label
from app.cache.tasks import Tasks
from app.storage.redis import RedisDown, RedisStore

CANDIDATES = 8  # near turns that the guard looks at; one that is refused does not hide the next
PAGE = 256  # stream entries read at once, about 150 kB
BEGINNING = b"0-0"
WARM_WAIT_SECONDS = 0.15  # a lookup's patience with a cold scope: much less than the answer it may spare

_FEATURES = msgspec.msgpack.Decoder(Features)
_ENCODER = msgspec.msgpack.Encoder()
_VECTOR, _WORDS, _KEY = b"v", b"f", b"k"

_logger = structlog.get_logger()

Scope = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Page:
    """Entries of a stream that are on their way, and the id they come after."""

    after: bytes
    entries: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """How long one scope's stream grows, in entries and seconds."""

    max_entries: int
    ttl_seconds: int


class SemanticIndex:
    """Finds the keys of answers to near turns; the answers themselves are elsewhere."""

    def __init__(
        self,
        store: RedisStore,
        indexes: Indexes,
        *,
        dimensions: int,
        model: str,
        on_refusal: Callable[[GuardReason], None],
    ) -> None:
        self._store = store
        self._indexes = indexes
        self._row_bytes = row_bytes(dimensions)
        self._model = label(f"{model} {REVISION}")
        self._on_refusal = on_refusal
        self._catching_up: dict[Scope, asyncio.Task[None]] = {}
        self._adding: dict[Scope, set[asyncio.Task[None]]] = {}
        self._tasks = Tasks()

    def read(self, tenant_id: str, keys: Keys) -> Page:
        """Ask for the next page of the scope's stream."""
        index = self._indexes.get(tenant_id, keys.scope)
        after = BEGINNING if index is None else index.last_id
        return Page(after, self._page(tenant_id, keys, after))

    async def current(self, tenant_id: str, keys: Keys, page: Page) -> ScopeIndex:
        """The scope's index with everything any replica had added when the page was asked for. Raises RedisDown."""
        entries = await page.entries
        if adding := self._adding.get((tenant_id, keys.scope)):  # here, for callers that have their answers already
            await asyncio.wait(adding)
            page = self.read(tenant_id, keys)
            entries = await page.entries
        index = self._indexes.get(tenant_id, keys.scope) or self._indexes.new()
        missing = _order(index.last_id) < _order(page.after)  # it was evicted meanwhile: read it from the beginning
        more = missing or self._apply(index, entries)
        if len(index):
            self._indexes.keep(tenant_id, keys.scope, index)
        if more:
            await asyncio.wait([self._catch_up(tenant_id, keys, index)], timeout=WARM_WAIT_SECONDS)
        return index

    def matches(
        self, index: ScopeIndex, vector: NDArray[np.float32], asked: Features, threshold: float
    ) -> Iterator[Neighbour]:
        """The turns that are near enough and that the guard lets through, nearest first."""
        for near in index.nearest(vector, threshold, CANDIDATES):
            reason = refusal(asked, _FEATURES.decode(near.features))
            if reason is None:
                yield near
            else:
                self._on_refusal(reason)

    def add(
        self,
        tenant_id: str,
        keys: Keys,
        vector: NDArray[np.float32],
        told: Features,
        *,
        now: float,
        bounds: StreamBounds,
    ) -> list[asyncio.Future[Any]]:
        """Tell every replica of a turn whose answer is stored, and let go of those whose answers have expired."""
        name = self._name(tenant_id, keys)
        fields = (_VECTOR, encode(vector), _WORDS, _ENCODER.encode(told), _KEY, keys.exact)
        oldest = max(0, int((now - bounds.ttl_seconds) * 1000))
        return [
            self._store.command("XADD", name, "MAXLEN", "~", bounds.max_entries, "*", *fields),
            self._store.command("XTRIM", name, "MINID", "~", oldest),
            self._store.command("EXPIRE", name, bounds.ttl_seconds),
        ]

    def adding(self, tenant_id: str, keys: Keys, task: asyncio.Task[None]) -> None:
        """Let this process's lookups of the scope wait for a task that is going to `add`."""
        scope = (tenant_id, keys.scope)
        running = self._adding.setdefault(scope, set())
        running.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            running.discard(ended)
            if not running and self._adding.get(scope) is running:
                del self._adding[scope]

        task.add_done_callback(done)

    async def drain(self) -> None:
        """End what runs."""
        await self._tasks.drain()

    def _catch_up(self, tenant_id: str, keys: Keys, index: ScopeIndex) -> asyncio.Task[None]:
        scope = (tenant_id, keys.scope)
        task = self._catching_up.get(scope)
        if task is None:
            task = self._catching_up[scope] = self._tasks.start(self._read_all(tenant_id, keys, index))
            task.add_done_callback(lambda _: self._catching_up.pop(scope, None))
        return task

    async def _read_all(self, tenant_id: str, keys: Keys, index: ScopeIndex) -> None:
        try:
            while self._apply(index, await self._page(tenant_id, keys, index.last_id)):
                pass
        except (RedisDown, ResponseError) as exc:
            _logger.debug("cache_not_warm", error=type(exc).__name__)
        self._indexes.keep(tenant_id, keys.scope, index)

    def _page(self, tenant_id: str, keys: Keys, after: bytes) -> asyncio.Future[Any]:
        return self._store.command("XRANGE", self._name(tenant_id, keys), b"(" + after, "+", "COUNT", PAGE)

    def _apply(self, index: ScopeIndex, page: list[tuple[bytes, list[bytes]]]) -> bool:
        """Take what is new in a page; whether there may be more behind it."""
        for entry_id, fields in page:
            if _order(entry_id) > _order(index.last_id):
                index.last_id = entry_id
                row, words, key = fields[1::2]
                if len(row) == self._row_bytes:
                    index.add(key, row, words)
        return len(page) == PAGE

    def _name(self, tenant_id: str, keys: Keys) -> str:
        return f"tg:{{{tenant_id}}}:turns:{keys.labels}:{self._model}.{keys.scope.hex()}"


def _order(entry_id: bytes) -> tuple[int, int]:
    moment, _, number = entry_id.partition(b"-")
    return int(moment), int(number or 0)
