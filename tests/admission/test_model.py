from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.admission.machine import AdmissionMachine

MACHINES = 40
STEPS = 50


def test_the_scripts_agree_with_a_plain_model(redis_url: str) -> None:
    """Any order of calls, endings, kills, extensions and clock jumps: every counter of every account is the model's.

    `make prove-money` runs the same machine for 100,000 steps.
    """

    class Machine(AdmissionMachine):
        url = redis_url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=MACHINES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Machine.steps > MACHINES * STEPS / 4
