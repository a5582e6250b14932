"""Start the engine: from the command line, or by `run(EngineOptions(...))`.

numpy and FastAPI are imported when the engine starts, not before, so `--help` is instant and the thread limit of the
linear algebra library still takes effect.
"""

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from app.engine.options import EngineOptions, Latency, LoraModule, packaged_model

_SWITCH_INTERVAL_S = 0.0005


def run(options: EngineOptions) -> None:
    """Serve until told to stop. When the engine loop dies the process answers what it has and leaves with status 1."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.setswitchinterval(_SWITCH_INTERVAL_S)  # the event loop must not wait 5 ms for the engine thread
    import uvicorn  # noqa: PLC0415  heavy, see above

    from app.engine.server import create_app  # noqa: PLC0415  heavy, see above

    died = threading.Event()

    def leave() -> None:
        died.set()
        server.should_exit = True

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(options, on_death=leave),
            host=options.host,
            port=options.port,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
        )
    )
    server.run()
    if died.is_set() or not server.started:
        sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags and serve."""
    run(parse(arguments))


def parse(arguments: Sequence[str] | None = None) -> EngineOptions:
    """Read the flags; names and meanings are vLLM's, those under "injection" are ours."""
    defaults = EngineOptions()
    parser = argparse.ArgumentParser(
        prog="python -m app.engine", description="The reference engine: vLLM's HTTP contract on a CPU, for tests."
    )
    add = parser.add_argument
    add("--host", default=defaults.host)
    add("--port", type=int, default=defaults.port)
    add("--model", type=Path, default=packaged_model(), help="folder in Hugging Face layout; default: the packaged one")
    add("--served-model-name", default=defaults.served_model_name)
    add("--max-loras", type=int, default=defaults.max_loras, help="adapters active at a time")
    add("--max-cpu-loras", type=int, default=defaults.max_cpu_loras, help="adapters in host memory")
    add("--max-lora-rank", type=int, default=defaults.max_lora_rank)
    add("--lora-modules", nargs="*", type=_module, default=[], metavar="NAME=PATH")
    add("--max-model-len", type=int, help="tokens of prompt and answer; default: what the model says")
    add("--max-num-seqs", type=int, default=defaults.max_num_seqs)
    add("--max-num-batched-tokens", type=int, default=defaults.max_num_batched_tokens)
    injection = parser.add_argument_group("injection")
    for name in ("first-token", "per-token", "load"):
        injection.add_argument(f"--{name}-s", type=float, default=0.0, help="seconds", metavar="SECONDS")
    found = parser.parse_args(arguments)
    return EngineOptions(
        host=found.host,
        port=found.port,
        model=found.model,
        served_model_name=found.served_model_name,
        max_loras=found.max_loras,
        max_cpu_loras=found.max_cpu_loras,
        max_lora_rank=found.max_lora_rank,
        max_model_len=found.max_model_len,
        max_num_seqs=found.max_num_seqs,
        max_num_batched_tokens=found.max_num_batched_tokens,
        lora_modules=tuple(found.lora_modules),
        latency=Latency(found.first_token_s, found.per_token_s, found.load_s),
    )


def _module(text: str) -> LoraModule:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return LoraModule(name, path)
