"""The mirror of a server's two levels, held to the engine that really keeps them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.lora import Adapter, LoraRequest
from app.engine.residency import Residency as Truth
from app.placement.residency import Level, Residency


@given(st.integers(1, 5), st.integers(0, 6), st.lists(st.integers(0, 12), max_size=120))
def test_the_mirror_is_the_engines_own_lru(slots: int, more: int, used: list[int]) -> None:
    """After any uses both levels hold the same adapters in the same order of age."""
    truth = Truth(slots=slots, host=slots + more, load=lambda asked: cast("Adapter", SimpleNamespace(name=asked.name)))
    mirror = Residency(max_loras=slots, max_cpu_loras=slots + more)
    for number in used:
        truth.ensure(LoraRequest(number, f"a{number}", "/"))
        mirror.touch(f"a{number}")
        assert (mirror.gpu, mirror.host) == (truth.snapshot.slots, truth.snapshot.host)
    for number in range(13):
        expected = Level.ABSENT
        if f"a{number}" in truth.snapshot.host:
            expected = Level.GPU if f"a{number}" in truth.snapshot.slots else Level.HOST
        assert mirror.level(f"a{number}") is expected


def test_a_restart_empties_both_levels() -> None:
    """A new process holds nothing."""
    mirror = Residency(max_loras=1, max_cpu_loras=2)
    mirror.touch("a")
    mirror.touch("b")
    mirror.reset()
    assert (mirror.gpu, mirror.host) == ((), ())


@pytest.mark.parametrize("told", [0, 1])
def test_host_memory_is_at_least_the_slots(told: int) -> None:
    """VLLM refuses less, so a smaller figure means as many as there are slots."""
    mirror = Residency(max_loras=2, max_cpu_loras=told)
    for name in "abc":
        mirror.touch(name)
    assert mirror.host == ("b", "c")
