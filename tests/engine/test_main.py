"""The command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.engine.main import parse
from app.engine.options import EngineOptions, Faults, Latency, LoraModule


def test_flags_have_vllms_names() -> None:
    """What starts a vLLM with adapters starts the engine."""
    flags = (
        "--host 0.0.0.0 --port 9 --model dir --served-model-name base --max-loras 3 --max-cpu-loras 5"
        " --max-lora-rank 32 --max-model-len 128 --lora-modules a=/x b=/y --load-s 0.5"
        " --error-next -1 --error-rate 0.25 --error-status 503 --unhealthy"
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
        faults=Faults(error_next=-1, error_rate=0.25, error_status=503, unhealthy=True),
    )


def test_the_gateways_command_takes_the_same_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tunegate engine` hands its flags on as they are."""
    started: list[EngineOptions] = []
    monkeypatch.setattr("app.engine.main.run", started.append)
    flags = ["--port", "9", "--lora-modules", "a=/x", "b=/y", "--per-token-s", "0.1", "--hang-next", "-1"]
    answer = CliRunner().invoke(app, ["engine", *flags])
    assert (answer.exit_code, started) == (0, [parse(flags)])


@pytest.mark.parametrize(
    "flags",
    [
        *("--max-loras 3 --max-cpu-loras 2", "--max-num-seqs 0", "--load-s -1", "--per-token-s nan"),
        *("--error-rate 2", "--error-status 200", "--drop-next -2", "--drop-after-chunks -1"),
    ],
)
def test_impossible_flags_end_the_program(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that cannot be is named, before anything is loaded."""
    with pytest.raises(SystemExit) as left:
        parse(flags.split(" "))
    assert left.value.code == 2
    assert flags.split(" ")[-2].removeprefix("--").replace("-", "_") in capsys.readouterr().err


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
