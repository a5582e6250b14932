"""The two LRU levels under the adapters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.errors import AdapterRefused
from app.engine.lora import Adapter, LoraRequest
from app.engine.residency import Residency


class Disk:
    """Where adapters are read from: counts the reads, and refuses the names it is told to."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.broken: set[str] = set()

    def load(self, request: LoraRequest) -> Adapter:
        """Read one."""
        self.reads.append(request.name)
        if request.name in self.broken:
            raise AdapterRefused(request.name)
        return Adapter(request.name, {})


def request(name: str) -> LoraRequest:
    """A registered adapter whose id follows from its name."""
    return LoraRequest(ord(name), name, f"/{name}")


@pytest.fixture
def disk() -> Disk:
    """An empty count."""
    return Disk()


@pytest.fixture
def residency(disk: Disk) -> Residency:
    """Two slots over three places in host memory."""
    return Residency(slots=2, host=3, load=disk.load)


def ensure(residency: Residency, names: str) -> None:
    """Use adapters one after another."""
    for name in names:
        residency.ensure(request(name))


def test_a_resident_adapter_is_not_read_again(residency: Residency, disk: Disk) -> None:
    """Host memory serves an adapter whose slot another one has taken."""
    ensure(residency, "abca")
    assert disk.reads == ["a", "b", "c"]
    assert residency.snapshot.slots == ("c", "a")
    assert residency.snapshot.host == ("b", "c", "a")
    assert residency.snapshot.loads == 3


def test_the_least_recently_used_leaves_both_levels(residency: Residency, disk: Disk) -> None:
    """A fourth adapter pushes out the oldest one, which is read again when it is next wanted."""
    ensure(residency, "abcad")
    assert residency.snapshot.host == ("c", "a", "d")
    assert residency.snapshot.slots == ("a", "d")
    ensure(residency, "b")
    assert disk.reads == ["a", "b", "c", "d", "b"]


@given(uses=st.text(st.sampled_from("abcdef"), max_size=40), slots=st.integers(1, 4), more=st.integers(0, 3))
def test_both_levels_are_lru(uses: str, slots: int, more: int) -> None:
    """Whatever the uses, slots and host memory hold the last distinct adapters used, as two separate LRUs would."""
    residency = Residency(slots=slots, host=slots + more, load=Disk().load)
    ensure(residency, uses)
    recent = "".join(dict.fromkeys(reversed(uses)))
    assert residency.snapshot.slots == tuple(reversed(recent[:slots]))
    assert residency.snapshot.host == tuple(reversed(recent[: slots + more]))


def test_a_failed_read_evicts_nothing(residency: Residency, disk: Disk) -> None:
    """The new adapter is read before room is made for it."""
    ensure(residency, "abc")
    disk.broken.add("x")
    with pytest.raises(AdapterRefused):
        ensure(residency, "x")
    assert residency.snapshot.host == ("a", "b", "c")


def test_loading_in_place_reads_again_and_keeps_one_copy(residency: Residency, disk: Disk) -> None:
    """`load_inplace` replaces the copy under the same id."""
    ensure(residency, "abc")
    first = residency.ensure(request("a"))
    second = residency.ensure(request("a"), reload=True)
    assert first is not second
    assert residency.snapshot.host == ("b", "c", "a")
    assert disk.reads[-1] == "a"
