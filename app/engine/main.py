"""Start the engine: from the command line, or by `run(EngineOptions(...))`.

numpy and FastAPI are imported when the engine starts, not before, so `--help` is instant and the thread limit of the
linear algebra library still takes effect.
"""

import argparse
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from app.engine.options import EngineOptions, Faults, Latency, LoraModule

_SWITCH_INTERVAL_S = 0.0005
_LATENCY = {
    "first_token_s": "wait of a sequence before its first token",
    "per_token_s": "wait of a sequence before each further token",
    "load_s": "time to read an adapter, in which nothing else runs",
}
_FAULTS = {
    "error_status": "status of injected errors",
    "error_next": "completions that fail; -1: all",
    "error_rate": "share of those that do fail",
    "hang_next": "completions that never answer; -1: all",
    "drop_after_chunks": "stream events before an injected cut",
    "drop_next": "completions whose connection is cut; -1: all",
    "load_error_next": "adapter loads that fail; -1: all",
    "unhealthy": "answer /health with 503",
}


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


def main(arguments: Sequence[str] | None = None, *, program: str = "python -m app.engine") -> None:
    """Read the flags and serve."""
    run(parse(arguments, program=program))


def parse(arguments: Sequence[str] | None = None, *, program: str = "python -m app.engine") -> EngineOptions:
    """Read the flags; names and meanings are vLLM's, those under "injection" are ours. A bad flag ends the program."""
    parser = _parser(program)
    found = vars(parser.parse_args(arguments))
    try:
        found["latency"] = Latency(**{name: found.pop(name) for name in _LATENCY})
        found["faults"] = Faults(**{name: found.pop(name) for name in _FAULTS})
        return EngineOptions(**{**found, "lora_modules": tuple(found["lora_modules"])})
    except ValueError as exc:
        parser.error(str(exc))


def _parser(program: str) -> argparse.ArgumentParser:
    defaults = EngineOptions()
    parser = argparse.ArgumentParser(
        prog=program,
        description="The reference engine: vLLM's HTTP contract over a tiny real Llama, on a CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default=defaults.host, help="address to listen on")
    add("--port", type=int, default=defaults.port, help="TCP port to listen on")
    add("--model", type=Path, default=defaults.model, help="model folder in Hugging Face layout")
    add("--served-model-name", default=defaults.served_model_name, help="name of the base model")
    add("--max-loras", type=int, default=defaults.max_loras, help="adapters active at a time")
    add("--max-cpu-loras", type=int, default=defaults.max_cpu_loras, help="adapters in host memory")
    add("--max-lora-rank", type=int, default=defaults.max_lora_rank, help="largest rank of an adapter")
    add("--lora-modules", nargs="*", type=_module, default=[], metavar="NAME=PATH", help="adapters to register")
    add("--max-model-len", type=int, help="tokens of prompt and answer; none: what the model says")
    add("--max-num-seqs", type=int, default=defaults.max_num_seqs, help="sequences running at a time")
    add("--max-num-batched-tokens", type=int, default=defaults.max_num_batched_tokens, help="tokens in one step")
    _add_injection(parser.add_argument_group("injection", "what a test or a simulation wants to go slowly or wrong"))
    return parser


def _add_injection(group: "argparse._ArgumentGroup") -> None:
    for name, default, text in _fields(Latency, _LATENCY):
        group.add_argument(_flag(name), type=float, default=default, metavar="SECONDS", help=text)
    for name, default, text in _fields(Faults, _FAULTS):
        if isinstance(default, bool):
            group.add_argument(_flag(name), action="store_true", default=default, help=text)
        else:
            group.add_argument(_flag(name), type=type(default), default=default, metavar="N", help=text)


def _fields(kind: type, texts: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    return [(field.name, field.default, texts[field.name]) for field in fields(kind)]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _module(text: str) -> LoraModule:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return LoraModule(name, path)
