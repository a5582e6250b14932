"""What is to be done on one server: what should be there against what is there, as a plan. Pure.

A plan that has been carried out is followed by an empty one. Only names that look like versions of ours are ever taken
off: what an operator has loaded by hand under another name stays.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from app.types import AdapterVersion

_OURS = re.compile(r"[a-z0-9-]+--[a-z0-9-]+@[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Plan:
    """Names to take off, then versions to load, in the order in which to load them."""

    unload: tuple[str, ...] = ()
    load: tuple[AdapterVersion, ...] = ()


def plan(
    actual: Mapping[str, str],
    *,
    served: Mapping[str, str],
    warm: Sequence[AdapterVersion],
    busy: Container[str],
    places: int,
) -> Plan:
    """Compare a server's names with what may be served (both name to path) and with what should be warm.

    A name goes when no alias can mean it any more, or when it stands for other files, and no call is in flight on it.
    `warm` is in the order of its importance; as much as fits into `places` is loaded, the most important last, so that
    the server's own LRU keeps it longest.
    """
    unload = tuple(name for name, path in actual.items() if name not in busy and _is_stale(name, path, served))
    kept = actual.keys() - set(unload)
    room = max(0, places - len(kept))
    load = [version for version in warm if version.id not in kept][:room]
    return Plan(unload, tuple(reversed(load)))


def _is_stale(name: str, path: str, served: Mapping[str, str]) -> bool:
    return _OURS.fullmatch(name) is not None and served.get(name) != path
