"""Reads an issuer's key set over HTTP: bounded in time and size, no redirects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2

SECONDS = 5.0
MAX_BYTES = 1024 * 1024


async def key_set(url: str) -> Mapping[str, Any]:
    """The key set at this address; raises OSError when it cannot be read, ValueError when it is none."""
    try:
        async with httpx2.AsyncClient(timeout=SECONDS) as client, client.stream("GET", url) as answer:
            if answer.status_code != 200:
                raise OSError(f"the key set answered {answer.status_code}")
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > MAX_BYTES:
                    raise ValueError("the key set is too large")
    except httpx2.HTTPError as exc:
        raise OSError(type(exc).__name__) from exc
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("the key set is no object")  # noqa: TRY004 - a wrong document, not a wrong call
    return found
