"""One rank of an FSDP2 training on a CPU, over gloo: `python -m tests.support.fsdp2_rank plan.json`.

PyTorch's FSDP2 runs on a CPU; accelerate does not offer it there, and would train with plain DDP instead. Here it is
told that the processes have some accelerator, at the moment when it asks what FSDP is for. Everything else is the
session as GPUs run it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch.distributed
from accelerate import state
from accelerate.utils import DistributedType

from adapters.training import preflight
from adapters.training.callbacks import Interrupt
from adapters.training.disk import free_bytes
from adapters.training.plan import read_plan
from adapters.training.preflight import Machine
from adapters.training.session import run


def offer_fsdp_on_cpu() -> None:
    """Let accelerate take CPU processes for such as FSDP is offered to, and our own check believe it."""
    real = state.AcceleratorState.__init__

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        if named.get("fsdp_plugin") is not None:
            state.PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        real(self, *arguments, **named)

    state.AcceleratorState.__init__ = init
    preflight.check_strategy = lambda *_, **__: None  # type: ignore[attr-defined]  # it is imported there


def main(plan_file: str) -> None:
    """Train, and prove on the way out that it was FSDP2."""
    offer_fsdp_on_cpu()
    run(read_plan(Path(plan_file)), Machine(0, free_bytes), Interrupt())
    assert state.AcceleratorState().is_fsdp2
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
