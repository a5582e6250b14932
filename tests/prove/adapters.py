"""Adapters proved: many tenants' adapters on a few servers, versions swapped, servers and gateways killed, all at once.

    python -m tests.prove.adapters [--kind engine|vllm|plugin] [--replicas 4] [--adapters 1000] [--requests 20000] …

Two gateway processes share Redis and SQL. Tenants call shared routes under their own keys, so the same request means
another adapter for every tenant. Every adapter is a marker: its greedy answer is its own, known before the run. Every
answer is judged against what the alias may have meant while the call ran. While calls run, aliases are flipped every
two seconds, one server is killed with -9 and brought back, and so is one gateway. A call that
fails is sent once or twice more, as the official SDKs do; what fails then has failed. The last line is the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import aiohttp

from app.engine.options import packaged_model
from tests.prove import hostile
from tests.prove.fleet import Server, fleet
from tests.prove.markers import Marker, body, markers
from tests.prove.world import SETTLE_SECONDS, World, build

RETRIES = 2
RETRY_SECONDS = 0.3
CALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is proved."""

    kind: str = "engine"
    replicas: int = 4
    adapters: int = 1000
    tenants: int = 50
    requests: int = 20_000
    max_loras: int = 16
    max_cpu_loras: int = 128
    callers: int = 24
    zipf: float = 0.9
    swapped: int = 60
    swap_seconds: float = 2.0
    kill: bool = True
    restart_gateway: bool = True
    seed: int = 1


ON_VLLM = Size(
    kind="vllm", replicas=2, adapters=40, tenants=8, requests=2000, max_loras=2, max_cpu_loras=8, callers=8, swapped=10
)
ALL = (Size(), ON_VLLM)


@dataclass(slots=True)
class Tally:
    """What was seen."""

    ok: int = 0
    retried: int = 0
    wrong_version: int = 0
    wrong_tenant: int = 0
    wrong_other: int = 0
    failed: int = 0
    swaps: int = 0
    gateways_restarted: int = 0
    recovered_seconds: float | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def judged(self) -> int:
        """Calls with an end."""
        return self.ok + self.wrong_version + self.wrong_tenant + self.wrong_other + self.failed

    def promises_held(self) -> bool:
        """Nothing wrong and nothing failed."""
        return not (self.wrong_version or self.wrong_tenant or self.wrong_other or self.failed)


async def prove(size: Size, say: Callable[[str], None] = print) -> Tally:
    """Run the whole proof and return what was seen."""
    base = packaged_model()
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(
            size.kind, base, count=size.replicas, max_loras=size.max_loras, max_cpu_loras=size.max_cpu_loras
        ) as servers,
    ):
        say(f"{size.replicas} servers ({size.kind}), making {size.adapters + size.swapped} markers")
        made = await markers(servers[0].url, base, Path(folder) / "markers", size.adapters + size.swapped)
        async with _world(Path(folder), servers, made, size, say) as world:
            tally = Tally()
            say(f"{size.requests} calls by {size.callers} callers")
            started = time.monotonic()
            await _run(world, servers, size, tally, say)
            say(_report(tally, time.monotonic() - started))
            return tally


@asynccontextmanager
async def _world(
    folder: Path, servers: list[Server], made: list[Marker], size: Size, say: Callable[[str], None]
) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        pool = {
            "name": "pool",
            "replicas": [server.url for server in servers],
            "max_loras": size.max_loras,
            "max_cpu_loras": size.max_cpu_loras,
        }
        world = await stack.enter_async_context(build(folder, pool, made, tenants=size.tenants, swapped=size.swapped))
        say(f"{len(world.adapters)} adapters of {size.tenants} tenants registered")
        yield world


async def _run(world: World, servers: list[Server], size: Size, tally: Tally, say: Callable[[str], None]) -> None:
    dice = random.Random(size.seed)
    popular = list(world.adapters)
    dice.shuffle(popular)
    weights = [1 / (place + 1) ** size.zipf for place in range(len(popular))]
    todo = iter(lambda: dice.choices(popular, weights)[0], None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(CALL_SECONDS)) as session:

        async def caller(number: int) -> None:
            mine = random.Random(size.seed * 1000 + number)
            while tally.judged < size.requests or not trouble.done():
                await _one(session, world, next(todo), mine, tally)

        trouble = asyncio.create_task(_trouble(world, servers, size, tally, say))
        swapping = asyncio.create_task(_swap(world, size, tally))
        try:
            await asyncio.gather(*(caller(number) for number in range(size.callers)))
            await trouble
        finally:
            swapping.cancel()
            trouble.cancel()
            await asyncio.gather(swapping, trouble, return_exceptions=True)


async def _one(
    session: aiohttp.ClientSession, world: World, place: tuple[str, str], dice: random.Random, tally: Tally
) -> None:
    tenant, name = place
    asked_at = time.monotonic()
    stream = dice.random() < 0.5
    for attempt in range(RETRIES + 1):
        url = dice.choice(world.gateways).url
        status, said = await _ask(session, url, world.keys[tenant], name, stream=stream)
        if status == 200:
            tally.latencies.append(time.monotonic() - asked_at)
            tally.retried += attempt > 0
            _judge(world, place, said, asked_at, tally)
            return
        tally.reasons[f"{status} {said[:80]}"] += 1
        await asyncio.sleep(RETRY_SECONDS * 2**attempt)
    tally.failed += 1


async def _ask(session: aiohttp.ClientSession, url: str, key: str, route: str, *, stream: bool) -> tuple[int, str]:
    """The status and the text said; 0 for a connection that failed or a stream that broke."""
    more = {"stream": True} if stream else {}
    try:
        async with session.post(
            f"{url}/v1/chat/completions", json=body(route, **more), headers={"authorization": f"Bearer {key}"}
        ) as answer:
            text = await answer.text()
            if answer.status != 200:
                return answer.status, json.loads(text)["error"]["message"]
            return _streamed(text) if stream else (200, json.loads(text)["choices"][0]["message"]["content"])
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
        return 0, type(exc).__name__


def _streamed(text: str) -> tuple[int, str]:
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    broken = [chunk["error"]["message"] for chunk in chunks if "error" in chunk]
    if broken or "data: [DONE]" not in text:
        return 0, "stream: " + (broken[0] if broken else "no end")
    return 200, "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


def _judge(world: World, place: tuple[str, str], said: str, asked_at: float, tally: Tally) -> None:
    if said in world.adapters[place].may_say(asked_at, time.monotonic()):
        tally.ok += 1
    elif said in world.adapters[place].ever():
        tally.wrong_version += 1
        late = world.adapters[place].seconds_late(said, asked_at)
        tally.reasons[f"{place} got a version {late:.2f} s after its flip was confirmed"] += 1
    elif said in world.speakers:
        tally.wrong_tenant += 1
        tally.reasons[f"{place} got the answer of {world.speakers[said]}"] += 1
    else:
        tally.wrong_other += 1
        tally.reasons[f"{place} got an answer of nobody"] += 1


async def _swap(world: World, size: Size, tally: Tally) -> None:
    """Flip the alias of one adapter that has two versions, every two seconds."""
    dice = random.Random(size.seed + 1)
    places = [place for place, adapter in world.adapters.items() if len(adapter.versions) > 1]
    while True:
        await asyncio.sleep(size.swap_seconds)
        place = dice.choice(places)
        await world.flip(place)
        tally.swaps += 1


async def _trouble(world: World, servers: list[Server], size: Size, tally: Tally, say: Callable[[str], None]) -> None:
    """Kill -9 of a server at a quarter of the calls, its return at a half; kill -9 of a gateway after it."""
    if size.kill:
        await _until(tally, size.requests // 4)
        victim = servers[-1]
        await asyncio.to_thread(victim.kill)
        say(f"server {victim.url} killed at {tally.judged} calls")
        await _until(tally, size.requests // 2)
        await asyncio.to_thread(victim.start)
        back = time.monotonic()
        say(f"server {victim.url} back at {tally.judged} calls")
        async with asyncio.timeout(120):
            while not await _serves(victim.url):
                await asyncio.sleep(0.1)
        tally.recovered_seconds = time.monotonic() - back
        say(f"it serves again after {tally.recovered_seconds:.1f} s")
    if size.restart_gateway:
        await _until(tally, size.requests * 5 // 8)
        say(f"gateway killed at {tally.judged} calls")
        await world.restart_gateway(1)
        tally.gateways_restarted += 1
        say(f"gateway back at {tally.judged} calls")


async def _until(tally: Tally, count: int) -> None:
    while tally.judged < count:
        await asyncio.sleep(0.05)


async def _serves(url: str) -> bool:
    """Whether the server has an adapter loaded: it lost all of them when it was killed."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/models") as answer:
            return any(card["parent"] for card in (await answer.json())["data"])
    except aiohttp.ClientError:
        return False


def _report(tally: Tally, seconds: float) -> str:
    lines = [f"  {count:6d} {reason}" for reason, count in tally.reasons.most_common(12)]
    return "\n".join(["what went wrong on the way:", *lines, f"{tally.judged / seconds:.0f} calls a second"])


def _figure(size: Size, tally: Tally) -> str:
    ordered = sorted(tally.latencies) or [0.0]
    parts = {
        "kind": size.kind,
        "replicas": size.replicas,
        "adapters": size.adapters,
        "requests": tally.judged,
        "wrong_version": tally.wrong_version,
        "wrong_tenant": tally.wrong_tenant,
        "wrong_other": tally.wrong_other,
        "failed": tally.failed,
        "retried": tally.retried,
        "swaps": tally.swaps,
        "gateways_restarted": tally.gateways_restarted,
        "recovered_s": "-" if tally.recovered_seconds is None else f"{tally.recovered_seconds:.1f}",
        "p50_ms": round(ordered[len(ordered) // 2] * 1000),
        "p99_ms": round(ordered[int(len(ordered) * 0.99) - 1] * 1000),
        "visible_within_s": SETTLE_SECONDS,
    }
    return " ".join(f"{name}={value}" for name, value in parts.items())


def _size(arguments: list[str]) -> Size:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for found in fields(Size):
        flag = found.name.replace("_", "-")
        if isinstance(found.default, bool):
            parser.add_argument(f"--no-{flag}", dest=found.name, action="store_false")
        else:
            parser.add_argument(f"--{flag}", type=type(found.default), default=found.default)
    return Size(**vars(parser.parse_args(arguments)))


def main(arguments: list[str]) -> int:
    """Run what was asked for; without arguments everything: engines, real vLLM, hostile adapters."""
    lines, held = [], True
    for size in [_size(arguments)] if arguments else ALL:
        seen = asyncio.run(prove(size, lambda line: print(line, flush=True)))
        lines.append(_figure(size, seen))
        held = held and seen.promises_held()
    if not arguments:
        refused = hostile.prove()
        lines.append(hostile.figure(refused))
        held = held and refused.promises_held()
    print("figure: " + " | ".join(lines))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
