"""Injected latency and failures: what is configured now and how often it still strikes.

Counts fall as they are used; -1 never does. The event loop and the engine thread both count, so a lock makes each
read-and-replace one step.
"""

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from app.engine.errors import AdapterRefused, RequestError
from app.engine.options import Faults, Latency

T = TypeVar("T", Latency, Faults)
_LATENCY, _FAULTS = (frozenset(field.name for field in fields(kind)) for kind in (Latency, Faults))
_LATENCY_TYPE, _FAULTS_TYPE = TypeAdapter(Latency), TypeAdapter(Faults)


class FaultBoard:
    """The current injection; replaced in part by `change`."""

    def __init__(self, latency: Latency, faults: Faults) -> None:
        self.latency = latency
        self.faults = faults
        self._lock = threading.Lock()
        self._random = random.Random(0)  # noqa: S311  chance of an injected fault, seeded to repeat

    def change(self, body: Mapping[str, Any]) -> None:
        """Set the named fields of either part; an unknown name or an impossible value is a 400 and changes nothing."""
        unknown = sorted(set(body) - _LATENCY - _FAULTS)
        if unknown:
            raise RequestError(f"unknown fault fields: {', '.join(unknown)}", param=unknown[0])
        with self._lock:
            latency = _changed(_LATENCY_TYPE, self.latency, {k: v for k, v in body.items() if k in _LATENCY})
            faults = _changed(_FAULTS_TYPE, self.faults, {k: v for k, v in body.items() if k in _FAULTS})
            self.latency, self.faults = latency, faults

    def as_dict(self) -> dict[str, Any]:
        """All fields as they stand."""
        return {**asdict(self.latency), **asdict(self.faults)}

    def take_error(self) -> int | None:
        """The status the next completion fails with, or None."""
        struck = self._take("error_next") and self._random.random() < self.faults.error_rate
        return self.faults.error_status if struck else None

    def take_hang(self) -> bool:
        """Whether the next completion never answers."""
        return self._take("hang_next")

    def take_drop(self) -> int | None:
        """After how many stream events the next completion loses its connection, or None."""
        return self.faults.drop_after_chunks if self._take("drop_next") else None

    def before_load(self, name: str) -> None:
        """Spend the injected load time in the calling thread, and fail where asked to."""
        if self.latency.load_s > 0:
            time.sleep(self.latency.load_s)
        if self._take("load_error_next"):
            raise AdapterRefused(f"injected failure while loading {name}")

    def _take(self, name: str) -> bool:
        with self._lock:
            left: int = getattr(self.faults, name)
            if left > 0:
                fewer: dict[str, Any] = {name: left - 1}
                self.faults = replace(self.faults, **fewer)
            return left != 0


def _changed(kind: TypeAdapter[T], current: T, fresh: Mapping[str, Any]) -> T:
    try:
        return kind.validate_python({**asdict(current), **fresh})
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or None
        raise RequestError(f"{place}: {first['msg']}" if place else first["msg"], param=place) from exc
