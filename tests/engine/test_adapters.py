"""The names of adapters, apart from the engine that reads them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest

from app.engine.adapters import AdapterRegistry
from app.engine.engine import Engine
from app.engine.errors import RequestError
from app.engine.lora import LoraRequest
from app.engine.options import EngineOptions


@dataclass
class Reader:
    """In place of the engine: takes every adapter, one turn of the event loop later."""

    options: EngineOptions = field(default_factory=EngineOptions)
    read: list[LoraRequest] = field(default_factory=list)

    async def load(self, request: LoraRequest, *, reload: bool = False) -> None:
        """Note what was to be read."""
        await asyncio.sleep(0)
        self.read.append(request)


@pytest.fixture
def reader() -> Reader:
    """Nothing read yet."""
    return Reader()


@pytest.fixture
def registry(reader: Reader) -> AdapterRegistry:
    """No names yet."""
    return AdapterRegistry(cast("Engine", reader))


async def test_names_that_were_never_loaded_leave_nothing_behind(registry: AdapterRegistry) -> None:
    """A lock lives as long as somebody holds it or waits for it."""
    for number in range(20):
        with pytest.raises(RequestError, match="cannot be found"):
            await registry.unload(f"x{number}")
    assert len(registry._locks) == 0


async def test_one_of_two_racing_loads_of_a_name_is_told_that_it_is_there(
    registry: AdapterRegistry, reader: Reader
) -> None:
    """Check and load are one step for a name, and different names do not wait for each other."""
    loads = [registry.load("a", "/a"), registry.load("a", "/a"), registry.load("b", "/b")]
    first, second, other = await asyncio.gather(*loads, return_exceptions=True)
    assert isinstance(first, str)
    assert isinstance(other, str)
    assert isinstance(second, RequestError)
    assert "already been loaded" in str(second)
    assert [request.name for request in reader.read] == ["a", "b"]


async def test_a_name_loaded_again_is_another_adapter(registry: AdapterRegistry, reader: Reader) -> None:
    """Unload and load give a new id; loading in place keeps it."""
    await registry.load("a", "/a")
    await registry.load("a", "/b", in_place=True)
    await registry.unload("a")
    await registry.load("a", "/a")
    ids = [request.id for request in reader.read]
    assert ids[0] == ids[1] != ids[2]


async def test_half_a_surrogate_pair_is_no_name(registry: AdapterRegistry, reader: Reader) -> None:
    """A name that could not be sent back is refused before it is read."""
    with pytest.raises(RequestError, match="half a surrogate pair"):
        await registry.load("\ud800", "/a")
    assert reader.read == []
