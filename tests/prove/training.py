"""The long proof of training: data, training runs, and OpenAI's fine-tuning API on our servers, one after the other.

`python -m tests.prove.training` takes about half an hour on two cores; each part can be run alone by its own module.
"""

from __future__ import annotations

import subprocess
import sys
import time

PARTS = ("training_data", "training_runs", "training_api")


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
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    return last, process.returncode


if __name__ == "__main__":
    sys.exit(main())
