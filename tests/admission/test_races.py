from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from app.storage.redis import RedisStore
from tests.admission.cases import counters, ledger

PROCESSES = 4
CALLS = 200
ROOM = 37
KINDS = {
    "budget_day": {"budget_day_microusd": 10 * ROOM + 5},
    "budget_month": {"budget_month_microusd": 10 * ROOM},
    "requests": {"requests_per_minute": 1, "requests_burst": ROOM},  # one more a minute: none within the race
    "tokens": {"tokens_per_minute": 1, "tokens_burst": 10 * ROOM + 9},
    "tokens_per_day": {"tokens_per_day": 10 * ROOM + 9},
    "concurrent": {"concurrent_requests": ROOM},
}


def race(url: str, cases: list[tuple[str, str, dict[str, int], int]]) -> list[dict[str, int]]:
    """What several processes of racing callers were given together, case by case."""
    command = [sys.executable, "-m", "tests.admission.racer", url, str(CALLS), str(PROCESSES), json.dumps(cases), "900"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(PROCESSES)]
    outs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES
    together = zip(*(json.loads(out) for out in outs), strict=True)
    return [{name: sum(one[name] for one in case) for name in ("admitted", "cost")} for case in together]


async def test_racing_processes_are_given_exactly_what_there_is(redis_url: str, store: RedisStore) -> None:
    """4 processes, 800 calls at once, room for 37: 37 are admitted, of every kind of limit, whoever holds it."""
    cases = [(f"{kind}-{scope}", scope, KINDS[kind], 0) for kind in KINDS for scope in ("key", "team", "tenant")]
    results = await asyncio.to_thread(race, redis_url, cases)
    admitted = {case[0]: result["admitted"] for case, result in zip(cases, results, strict=True)}
    assert admitted == {case[0]: ROOM for case in cases}


async def test_racing_settlements_never_pass_the_budget_and_add_up(redis_url: str, store: RedisStore) -> None:
    """While settled calls give back half of what they held, the sum of all costs stays within the budget."""
    (result,) = await asyncio.to_thread(race, redis_url, [("acme", "tenant", {"budget_day_microusd": 1000}, 10)])
    cost = result["cost"]
    assert cost <= 1000
    assert cost == result["admitted"] * 15
    assert cost > 500
    after = await counters(store, "tenant:acme")
    assert (after["dc"], after["mc"], after["sc"], after["n"], after["hc"]) == (cost, cost, cost, 0, 0)
    assert sum(entry.cost_microusd for entry in await ledger(store)) == cost
