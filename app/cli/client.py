"""The admin API as the command line calls it: address and secret from the environment, one clear line when it fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8000"
PAGE = 1000


class AdminError(Exception):
    """The call did not succeed; the text says why and what to do, in one line."""


def call(method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
    """One call of the admin API; returns the decoded answer (text as it is), None when empty. Raises AdminError."""
    import httpx2

    url = _address()
    headers = {"authorization": f"Bearer {_secret()}"}
    params = {name: value for name, value in (query or {}).items() if value is not None}
    try:
        answer = httpx2.request(method, f"{url}/admin/v1{path}", json=body, params=params, headers=headers, timeout=120)
    except httpx2.InvalidURL as exc:
        raise AdminError(f"TUNEGATE_URL is not an address: {exc}") from exc
    except UnicodeEncodeError as exc:
        raise AdminError("what shall be sent is no valid text: it holds half a character") from exc
    except httpx2.TransportError as exc:
        advice = "start it with `tunegate serve`, or set TUNEGATE_URL"
        raise AdminError(f"no gateway answers at {url} ({type(exc).__name__}): {advice}") from exc
    if not answer.is_success:
        raise AdminError(_complaint(answer))
    if answer.headers.get("content-type", "").startswith("text/csv"):
        return answer.text
    try:
        return answer.json() if answer.content else None
    except ValueError as exc:
        raise AdminError(f"what answers at {url} is no Tunegate gateway; check TUNEGATE_URL") from exc


def every(path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A whole listing, part by part."""
    data: list[dict[str, Any]] = []
    while True:
        after = (data[-1].get("id") or data[-1].get("name")) if data else None
        part = call("GET", path, query={**(query or {}), "limit": PAGE, "after": after})
        data += part["data"]
        if not part["has_more"]:
            return {**part, "data": data}


def _address() -> str:
    url = os.environ.get("TUNEGATE_URL", DEFAULT_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise AdminError("TUNEGATE_URL: expected http:// or https:// at its beginning, such as http://localhost:8000")
    return url


def _secret() -> str:
    given = os.environ.get("TUNEGATE_ADMIN_KEY")
    if given:
        return _sendable(given, "TUNEGATE_ADMIN_KEY")
    path = Path(os.environ.get("TUNEGATE_DATA", ".tunegate")) / "admin.key"
    try:
        return _sendable(path.read_bytes().decode("ascii", "replace").strip(), str(path))
    except OSError as exc:
        advice = "set TUNEGATE_ADMIN_KEY, or TUNEGATE_DATA to the gateway's data folder"
        raise AdminError(f"no admin secret: {path} cannot be read ({exc.strerror}); {advice}") from exc


def _sendable(secret: str, source: str) -> str:
    if secret.isascii() and secret.isprintable():
        return secret
    raise AdminError(f"{source}: expected printable ASCII characters: no others can be sent in a header")


def _complaint(answer: Any) -> str:
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {answer.status_code} without saying why"
    return f"{message} (status {answer.status_code})"
