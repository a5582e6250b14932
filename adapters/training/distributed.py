"""Many processes: this machine's by torchrun (accelerate underneath), a cluster's by Ray Train.

Every rank runs `session.run` with the same plan; only how ranks are started differs. The work folder must be one that
all ranks see (a shared file system for several machines). A failed rank takes its group down, the group starts again up
to `launch.restarts` times, and each start resumes from the newest whole checkpoint. A refusal is not a failure: it is
written down once and not tried again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from adapters.training.errors import InvalidRecipe
from adapters.training.plan import TrainingPlan, read_plan
from adapters.training.recipe import LaunchRecipe


def torchrun_arguments(launch: LaunchRecipe, plan_file: Path, rank_module: str) -> list[str]:
    """What torchrun is told; with several nodes the same words on each."""
    if launch.nodes > 1 and launch.rendezvous is not None:
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", launch.rendezvous, "--rdzv-id", plan_file.parent.name]
    else:
        meeting = ["--standalone"]
    return [
        "--nproc-per-node", str(launch.processes), "--nnodes", str(launch.nodes), *meeting,
        "--max-restarts", str(launch.restarts), "-m", rank_module, str(plan_file), "--rank",
    ]  # fmt: skip


def train_by_torchrun(plan_file: Path, launch: LaunchRecipe) -> int:
    """Run torchrun in this process; returns when every rank has ended."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(torchrun_arguments(launch, plan_file, "adapters.training"))
    except ChildFailedError as exc:
        return max(1, int(exc.get_first_failure()[1].exitcode))
    return 0


def train_by_ray(plan_file: Path, launch: LaunchRecipe) -> int:
    """Run `launch.processes` Ray Train workers, one GPU each where there are any."""
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError
    except ImportError as exc:
        raise InvalidRecipe("launch.by: Ray is not installed: pip install 'ray[train]'", param="launch.by") from exc

    started = not ray.is_initialized()
    if started:
        ray.init(address=launch.ray_address, include_dashboard=False, log_to_driver=False, configure_logging=False)
    gpus = ray.cluster_resources().get("GPU", 0) >= launch.processes
    trainer = TorchTrainer(
        _ray_rank,
        train_loop_config={"plan": str(plan_file), "path": [path for path in sys.path if path]},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=launch.processes, use_gpu=gpus),
        run_config=RunConfig(
            name=plan_file.parent.name,
            storage_path=str(plan_file.parent / "ray"),
            failure_config=FailureConfig(max_failures=launch.restarts),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError:
        return 1
    finally:
        if started:
            ray.shutdown()
    return 0


def _ray_rank(config: dict[str, Any]) -> None:
    """One Ray Train worker; a refusal is written down, and does not make Ray try again."""
    sys.path[:] = [*config["path"], *(path for path in sys.path if path not in config["path"])]

    from adapters.training.__main__ import run_rank

    plan: TrainingPlan = read_plan(Path(config["plan"]))
    run_rank(plan)
