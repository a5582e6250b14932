"""The long proof of training: data, training runs, and OpenAI's fine-tuning API on our servers, one after the other.

`python -m tests.prove.training` takes about a quarter of an hour on two quiet cores. It is bounded: a part that is late
is interrupted, so that it tidies up behind itself, and has failed. Each part can be run alone by its own module.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from threading import Timer

PARTS = ("training_data", "training_runs", "training_api")
PART_SECONDS = 1200  # several times what a part takes on a quiet machine
TIDY_SECONDS = 60


def main() -> int:
    """Run the parts; the last line has the last word of each, and how long it took."""
    figures = []
    failed = 0
    for part in PARTS:
        started = time.monotonic()
        last, code = _run(part)
        failed |= code
        figures.append(f"{part}: {last.removeprefix('figure: ')} ({time.monotonic() - started:.0f} s)")
    print("figure: " + "; ".join(figures))
    return 1 if failed else 0


def _run(part: str) -> tuple[str, int]:
    """Pass on what a part says; its last line and its exit code."""
    last = "said nothing"
    command = [sys.executable, "-u", "-m", f"tests.prove.{part}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        bounds = (
            Timer(PART_SECONDS, process.send_signal, [signal.SIGINT]),
            Timer(PART_SECONDS + TIDY_SECONDS, process.kill),
        )
        for bound in bounds:
            bound.start()
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
        process.wait()
        for bound in bounds:
            bound.cancel()
    return last, process.returncode


if __name__ == "__main__":
    sys.exit(main())
