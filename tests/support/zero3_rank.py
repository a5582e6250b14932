"""One rank of a ZeRO-3 training on a CPU, over gloo: `python -m tests.support.zero3_rank plan.json`.

DeepSpeed runs on a CPU (`DS_ACCELERATOR=cpu`); transformers and accelerate take processes without a GPU for a single
one. Here they are told of the group that DeepSpeed has opened, and our own check believes it. Everything else is the
session as GPUs run it. Needs the package deepspeed, and a compiler for its CPU kernels.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import deepspeed  # type: ignore[import-not-found]  # by hand, for one proof
import trl
from accelerate import state
from accelerate.utils import DistributedType

from adapters.training import preflight
from adapters.training.callbacks import Interrupt
from adapters.training.disk import free_bytes
from adapters.training.plan import read_plan
from adapters.training.preflight import Machine
from adapters.training.session import run


def offer_zero3_on_cpu() -> None:
    """Let the libraries take the group for one of GPUs, on the device `cpu`."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    real = trl.SFTConfig

    def configured(**named: Any) -> Any:
        return real(**{**named, "use_cpu": False, "ddp_backend": None})

    trl.SFTConfig = configured
    state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    preflight.check_strategy = lambda *_, **__: None  # type: ignore[attr-defined]  # it is imported there


def main(plan_file: str) -> None:
    """Train, and prove on the way out that it was ZeRO-3."""
    offer_zero3_on_cpu()
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    run(read_plan(Path(plan_file)), Machine(0, free_bytes), Interrupt())
    assert state.AcceleratorState().distributed_type == DistributedType.DEEPSPEED
    assert state.AcceleratorState().deepspeed_plugin.zero_stage == 3
    deepspeed.comm.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
