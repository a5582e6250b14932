"""What this machine lacks: each part that the gateway would use is tried for real, each for five seconds at most.

Nothing is left behind, and nothing that costs money is asked but one embedding where a service embeds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.doctor.finding import PROBE_SECONDS, Finding

if TYPE_CHECKING:
    from app.settings import Settings

__all__ = ["Finding", "examine", "probe_address", "show"]


def examine(config: Path | None) -> list[Finding]:
    """Try every part."""
    from app.settings import SettingsError, load

    try:
        settings = load(config)
    except SettingsError as exc:
        return [Finding("settings", False, str(exc))]
    return asyncio.run(_tried(settings))


async def _tried(settings: Settings) -> list[Finding]:
    """What is on this machine one after another, then all that is elsewhere at once."""
    from app.cli.doctor import machine, stores, upstreams

    found = [*machine.findings(settings)]
    elsewhere = await asyncio.gather(*stores.probes(settings), *upstreams.probes(settings))
    return found + [finding for findings in elsewhere for finding in findings]


def show(findings: list[Finding], *, as_json: bool) -> None:
    """Print them: a table for people, JSON for programs."""
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("part", "", "", box=None)
    for finding in findings:
        state = Text("ok", "green") if finding.ok else Text("lacking", "red")
        table.add_row(Text(finding.part), state, Text(finding.says))
    Console().print(table)


def probe_address(url: str) -> bool:
    """Whether a GET of this address answers 200 within five seconds."""
    if not url.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as answer:  # noqa: S310 - the scheme is checked above
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
