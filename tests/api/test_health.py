"""What the probes say."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.api.health import Check, router


def says(problem: str | None) -> Check:
    """A check with this result."""

    async def check() -> str | None:
        return problem

    return check


def readyz(needed: str | None, useful: str | None) -> tuple[int, dict[str, Any]]:
    """Status and body under these problems."""
    app = FastAPI()
    app.include_router(router({"policy": says(needed)}, {"pools": says(useful)}))
    with TestClient(app) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        answer = client.get("/readyz")
        return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("needed", "useful", "status", "word"),
    [
        (None, None, 200, "ready"),
        (None, "no replica", 200, "degraded"),
        ("down", None, 503, "not ready"),
        ("down", "no replica", 503, "not ready"),
    ],
)
def test_only_what_every_call_needs_takes_a_gateway_out(
    needed: str | None, useful: str | None, status: int, word: str
) -> None:
    """A pool that is away is said, and nothing more; a store that is away is 503; the process lives all the same."""
    problems = {name: text for name, text in (("policy", needed), ("pools", useful)) if text}
    assert readyz(needed, useful) == (status, {"status": word, "problems": problems})
