"""What happens to servers and gateways while calls run: kill -9, return, and how long until all is right again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from tests.prove.asking import Pace, ask
from tests.prove.fleet import Server
from tests.prove.judge import Place, Tally
from tests.prove.markers import body
from tests.prove.world import World

Say = Callable[[str], None]
RECOVERY_SECONDS = 120.0
TRIES = 3
CHECKED = 8  # answers of a new gateway that must be right


async def kill_server(world: World, victim: Server, tally: Tally, *, at: int, until: int, say: Say) -> None:
    """Kill -9 of a server after so many calls, its return after so many."""
    await reached(tally, at)
    await asyncio.to_thread(victim.kill)
    killed = time.monotonic()
    say(f"server {victim.url} killed at {tally.judged} calls")
    await reached(tally, until)
    tally.felt_seconds = max((failure - killed for failure in tally.failures if failure > killed), default=0.0)
    await asyncio.to_thread(victim.start)
    back = time.monotonic()
    say(f"server {victim.url} back at {tally.judged} calls")
    async with asyncio.timeout(RECOVERY_SECONDS), aiohttp.ClientSession() as session:
        while not await _is_right(session, world, victim.url):
            await asyncio.sleep(0.1)
    tally.recovered_seconds = time.monotonic() - back
    say(f"it answers rightly again after {tally.recovered_seconds:.1f} s")


async def kill_gateway(world: World, number: int, tally: Tally, *, at: int, pace: Pace, load: float, say: Say) -> None:
    """Kill -9 of a gateway after so many calls; it is started again at once, at the address that callers know.

    Meanwhile callers begin `load` calls a second, so that the machine is busy and not full: a process that starts on a
    machine without a free core measures the machine.
    """
    await reached(tally, at)
    pace.per_second = load
    say(f"gateway killed at {tally.judged} calls")
    killed = time.monotonic()
    await world.restart_gateway(number)
    dice, places = random.Random(number), list(world.adapters)
    async with aiohttp.ClientSession() as session:
        for checked in range(CHECKED):
            await _answers(session, world, number, dice.choice(places), tally)
            if not checked:
                tally.gateway_seconds = time.monotonic() - killed
    pace.per_second = 0.0
    tally.gateways_restarted += 1
    say(f"gateway ready and answering {tally.gateway_seconds:.1f} s after its start, at {tally.judged} calls")


async def _answers(session: aiohttp.ClientSession, world: World, number: int, place: Place, tally: Tally) -> None:
    """A call at this gateway, tried again there when it is told to come later."""
    for _ in range(TRIES):
        asked_at = time.monotonic()
        answer = await ask(session, world.gateways[number].url, world.keys[place[0]], place[1], stream=False)
        if answer.status == 200:
            tally.judge(world.adapters, place, answer, asked_at, time.monotonic())
            return
        tally.reasons[f"a new gateway answered {answer.status} {answer.said[:80]}"] += 1
    tally.failed += 1


async def reached(tally: Tally, count: int) -> None:
    """Return when so many calls have ended."""
    while tally.judged < count:
        await asyncio.sleep(0.05)


async def _is_right(session: aiohttp.ClientSession, world: World, url: str) -> bool:
    """Whether gateways have loaded an adapter there (it lost all of them), and it answers with that one's words."""
    words = {version: said for adapter in world.adapters.values() for version, said in adapter.versions}
    try:
        async with session.get(f"{url}/v1/models") as listed:
            known = [card["id"] for card in (await listed.json())["data"] if card["id"] in words]
        if not known:
            return False
        async with session.post(f"{url}/v1/chat/completions", json=body(known[0])) as answer:
            said: dict[str, Any] = await answer.json()
    except aiohttp.ClientError:
        return False
    if answer.status != 200:
        return False  # taken off between the two questions
    assert said["choices"][0]["message"]["content"] == words[known[0]], f"{url} answers wrongly as {known[0]}"
    return True
