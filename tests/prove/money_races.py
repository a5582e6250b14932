"""Racing processes against budgets: what was admitted, what it cost, and what is left when every lease has run out."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass

from app.admission.leases import Leases
from app.storage.redis import RedisStore
from tests.admission.cases import counters, ledger

PROCESSES = 4
LEASE_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Raced:
    """The figures of all rounds."""

    decisions: int
    admitted: int
    overspent: int
    phantom: int


async def raced(url: str, *, rounds: int, calls: int) -> Raced:
    """Every round is a tenant of its own with a budget for some calls.

    In a third of the rounds nothing is settled, in another half of what was held is used; in the last, whole answers of
    any length use all that they may, which is more than they held.
    """
    cases = [
        (
            f"race-{number}",
            "tenant",
            {"budget_day_microusd": 200 + 7 * number},
            10 * min(1, number % 3),
            number % 3 == 2,
        )
        for number in range(rounds)
    ]
    results = await asyncio.to_thread(_run, url, cases, calls)
    await asyncio.sleep(LEASE_SECONDS)
    overspent = phantom = 0
    async with RedisStore.connect(url, operation_timeout_seconds=30) as store:
        await Leases(store, lease_seconds=LEASE_SECONDS).charge([case[0] for case in cases])
        for tenant, _, limits, _, _ in cases:
            account = await counters(store, f"tenant:{tenant}", tenant)
            charged = sum(entry.cost_microusd for entry in await ledger(store, tenant))
            overspent += max(0, account["dc"] - limits["budget_day_microusd"])
            phantom += abs(account["dc"] - charged) + account["hc"] + account["n"] + account.get("xc", 0)
    return Raced(PROCESSES * calls * rounds, sum(result["admitted"] for result in results), overspent, phantom)


def _run(url: str, cases: list[tuple[str, str, dict[str, int], int, bool]], calls: int) -> list[dict[str, int]]:
    command = [
        sys.executable,
        "-m",
        "tests.admission.racer",
        url,
        str(calls),
        str(PROCESSES),
        json.dumps(cases),
        str(LEASE_SECONDS),
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(PROCESSES)]
    outs = [process.communicate()[0] for process in running]
    return [case for out in outs for case in json.loads(out)]
