"""Money proved: races, kills, a Redis in bad weather, and a model that never disagrees. All on loopback, real Redis.

    python -m tests.prove.money [--only PART] [--rounds 200] [--calls 500] [--kills 50] [--seconds 60] [--steps 100000]

Prints a figure for each promise; leaves with 1 when one is broken. The last line is the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.prove.money_doors import knocked
from tests.prove.money_kills import killed
from tests.prove.money_model import modelled
from tests.prove.money_races import raced
from tests.prove.money_weather import weathered
from tests.support.redis_server import redis_server

WAIT_MS = 100
RECOVERY_MS = 2000


@dataclass(frozen=True, slots=True)
class Size:
    """How much is proved."""

    rounds: int = 200
    calls: int = 500
    kills: int = 50
    seconds: float = 60.0
    steps: int = 100_000
    values: int = 10_000


@dataclass(frozen=True, slots=True)
class Proof:
    """One promise: exact in its counts, also in time, its figures in a line, and the shortest of them."""

    exact: bool
    line: str
    figure: str
    in_time: bool = True

    @property
    def kept(self) -> bool:
        """Whether nothing at all is to be said against it."""
        return self.exact and self.in_time


async def races(folder: Path, size: Size) -> Proof:
    """Budgets under racing processes."""
    with redis_server(folder) as server:
        found = await raced(server.url, rounds=size.rounds, calls=size.calls)
    return Proof(
        found.overspent == 0 and found.phantom == 0 and found.admitted > 0,
        f"races: {found.decisions} decisions of 4 processes, {found.admitted} admitted, "
        f"{found.overspent} micro-dollars over budget, {found.phantom} phantom after the leases",
        f"{found.overspent} overspent in {found.decisions} decisions",
    )


async def kills(folder: Path, size: Size) -> Proof:
    """Gateways killed in the middle of streams."""
    with redis_server(folder) as server:
        found = await killed(folder, server.url, kills=size.kills)
    return Proof(
        found.within,
        f"kills: {found.kills} gateways killed (-9) mid-stream, {found.requests} requests, ledger "
        f"{found.ledger_microusd} and provider {found.provider_microusd} micro-dollars, {found.wrong} wrong, "
        f"{found.doubled} doubled, {found.leaked} held after the lease, "
        f"{found.untold} budget events missing or told twice",
        f"{found.wrong + found.doubled + found.leaked + found.untold} wrong after {found.kills} kills",
    )


async def weather(folder: Path, size: Size) -> Proof:
    """A Redis that is stopped, slow, cut off and killed."""
    found = await weathered(folder, seconds=size.seconds)
    wait, recovery = found.longest_wait_ms, found.longest_recovery_ms
    return Proof(
        found.off_by == 0,
        f"weather: {len(found.recoveries)} faults, {found.made} calls, {found.refused} refused, off by {found.off_by}, "
        f"longest wait {wait:.0f} ms, longest recovery {recovery:.0f} ms",
        f"{found.off_by} off in {len(found.recoveries)} Redis faults (wait <= {wait:.0f} ms)",
        in_time=wait <= WAIT_MS and recovery <= RECOVERY_MS,
    )


async def model(folder: Path, size: Size) -> Proof:
    """The scripts against plain Python."""
    with redis_server(folder) as server:
        steps, error = await asyncio.to_thread(modelled, server.url, size.steps)
    return Proof(error is None, f"model: {steps} steps, {error or '0 divergences'}", f"0 divergences in {steps} steps")


async def doors(folder: Path, size: Size) -> Proof:
    """Malformed Authorization values, and keys that begin alike."""
    with redis_server(folder) as server:
        found = await knocked(folder, server.url, values=size.values)
    others = sum(count for status, count in found.statuses.items() if status != 401)
    return Proof(
        others == 0 and found.confused == 0 and found.statuses[401] == size.values,
        f"doors: {found.statuses[401]} malformed Authorization values were 401, {others} were not; "
        f"{found.confused} keys with the same first 20 characters confused",
        f"{others} of {size.values} malformed keys past the door",
    )


PROOFS: dict[str, Callable[[Path, Size], Awaitable[Proof]]] = {
    "races": races,
    "kills": kills,
    "weather": weather,
    "model": model,
    "doors": doors,
}


def prove(size: Size, only: str | None = None) -> list[Proof]:
    """Run the proofs one after another."""
    proofs = []
    for name, proof in PROOFS.items():
        if only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                proofs.append(asyncio.run(_run(proof, Path(folder), size)))
            print(("ok    " if proofs[-1].kept else "BROKEN ") + proofs[-1].line, flush=True)
    return proofs


async def _run(proof: Callable[[Path, Size], Awaitable[Proof]], folder: Path, size: Size) -> Proof:
    return await proof(folder, size)


def main() -> int:
    """Prove what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("rounds", 200),
        ("calls", 500),
        ("kills", 50),
        ("seconds", 60.0),
        ("steps", 100_000),
        ("values", 10_000),
    ):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--only", choices=sorted(PROOFS))
    given = vars(parser.parse_args())
    only = given.pop("only")
    proofs = prove(Size(**given), only)
    print("figure: " + "; ".join(proof.figure for proof in proofs))
    return 0 if all(proof.kept for proof in proofs) else 1


if __name__ == "__main__":
    sys.exit(main())
