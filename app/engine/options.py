"""What an engine is told at its start, as frozen values.

Flag names and meanings are vLLM's (`--max-loras` is the number of GPU slots there, of active adapters here).
BLAS threads are a property of the process: `main.run` sets OPENBLAS_NUM_THREADS=1 unless it is already set; a caller
that imported numpy earlier sets it itself. Matrices of this size lose by threading.
"""

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

_LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Injected time, in seconds.

    `first_token_s` and `per_token_s` delay one sequence and leave the others alone; `load_s` is spent inside the engine
    loop at each read of an adapter from disk and so stalls every running sequence, as it does in vLLM.
    """

    first_token_s: float = 0.0
    per_token_s: float = 0.0
    load_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse times that cannot be waited."""
        for name in ("first_token_s", "per_token_s", "load_s"):
            value = getattr(self, name)
            if not 0 <= value <= _LONGEST_S:
                raise ValueError(f"{name} must be between 0 and {_LONGEST_S:g} seconds, got {value}")


@dataclass(frozen=True, slots=True)
class Faults:
    """Injected failures; a `*_next` count of -1 means every request until changed.

    The next `error_next` completions answer `error_status`, each with probability `error_rate`; the next `hang_next`
    never answer; the next `drop_next` lose their connection after `drop_after_chunks` stream events (a whole answer is
    cut in its middle); the next `load_error_next` adapter loads answer 500; `unhealthy` turns /health to 503.
    """

    error_status: int = 500
    error_next: int = 0
    error_rate: float = 1.0
    hang_next: int = 0
    drop_after_chunks: int = 1
    drop_next: int = 0
    load_error_next: int = 0
    unhealthy: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no status, no share and no count."""
        if not 400 <= self.error_status <= 599:
            raise ValueError(f"error_status must be between 400 and 599, got {self.error_status}")
        if not 0 <= self.error_rate <= 1:
            raise ValueError(f"error_rate must be between 0 and 1, got {self.error_rate}")
        if self.drop_after_chunks < 0:
            raise ValueError(f"drop_after_chunks must be at least 0, got {self.drop_after_chunks}")
        for name in ("error_next", "hang_next", "drop_next", "load_error_next"):
            if getattr(self, name) < -1:
                raise ValueError(f"{name} must be a count, or -1 for always, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class LoraModule:
    """An adapter to register at the start: its served name and its folder."""

    name: str
    path: str


def packaged_model() -> Path:
    """The folder of the base model that ships with this package."""
    return Path(str(resources.files("app.engine") / "assets" / "base"))


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """One engine process.

    `max_cpu_loras` counts adapters in host memory and is at least `max_loras`. `max_model_len` is in tokens, prompt and
    output together; None means what the model's configuration says. `port` 0 lets the system choose;
    the default leaves 8000 to the gateway.
    """

    host: str = "127.0.0.1"
    port: int = 8001
    model: Path = field(default_factory=packaged_model)
    served_model_name: str = "base"
    max_loras: int = 2
    max_cpu_loras: int = 4
    max_lora_rank: int = 16
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 1024
    lora_modules: tuple[LoraModule, ...] = ()
    runtime_lora_updating: bool = True
    latency: Latency = field(default_factory=Latency)
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        """Refuse what vLLM refuses at its start."""
        for name in ("max_loras", "max_lora_rank", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be greater than or equal to 1.")
        if self.max_cpu_loras < self.max_loras:
            raise ValueError(f"max_cpu_loras ({self.max_cpu_loras}) must be >= max_loras ({self.max_loras}).")
