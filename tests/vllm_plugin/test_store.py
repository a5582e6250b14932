"""The plugin's folder of adapters: a name is never a path, bytes are what the name says, and room is made by SIEVE."""

from __future__ import annotations

import http.server
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.storage.artifacts import content_hash as gateway_hash
from app.storage.artifacts import import_adapter
from tests.prove.markers import Shape, write_marker
from vllm_plugin.tunegate_vllm.store import CONFIG, WEIGHTS, AdapterStore, Sieve, content_hash

SHAPE = Shape("tiny", 32, 32, 16, 1)


def _adapters(folder: Path, count: int) -> list[str]:
    """So many real adapters, stored as the gateway stores them; returns their names."""
    sources = [write_marker(folder / f"source-{number}", SHAPE, number) for number in range(count)]
    return [import_adapter(folder, "acme", f"a{number}", str(source)).id for number, source in enumerate(sources)]


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The folder over HTTP."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet.serving(folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing about it."""

    @classmethod
    def serving(cls, folder: Path) -> partial[_Quiet]:
        """A handler for one folder."""
        return partial(cls, directory=str(folder))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


def test_the_hash_is_the_gateways_own(tmp_path: Path) -> None:
    """Two definitions of an address would be none."""
    (name,) = _adapters(tmp_path, 1)
    folder = tmp_path / "adapters" / name
    assert content_hash(folder) == gateway_hash(folder)
    assert AdapterStore(tmp_path / "adapters").path(name) == folder


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/etc", "../acme--a0@000000000000", "acme--a0@000000000000/..", "acme--a0", "a\x00b", "base"),
        *("acme--a0@xyz", "ACME--a0@000000000000", "acme--a0@0000000000000", "acme--" + "a" * 70 + "@000000000000"),
    ],
)
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    """What is not exactly a version's name is nothing, and touches nothing."""
    _adapters(tmp_path, 1)
    assert AdapterStore(tmp_path / "adapters", url="http://127.0.0.1:9").path(name) is None


def test_bytes_must_be_what_the_name_says(tmp_path: Path) -> None:
    """Changed, cut or linked files are not loaded, whoever put them there."""
    changed, cut, linked, whole = _adapters(tmp_path, 4)
    folder = tmp_path / "adapters"
    (folder / changed / WEIGHTS).write_bytes((folder / whole / WEIGHTS).read_bytes())
    (folder / cut / WEIGHTS).write_bytes((folder / cut / WEIGHTS).read_bytes()[:-1])
    (folder / linked).rename(tmp_path / "moved")
    (folder / linked).symlink_to(tmp_path / "moved")
    store = AdapterStore(folder)
    assert [store.path(name) for name in (changed, cut, linked)] == [None, None, None]
    assert store.path(whole) == folder / whole
    (folder / whole / CONFIG).unlink()
    (folder / whole / CONFIG).symlink_to("/etc/passwd")
    assert store.path(whole) is None


def test_adapters_are_fetched_once_and_verified(tmp_path: Path) -> None:
    """Fetched files appear whole under their name; wrong bytes and missing files leave nothing behind."""
    good, bad = _adapters(tmp_path / "far", 2)
    far, near = tmp_path / "far" / "adapters", tmp_path / "near"
    (far / bad / WEIGHTS).write_bytes(b"not what the name says")
    near.mkdir()
    with _served(far) as url:
        store = AdapterStore(near, url=url)
        assert store.path(good) == near / good
        assert store.path(bad) is None
        assert store.path("acme--none@000000000000") is None
    assert store.path(good) == near / good, "it is here now, wherever it came from"
    assert [path.name for path in near.iterdir()] == [good]


def test_room_is_made_but_never_by_what_is_registered(tmp_path: Path) -> None:
    """Over the bound something unused goes; what the server knows stays, even if the bound must give way."""
    names = _adapters(tmp_path / "far", 6)
    far, near = tmp_path / "far" / "adapters", tmp_path / "near"
    near.mkdir()
    size = sum(file.stat().st_size for file in (far / names[0]).iterdir())
    with _served(far) as url:
        store = AdapterStore(near, url=url, max_bytes=3 * size + 10)
        registered: set[str] = set()
        store.keep(lambda: frozenset(registered))
        for name in names[:3]:
            assert store.path(name)
        store.path(names[0])
        assert store.path(names[3])
        assert {path.name for path in near.iterdir()} == {names[0], names[2], names[3]}, "used ones stay"
        registered |= {names[0], names[2], names[3]}
        assert store.path(names[4])
        assert registered <= {path.name for path in near.iterdir()}


def test_many_threads_fetch_one_adapter_once(tmp_path: Path) -> None:
    """Whoever asks at the same time gets the same folder."""
    (name,) = _adapters(tmp_path / "far", 1)
    near = tmp_path / "near"
    near.mkdir()
    found: list[Path | None] = []
    with _served(tmp_path / "far" / "adapters") as url:
        store = AdapterStore(near, url=url)
        threads = [threading.Thread(target=lambda: found.append(store.path(name))) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [near / name] * 16
    shutil.rmtree(near)


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 5))
def test_sieve_drops_what_was_not_used_and_never_what_must_stay(uses: list[int], capacity: int) -> None:
    """As a cache of fixed size: never over its size, and a victim is always an entry that may go."""
    sieve, held = Sieve(), set[str]()
    for number in uses:
        name = f"a{number}"
        if name not in held and len(held) >= capacity:
            victim = sieve.victim(lambda one: one in held)
            assert victim in held
            held.discard(str(victim))
            sieve.forget(str(victim))
        held.add(name)
        sieve.use(name)
    assert len(held) <= capacity
    assert sieve.victim(lambda _: False) is None


def test_sieve_beats_first_in_first_out_on_a_zipf_trace() -> None:
    """The reason to have it: more hits than FIFO at the same size."""
    dice = random.Random(3)
    weights = [1 / (place + 1) ** 0.9 for place in range(1000)]
    trace = dice.choices([f"a{number}" for number in range(1000)], weights, k=20_000)
    assert _hits(trace, 64, sieve=True) > 1.1 * _hits(trace, 64, sieve=False)


def _hits(trace: list[str], size: int, *, sieve: bool) -> int:
    order, held, hits = Sieve(), dict[str, None](), 0
    for name in trace:
        hits += name in held
        if name not in held and len(held) >= size:
            victim = order.victim(lambda one: one in held) if sieve else next(iter(held))
            assert victim is not None
            del held[victim]
            order.forget(victim)
        held.setdefault(name)
        order.use(name)
    return hits


def test_a_store_takes_web_addresses_only(tmp_path: Path) -> None:
    """`file:` would read what the server may read."""
    with pytest.raises(ValueError, match="http"):
        AdapterStore(tmp_path, url="file:///etc")
