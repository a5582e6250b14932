"""The admission machine for as many steps as are asked for."""

from __future__ import annotations

import traceback

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.admission.machine import AdmissionMachine

STEPS_PER_MACHINE = 60
EXAMPLES = 100


def modelled(redis_url: str, steps: int) -> tuple[int, str | None]:
    """How many steps were taken, and what diverged first, if anything did."""

    class Machine(AdmissionMachine):
        url = redis_url

    Machine.steps = 0
    chosen = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS_PER_MACHINE,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    while Machine.steps < steps:
        try:
            run_state_machine_as_test(Machine, settings=chosen)
        except AssertionError:
            return Machine.steps, f"diverged: {traceback.format_exc()}"
    return Machine.steps, None
