"""`tunegate pools`: the model servers as the gateway that answers sees them."""

from __future__ import annotations

from app.cli.admin.group import Json, plainly
from app.cli.client import call
from app.cli.show import show

SEEN = ("pool", "url", "healthy", "restarts", "running", "held", "loading", "in_flight")
KNOWN = ("registered", "host", "gpu", "refused")


@plainly
def pools(json: Json = False) -> None:
    """Show every pool's servers: who is well, how many calls are there, how many adapters each knows, holds, runs.

    `--json` names the adapters, and what a server refused to load and why.
    """
    answer = call("GET", "/pools")
    if json:
        show(answer, (), as_json=True)
        return
    rows = [
        {"pool": pool["name"], **replica, **{name: len(replica[name]) for name in KNOWN}}
        for pool in answer["data"]
        for replica in pool["replicas"]
    ]
    show({"data": rows}, (*SEEN, *KNOWN), as_json=False)
