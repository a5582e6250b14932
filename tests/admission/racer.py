"""A gateway's worth of racing callers, as a process: `python -m tests.admission.racer URL CALLS PROCESSES CASES LEASE`.

CASES is a JSON list of [tenant, scope, limits, output tokens, greedy]. Every case begins when all processes have
arrived at it. Prints a JSON list: for each case, how many calls were admitted and what they cost when settled.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass

from app.admission.estimate import OutputEstimator
from app.admission.redis import AdmissionConfig, RedisAdmission
from app.storage.redis import RedisStore
from tests.admission.cases import admitted, entry, of_scope

LONGEST = 4096


class Usual(OutputEstimator):
    """An estimator that has learned so much and learns no more."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._usual = tokens

    def learn(self, route: str, tokens: int) -> None:
        """Learn nothing."""

    def estimate(self, _route: str, ceiling: int) -> int:
        """What is usual."""
        return min(ceiling, self._usual)


@dataclass(frozen=True, slots=True)
class Case:
    """One race: whose limits, and how much output each call asks for (0: it is never settled).

    A greedy call asks for any length, holds what answers usually have, and is as long as it is allowed to be.
    """

    tenant: str
    scope: str
    limits: dict[str, int]
    output: int
    greedy: bool = False


async def race(store: RedisStore, case: Case, calls: int, lease: int) -> dict[str, int]:
    """Make all calls at once; those admitted use half of the output they held, or (greedy) all that they may."""
    admission = RedisAdmission(store, AdmissionConfig(lease_seconds=lease, max_output_tokens=LONGEST))
    who = of_scope(case.scope, case.limits, tenant_id=case.tenant)
    counted = {"admitted": 0, "cost": 0}
    if case.greedy:
        admission.questions.estimator = Usual(case.output)

    async def one(number: int) -> None:
        output = None if case.greedy else case.output
        held = await admitted(admission, who, f"{os.getpid()}-{number}", output=output)
        if held is None:
            return
        counted["admitted"] += 1
        if case.output:
            await asyncio.sleep(0)
            longest = held.state.max_output_tokens or LONGEST
            done = entry(held, completion=longest if case.greedy else case.output // 2)
            counted["cost"] += done.cost_microusd
            await held.settle(done)

    await asyncio.gather(*(one(number) for number in range(calls)))
    return counted


async def main(url: str, calls: int, processes: int, cases: list[Case], lease: int) -> list[dict[str, int]]:
    """Run every case against the other processes."""
    results = []
    async with RedisStore.connect(url, operation_timeout_seconds=30) as store:
        for number, case in enumerate(cases):
            await store.command("INCR", f"barrier:{number}")
            while int(await store.get(f"barrier:{number}") or 0) < processes:
                await asyncio.sleep(0.002)
            results.append(await race(store, case, calls, lease))
    return results


if __name__ == "__main__":
    given = [Case(*case) for case in json.loads(sys.argv[4])]
    given_lease = int(sys.argv[5])
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), given, given_lease))))
