"""When a chosen server gets its call: at once, or once the call can share a GPU slot. Pure.

vLLM gives each freed slot to the call that has waited longest, whose adapter then runs for that one call; the next
newcomer finds no slot and waits in turn, so that past a certain load half of all calls wait. Here a call that must wait
is held back a while instead: calls of its adapter gather behind it and later share one slot, and newcomers find slots
free. A held call goes when its adapter runs, when more slots are free than are kept for newcomers, or when it has been
held for some mean running times; then the server's own queue has it. `benchmarks/placement.py` shows what it is worth.
"""

from __future__ import annotations

SLOTS_PER_KEPT = 8  # of so many slots one is kept for newcomers; a server with fewer keeps none
RUNS_TO_HOLD = 5.0  # a longer hold lets fewer calls wait, and those longer than in plain queues
RUNS_REMEMBERED = 64


def may_go(*, runs: bool, free: int, slots: int, held: bool) -> bool:
    """Whether a call may go to its server now: its adapter runs there, or there is a slot for it."""
    kept = slots // SLOTS_PER_KEPT if held else 0
    return runs or free > kept


class Pace:
    """How long a server's calls run, and so how long it is worth holding one back; nothing is held before it is known.

    The mean fades: each call counts as much as one of the last `RUNS_REMEMBERED`.
    """

    def __init__(self) -> None:
        self._mean = 0.0
        self._known = 0

    def ran(self, seconds: float) -> None:
        """A call has run for so long."""
        self._known = min(self._known + 1, RUNS_REMEMBERED)
        self._mean += (seconds - self._mean) / self._known

    @property
    def hold_seconds(self) -> float:
        """How long to hold a call back at most."""
        return RUNS_TO_HOLD * self._mean
