"""The proof of the cache in short: the same code over real sockets, smaller figures."""

from __future__ import annotations

from pathlib import Path

from tests.prove.cache import Size, prove

SHORT = Size(halves=("test",), lookups=4_000, callers=200, upstream_seconds=2.0, entries=(1_000,), trials=10, misses=20)


async def test_the_cache_in_short(tmp_path: Path) -> None:
    """Pairs told apart, tenants kept apart, identical calls joined, replicas in step, a restart warm."""
    figures = await prove(SHORT, tmp_path)
    assert not figures.broken(SHORT), figures
    assert figures.tenancy.semantic > 0
    assert len(figures.replicas_ms) == SHORT.trials
