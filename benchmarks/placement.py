"""Placement in a discrete-event simulation: our own code beside what others do, on the same calls.

    python -m benchmarks.placement [--calls 20000] [--seeds 5]

Eight replicas with vLLM's two LRU levels (16 GPU slots, 128 adapters in host memory) serve a thousand adapters. Calls
arrive at random (Poisson) at a rate that keeps 32 in flight on each replica if none waits; their adapters follow Zipf's
law; serving takes an exponential time of mean 1. As in vLLM, a call whose adapter is not running waits while
all slots are taken, and later calls of running adapters overtake it. Scenarios: Zipf 0.6, 0.9, 1.1; drift (50 pairs of
adapters change places in popularity now and then); a flash crowd (a cold adapter takes a fifth of all calls a while).

Columns, after a warm-up: disk = share of calls whose adapter was in neither level; deferred = share that waited for a
slot; wait = mean wait, in service times; imbalance = busiest replica over the mean, in calls in flight, mean over time.
`llm-d` scores like its lora-affinity scorer (running 1.0, a free slot 0.8, else 0) plus an equal part for short queues;
`affinity` is that scorer alone, without regard to load.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import fmean

from app.placement.choice import Candidate, choose, score
from app.placement.popularity import Popularity
from app.placement.rendezvous import rank
from app.placement.residency import Level, Residency

REPLICAS, SLOTS, HOST, ADAPTERS, IN_FLIGHT = 8, 16, 128, 1000, 32
HALF_LIFE = 60.0  # of the popularity counts, in service times
URLS = tuple(f"http://replica-{number}" for number in range(REPLICAS))


@dataclass(slots=True)
class Replica:
    """One simulated vLLM server; `in_flight` is what the gateway sees, `running` what has a slot."""

    number: int
    residency: Residency = field(default_factory=lambda: Residency(max_loras=SLOTS, max_cpu_loras=HOST))
    in_flight: Counter[str] = field(default_factory=Counter)
    load: int = 0
    running: Counter[str] = field(default_factory=Counter)
    waiting: list[tuple[str, float, bool]] = field(default_factory=list)

    def may_run(self, adapter: str) -> bool:
        """VLLM's rule."""
        return adapter in self.running or len(self.running) < SLOTS


@dataclass(slots=True)
class Seen:
    """What one run has shown."""

    calls: int = 0
    started: int = 0
    disk: int = 0
    deferred: int = 0
    waited: float = 0.0
    imbalance: float = 0.0
    time: float = 0.0

    def figures(self) -> tuple[float, float, float, float]:
        """Disk share, deferred share, mean wait, imbalance."""
        started = max(1, self.started)
        return self.disk / started, self.deferred / self.calls, self.waited / started, self.imbalance / self.time


Policy = Callable[[str, Sequence[Replica], float], int]


def at_random(dice: random.Random) -> Policy:
    """Any replica."""
    return lambda _adapter, replicas, _now: dice.randrange(len(replicas))


def least_loaded(dice: random.Random) -> Policy:
    """The replica with the fewest calls in flight."""
    return lambda _adapter, replicas, _now: min(replicas, key=lambda r: (r.load, dice.random())).number


def consistent_hash(_dice: random.Random) -> Policy:
    """The adapter's own replica, whatever its load."""
    return lambda adapter, _replicas, _now: URLS.index(rank(adapter, URLS)[0])


def affinity(dice: random.Random) -> Policy:
    """llm-d's lora-affinity scorer alone."""
    return lambda adapter, replicas, _now: max(replicas, key=lambda r: (_affinity(r, adapter), dice.random())).number


def llm_d(dice: random.Random) -> Policy:
    """The lora-affinity scorer and a queue scorer, equal weights."""

    def pick(adapter: str, replicas: Sequence[Replica], _now: float) -> int:
        loads = [replica.load for replica in replicas]
        least, spread = min(loads), max(1, max(loads) - min(loads))
        return max(
            replicas, key=lambda r: (_affinity(r, adapter) + 1 - (r.load - least) / spread, dice.random())
        ).number

    return pick


def _affinity(replica: Replica, adapter: str) -> float:
    if adapter in replica.in_flight:
        return 1.0
    return 0.8 if len(replica.in_flight) < SLOTS else 0.0


def ours(_dice: random.Random) -> Policy:
    """`app.placement`, as the gateway runs it."""
    popularity = Popularity(half_life_seconds=HALF_LIFE)

    def pick(adapter: str, replicas: Sequence[Replica], now: float) -> int:
        popularity.count(adapter, now)
        order = {url: place for place, url in enumerate(rank(adapter, URLS))}
        mean = (sum(replica.load for replica in replicas) + 1) / len(replicas)
        homes = popularity.homes(adapter, len(replicas))
        candidates = [
            Candidate(
                url=URLS[replica.number],
                in_flight=replica.load,
                mean_in_flight=mean,
                distinct_adapters=len(replica.in_flight),
                max_loras=SLOTS,
                runs_adapter=adapter in replica.in_flight,
                level=replica.residency.level(adapter),
                place=order[URLS[replica.number]],
                homes=homes,
                replicas=len(replicas),
            )
            for replica in replicas
        ]
        url = choose(candidates) or max(candidates, key=score).url
        return URLS.index(url)

    return pick


POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "random": at_random,
    "least loaded": least_loaded,
    "consistent hash": consistent_hash,
    "affinity": affinity,
    "llm-d": llm_d,
    "ours": ours,
}


class Simulation:
    """One run of one policy."""

    def __init__(self, policy: Policy, dice: random.Random) -> None:
        self.seen = Seen()
        self._policy = policy
        self._dice = dice
        self._replicas = [Replica(number) for number in range(REPLICAS)]
        self._ends: list[tuple[float, int, int, str]] = []
        self._ids = count()
        self._now = 0.0
        self._counting = False

    def run(self, calls: Sequence[str], warm_up: int) -> Seen:
        """Let these calls arrive; the first `warm_up` are not counted."""
        for number, adapter in enumerate(calls):
            at = self._now + self._dice.expovariate(REPLICAS * IN_FLIGHT)
            while self._ends and self._ends[0][0] <= at:
                self._end(*heapq.heappop(self._ends))
            self._pass_time(at)
            self._counting = number >= warm_up
            self._arrive(adapter)
        return self.seen

    def _arrive(self, adapter: str) -> None:
        replica = self._replicas[self._policy(adapter, self._replicas, self._now)]
        replica.in_flight[adapter] += 1
        replica.load += 1
        self.seen.calls += self._counting
        if replica.may_run(adapter):
            self._start(replica, adapter, self._now, counted=self._counting)
        else:
            self.seen.deferred += self._counting
            replica.waiting.append((adapter, self._now, self._counting))

    def _start(self, replica: Replica, adapter: str, came: float, *, counted: bool) -> None:
        replica.running[adapter] += 1
        if counted:
            self.seen.started += 1
            self.seen.disk += replica.residency.level(adapter) is Level.ABSENT
            self.seen.waited += self._now - came
        replica.residency.touch(adapter)
        end = self._now + self._dice.expovariate(1)
        heapq.heappush(self._ends, (end, next(self._ids), replica.number, adapter))

    def _end(self, at: float, _id: int, number: int, adapter: str) -> None:
        self._pass_time(at)
        replica = self._replicas[number]
        replica.load -= 1
        for counter in (replica.in_flight, replica.running):
            counter[adapter] -= 1
            if not counter[adapter]:
                del counter[adapter]
        if adapter not in replica.running and replica.waiting:
            waiting, replica.waiting = replica.waiting, []
            for name, came, counted in waiting:
                if replica.may_run(name):
                    self._start(replica, name, came, counted=counted)
                else:
                    replica.waiting.append((name, came, counted))

    def _pass_time(self, at: float) -> None:
        total = sum(replica.load for replica in self._replicas)
        if self._counting and total:
            self.seen.time += at - self._now
            self.seen.imbalance += (at - self._now) * max(r.load for r in self._replicas) * REPLICAS / total
        self._now = at


def workload(scenario: str, calls: int, dice: random.Random) -> list[str]:
    """The adapters that the calls ask for, one after another."""
    names = [f"adapter-{number}" for number in range(ADAPTERS)]
    dice.shuffle(names)
    exponent = float(scenario) if scenario.replace(".", "").isdigit() else 0.9
    weights = [1 / (place + 1) ** exponent for place in range(ADAPTERS)]
    made: list[str] = []
    part = max(1, calls // 20)
    for number in range(0, calls, part):
        made += dice.choices(names, weights, k=min(part, calls - number))
        if scenario == "drift":
            for _ in range(50):
                a, b = dice.randrange(ADAPTERS), dice.randrange(ADAPTERS)
                names[a], names[b] = names[b], names[a]
    if scenario == "flash crowd":
        for number in range(calls // 2, calls * 3 // 4):
            made[number] = names[-1] if dice.random() < 0.2 else made[number]
    return made


def measure(name: str, scenario: str, *, calls: int, seeds: int) -> tuple[float, ...]:
    """Mean figures over the seeds."""
    rows = []
    for seed in range(seeds):
        asked = workload(scenario, calls, _dice(seed))
        simulation = Simulation(POLICIES[name](_dice(seed)), _dice(1000 + seed))
        rows.append(simulation.run(asked, calls * 2 // 5).figures())
    return tuple(fmean(column) for column in zip(*rows, strict=True))


def _dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a seeded simulation


def main() -> None:
    """Print the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scenarios", nargs="*", default=["0.6", "0.9", "1.1", "drift", "flash crowd"])
    chosen = parser.parse_args()
    figures: dict[tuple[str, str], tuple[float, ...]] = {}
    for scenario in chosen.scenarios:
        label = f"Zipf {scenario}" if scenario[0].isdigit() else f"Zipf 0.9, {scenario}"
        print(f"\n{label}\n{'':16} {'disk':>8} {'deferred':>9} {'wait':>7} {'imbalance':>10}")
        for name in POLICIES:
            found = figures[name, scenario] = measure(name, scenario, calls=chosen.calls, seeds=chosen.seeds)
            print(f"{name:16} {found[0]:8.3f} {found[1]:9.3f} {found[2]:7.2f} {found[3]:10.2f}", flush=True)
    if ("ours", "0.9") in figures:
        mine = figures["ours", "0.9"]
        best = min(figures[name, "0.9"][1] for name in POLICIES if name != "ours")
        print(
            f"\nfigure: zipf=0.9 disk={mine[0]:.3f} imbalance={mine[3]:.2f} deferred={mine[1]:.3f}"
            f" best_other_deferred={best:.3f}"
        )


if __name__ == "__main__":
    main()
