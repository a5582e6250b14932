"""Adapters proved: many tenants' adapters on a few servers, versions swapped, servers and gateways killed, all at once.

    python -m tests.prove.adapters [--kind engine|vllm|plugin] [--replicas 4] [--adapters 1000] [--requests 20000] …

Two gateway processes share Redis and SQL. Tenants call shared routes under their own keys, so the same request means
another adapter for every tenant. Every adapter is a marker: its greedy answer is its own, known before the run. Every
answer must be the words of the version that its header names, that version must be what the alias meant while the call
ran (`judge`), and the ledger must name it. While calls run, aliases are flipped every two seconds, one server is killed
with -9 and brought back, and so is one gateway. A call that fails is sent once or twice more to the other gateway, as
the official SDKs do behind a load balancer; what fails then has failed. The last line is the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import aiohttp

from app.engine.options import packaged_model
from tests.prove import hostile
from tests.prove.asking import Pace, ask
from tests.prove.fleet import Server, fleet
from tests.prove.judge import Place, Tally
from tests.prove.markers import Marker, markers
from tests.prove.trouble import Say, kill_gateway, kill_server
from tests.prove.world import World, build

RETRIES = 2
RIGHT_AGAIN_SECONDS = 5.0
RETRY_SECONDS = 0.3
STORE = "data/objects/adapters"  # where a gateway keeps adapters, in the folder of the world
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
    restart_load: float = 60.0
    seed: int = 1


ON_VLLM = Size(
    kind="vllm",
    replicas=2,
    adapters=40,
    tenants=8,
    requests=2000,
    max_loras=2,
    max_cpu_loras=8,
    callers=8,
    swapped=10,
    restart_load=25.0,
)
ALL = (Size(), ON_VLLM, replace(ON_VLLM, kind="plugin"))


async def prove(size: Size, say: Say = print) -> Tally:
    """Run the whole proof and return what was seen."""
    base, begun = packaged_model(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = await asyncio.to_thread(Path(place).resolve)
        loras = (size.max_loras, size.max_cpu_loras)
        with fleet(size.kind, base, size.replicas, loras=loras, store=folder / STORE) as servers:
            say(f"{size.replicas} servers ({size.kind}), making {size.adapters + size.swapped} markers")
            made = await markers(servers[0].url, base, folder / "markers", size.adapters + size.swapped)
            async with _world(folder, servers, made, size) as world:
                say(f"{len(world.adapters)} adapters of {size.tenants} tenants registered; {size.callers} callers")
                tally, started = Tally(), time.monotonic()
                await _run(world, servers, size, tally, say)
                say(f"{tally.judged / (time.monotonic() - started):.0f} calls a second")
                await world.check_ledger(tally)
                say(_report(tally, world))
        say(f"{size.kind}: {time.monotonic() - begun:.0f} s in all")
        return tally


@asynccontextmanager
async def _world(folder: Path, servers: list[Server], made: list[Marker], size: Size) -> AsyncIterator[World]:
    pool = {
        "name": "pool",
        "replicas": [server.url for server in servers],
        "max_loras": size.max_loras,
        "max_cpu_loras": size.max_cpu_loras,
        "resolver": size.kind == "plugin",
    }
    async with build(folder, pool, made, tenants=size.tenants, swapped=size.swapped) as world:
        yield world


async def _run(world: World, servers: list[Server], size: Size, tally: Tally, say: Say) -> None:
    dice = random.Random(size.seed)
    popular = list(world.adapters)
    dice.shuffle(popular)
    weights = [1 / (rank + 1) ** size.zipf for rank in range(len(popular))]
    connector, pace = aiohttp.TCPConnector(limit=0), Pace()
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(CALL_SECONDS)) as session:

        async def caller(number: int) -> None:
            mine = random.Random(size.seed * 1000 + number)
            while tally.judged < size.requests or not trouble.done():
                await pace.turn()
                await _one(session, world, dice.choices(popular, weights)[0], mine, tally)

        trouble = asyncio.create_task(_trouble(world, servers, size, tally, pace, say))
        swapping = asyncio.create_task(_swap(world, size, tally))
        try:
            await asyncio.gather(*(caller(number) for number in range(size.callers)))
            await trouble
            if swapping.done():
                swapping.result()  # it never ends by itself: say why
        finally:
            swapping.cancel()
            trouble.cancel()
            await asyncio.gather(swapping, trouble, return_exceptions=True)


async def _one(session: aiohttp.ClientSession, world: World, place: Place, dice: random.Random, tally: Tally) -> None:
    """One call, tried again at the other gateway."""
    (tenant, name), stream, first = place, dice.random() < 0.5, dice.randrange(2)
    asked_at = time.monotonic()
    for attempt in range(RETRIES + 1):
        url = world.gateways[(first + min(attempt, 1)) % 2].url
        tried_at = time.monotonic()
        answer = await ask(session, url, world.keys[tenant], name, stream=stream)
        if answer.status == 200:
            tally.latencies.append(time.monotonic() - asked_at)
            tally.retried += attempt > 0
            tally.judge(world.adapters, place, answer, tried_at, time.monotonic())
            return
        tally.failures.append(time.monotonic())
        tally.reasons[f"{answer.status} {answer.said[:80]}"] += 1
        await asyncio.sleep(RETRY_SECONDS * 2**attempt)
    tally.failed += 1


async def _swap(world: World, size: Size, tally: Tally) -> None:
    """Flip the alias of one adapter that has two versions, every two seconds, at either gateway."""
    dice = random.Random(size.seed + 1)
    places = [place for place, adapter in world.adapters.items() if len(adapter.versions) > 1]
    while True:
        await asyncio.sleep(size.swap_seconds)
        await world.flip(dice.choice(places), dice.randrange(2))
        tally.swaps += 1


async def _trouble(world: World, servers: list[Server], size: Size, tally: Tally, pace: Pace, say: Say) -> None:
    """Kill -9 of a server at a quarter of the calls, its return at a half; kill -9 of a gateway after it."""
    if size.kill:
        await kill_server(world, servers[-1], tally, at=size.requests // 4, until=size.requests // 2, say=say)
    if size.restart_gateway:
        load = size.restart_load
        await kill_gateway(world, 1, tally, at=size.requests * 5 // 8, pace=pace, load=load, say=say)


def _report(tally: Tally, world: World) -> str:
    lines = [f"  {count:6d} {reason}" for reason, count in tally.reasons.most_common(12)]
    warned = [f"  {count:6d} {event}" for event, count in world.warnings().most_common(12)]
    return "\n".join(["what went wrong on the way:", *lines, "what gateways warned of:", *warned])


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
        "late": tally.late,
        "latest_ms": round(tally.late_seconds * 1000),
        "failed": tally.failed,
        "not_in_ledger": tally.not_in_ledger,
        "retried": tally.retried,
        "swaps": tally.swaps,
        "kill_felt_s": _seconds(tally.felt_seconds),
        "recovered_s": _seconds(tally.recovered_seconds),
        "gateways_restarted": tally.gateways_restarted,
        "at_calls_s": f"{size.restart_load:g}",
        "gateway_right_s": _seconds(tally.gateway_seconds),
        "p50_ms": round(ordered[len(ordered) // 2] * 1000),
        "p99_ms": round(ordered[int(len(ordered) * 0.99) - 1] * 1000),
    }
    return " ".join(f"{name}={value}" for name, value in parts.items())


def _seconds(found: float | None) -> str:
    return "-" if found is None else f"{found:.1f}"


def _size(arguments: list[str]) -> Size:
    """What was asked for; what was not, as it is proved for that kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for found in fields(Size):
        flag = found.name.replace("_", "-")
        if isinstance(found.default, bool):
            parser.add_argument(f"--no-{flag}", dest=found.name, action="store_false", default=None)
        else:
            parser.add_argument(f"--{flag}", type=type(found.default))
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    usual = Size() if given.get("kind", "engine") == "engine" else ON_VLLM
    return replace(usual, **given)


def main(arguments: list[str]) -> int:
    """Run what was asked for; without arguments everything: engines, real vLLM, hostile adapters."""
    lines, held = [], True
    for size in [_size(arguments)] if arguments else ALL:
        seen = asyncio.run(prove(size, lambda line: print(line, flush=True)))
        lines.append(_figure(size, seen))
        print(lines[-1], flush=True)
        held = held and seen.promises_held() and seen.is_in_time(RIGHT_AGAIN_SECONDS)
    if not arguments:
        refused = hostile.prove()
        lines.append(hostile.figure(refused))
        held = held and refused.promises_held()
    print("figure: " + " | ".join(lines))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
