"""The command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.engine.main import parse
from app.engine.options import EngineOptions, Latency, LoraModule


def test_flags_have_vllms_names() -> None:
    """What starts a vLLM with adapters starts the engine."""
    flags = (
        "--host 0.0.0.0 --port 9 --model dir --served-model-name base --max-loras 3 --max-cpu-loras 5"
        " --max-lora-rank 32 --max-model-len 128 --lora-modules a=/x b=/y --load-s 0.5"
    )
    found = parse(flags.split(" "))
    assert found == EngineOptions(
        host="0.0.0.0",
        port=9,
        model=Path("dir"),
        max_loras=3,
        max_cpu_loras=5,
        max_lora_rank=32,
        max_model_len=128,
        lora_modules=(LoraModule("a", "/x"), LoraModule("b", "/y")),
        latency=Latency(load_s=0.5),
    )


@pytest.mark.parametrize("fields", [{"max_loras": 0}, {"max_loras": 3, "max_cpu_loras": 2}])
def test_impossible_levels_are_refused(fields: dict[str, int]) -> None:
    """At least one slot, and no more slots than places in host memory."""
    with pytest.raises(ValueError, match="max_"):
        EngineOptions(**fields)  # type: ignore[arg-type]


def test_a_malformed_adapter_is_refused_before_anything_loads(capsys: pytest.CaptureFixture[str]) -> None:
    """`--lora-modules` takes NAME=PATH."""
    with pytest.raises(SystemExit):
        parse(["--lora-modules", "nameonly"])
    assert "is not NAME=PATH" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    """The command line is read without numpy and FastAPI, so help and mistakes answer at once."""
    code = "import sys, app.engine.main as m; m.parse([]); print([n for n in ('numpy', 'fastapi') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
