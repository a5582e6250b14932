"""Answers are forgotten on an operator's word: at once for every replica, and then for good.

First a new epoch begins (`app.cache.state`), so that nothing of the old one is ever found again, not even an answer
that is still on its way; then the answers and their turns are deleted. The second step walks the key space in small
portions and may be interrupted: what is left of it expires by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.cache.key import label
from app.cache.state import States
from app.storage.redis import RedisStore

PORTION = 500  # keys looked at in one SCAN, a fraction of a millisecond of Redis
_ANY = "????????"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to forget: of one tenant or (None) of all; everything, or of a route, a variant of it, or an adapter.

    `adapter` is a name or a version's id (`tenant--name@sha12`). A variant is one of a route; an adapter stands alone.
    """

    tenant_id: str | None = None
    route: str | None = None
    variant: str | None = None
    adapter: str | None = None

    @property
    def epoch(self) -> str:
        """The counter that every selected answer depends on."""
        if self.adapter is not None:
            return f"e:{'i' if '@' in self.adapter else 'a'}:{label(self.adapter)}"
        if self.route is not None and self.variant is not None:
            return f"e:v:{label(self.route)}.{label(self.variant)}"
        return "e" if self.route is None else f"e:r:{label(self.route)}"

    @property
    def pattern(self) -> str:
        """What the names of all selected keys look like, in Redis' glob."""
        route = _ANY if self.route is None else label(self.route)
        variant = _ANY if self.variant is None else label(self.variant)
        is_version = self.adapter is not None and "@" in self.adapter
        found = _ANY if self.adapter is None else label(self.adapter)
        labels = ".".join((route, variant, _ANY if is_version else found, found if is_version else _ANY))
        return f"tg:{{{self.tenant_id or '*'}}}:[at]*:{labels}:*"  # answers and turns


@dataclass(frozen=True, slots=True)
class Forgetter:
    """Forgets answers of the tenants that there are."""

    store: RedisStore
    tenant_ids: Callable[[], Iterable[str]]

    async def forget(self, selection: Selection) -> int:
        """Forget, and say how many answers were deleted. Raises RedisDown or ResponseError."""
        states = States(self.store)
        for tenant_id in [selection.tenant_id] if selection.tenant_id is not None else list(self.tenant_ids()):
            await states.clear(tenant_id, selection.epoch)
            if selection.adapter is None and selection.variant is None:
                await states.forget_promises(tenant_id, None if selection.route is None else label(selection.route))
        return await self._delete(selection.pattern)

    async def _delete(self, pattern: str) -> int:
        deleted, cursor = 0, b"0"
        while True:
            cursor, names = await self.store.command("SCAN", cursor, "MATCH", pattern, "COUNT", PORTION)
            if names:
                await self.store.command("UNLINK", *names)
            deleted += sum(b":answer:" in name for name in names)
            if cursor == b"0":
                return deleted
