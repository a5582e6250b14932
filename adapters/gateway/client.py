"""The client of the gateway's training API (docs/training-api.md): one method per endpoint, and what its answers mean.

Every write carries the lease's fencing token; a 409 becomes LeaseLost or JobOver and is never tried again. No answer
and 5xx are tried again with growing pauses: every endpoint can be repeated (a blob is known by its hash, an event by
its id, a completion by the adapter's hash). Downloads go on where they stopped and are believed only when the SHA-256
agrees.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from adapters.gateway.errors import Damaged, GatewayAway, error_of
from adapters.gateway.messages import Beat, Claim, Completion, Event, FileRef
from adapters.types import AdapterManifest

_CHUNK = 1 << 20
Sleep = Callable[[float], Coroutine[Any, Any, None]]


class TrainingApi:
    """A connection to one gateway; `client` has its base URL (without `/training/v1`) and the secret's header."""

    def __init__(self, client: httpx2.AsyncClient, *, sleep: Sleep = asyncio.sleep, tries: int = 6) -> None:
        self._client = client
        self._sleep = sleep
        self._tries = tries

    async def claim(
        self, trainer: str, bases: Sequence[str], wait_seconds: int, providers: Sequence[str] = ()
    ) -> Claim | None:
        """Lease a job, or None when there is none; asked once, since the caller asks again anyway."""
        body: dict[str, Any] = {"trainer": trainer, "bases": list(bases), "wait_seconds": wait_seconds}
        if providers:
            body["providers"] = list(providers)
        answer = await self._once("POST", "/claim", content=_json(body), timeout=wait_seconds + 15)
        return None if answer.status_code == 204 else msgspec.json.decode(answer.content, type=Claim)

    async def heartbeat(self, job: str, token: int, beat: dict[str, Any]) -> Beat:
        """Keep the lease and hear the gateway's command; asked once, since the next beat comes soon."""
        answer = await self._once("POST", f"/jobs/{job}/heartbeat", token, content=_json(beat))
        return msgspec.json.decode(answer.content, type=Beat)

    async def events(self, job: str, token: int, events: Sequence[Event]) -> None:
        """Append to the job's log; at most 100 a request."""
        for start in range(0, len(events), 100):
            await self._ask(
                "POST", f"/jobs/{job}/events", token, content=_json({"events": events[start : start + 100]})
            )

    async def download(self, job: str, token: int, file: FileRef, target: Path) -> None:
        """Fetch a file of the job."""
        await self._fetch(f"/jobs/{job}/files/{file.id}", token, target, file.sha256)

    async def download_blob(self, job: str, token: int, sha256: str, target: Path) -> None:
        """Fetch a committed checkpoint's tar."""
        await self._fetch(f"/jobs/{job}/blobs/{sha256}", token, target, sha256)

    async def upload(self, job: str, token: int, path: Path, sha256: str) -> None:
        """Bring a blob up, unless it is there already."""
        place = f"/jobs/{job}/blobs/{sha256}"
        for attempt in range(self._tries):
            try:
                if (await self._ask("HEAD", place, token, missing_ok=True)).status_code == 200:
                    return
                headers = {"content-type": "application/x-tar", "content-length": str(_size(path))}
                await self._once("PUT", place, token, content=_chunks(path), headers=headers, timeout=600)
            except (GatewayAway, Damaged) as exc:
                if attempt == self._tries - 1:
                    raise GatewayAway(f"{path.name} could not be uploaded: {exc}") from exc
                await self._sleep(_pause(attempt))
            else:
                return

    async def checkpoint(self, job: str, token: int, step: int, blob: str, metrics: dict[str, Any]) -> None:
        """Commit an uploaded blob as the newest checkpoint."""
        body = {"step": step, "blob": blob, "metrics": metrics}
        await self._ask("POST", f"/jobs/{job}/checkpoints", token, content=_json(body))

    async def complete(self, job: str, token: int, artifact: str, manifest: AdapterManifest) -> Completion:
        """Register the adapter and end the job."""
        figures = {name: manifest.metrics[name] for name in ("train_loss", "valid_loss") if name in manifest.metrics}
        body = {
            "artifact": artifact,
            "adapter_sha256": manifest.sha256,
            "manifest": manifest,
            "trained_tokens": int(manifest.metrics.get("trained_tokens", 0)),
            "metrics": figures,
        }
        answer = await self._ask("POST", f"/jobs/{job}/complete", token, content=_json(body))
        return msgspec.json.decode(answer.content, type=Completion)

    async def complete_at_provider(self, job: str, token: int, model: str, trained_tokens: int) -> Completion:
        """Name the model that a provider has made, and end the job."""
        body = {"provider_model": model, "trained_tokens": trained_tokens}
        answer = await self._ask("POST", f"/jobs/{job}/complete", token, content=_json(body))
        return msgspec.json.decode(answer.content, type=Completion)

    async def fail(self, job: str, token: int, code: str, message: str, param: str | None) -> None:
        """End the job with an error in words for the tenant."""
        await self._ask(
            "POST", f"/jobs/{job}/fail", token, content=_json({"code": code, "message": message[:4000], "param": param})
        )

    async def release(self, job: str, token: int, reason: str) -> None:
        """Give the job back, so that another trainer can have it now."""
        await self._ask("POST", f"/jobs/{job}/release", token, content=_json({"reason": reason}))

    async def _ask(self, method: str, path: str, token: int | None = None, **more: Any) -> httpx2.Response:
        for attempt in range(self._tries):
            try:
                return await self._once(method, path, token, **more)
            except GatewayAway:
                if attempt == self._tries - 1:
                    raise
                await self._sleep(_pause(attempt))
        raise GatewayAway(f"{method} {path}: no tries allowed")

    async def _once(
        self,
        method: str,
        path: str,
        token: int | None = None,
        *,
        missing_ok: bool = False,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> httpx2.Response:
        sent = {"content-type": "application/json", **(headers or {}), **_fence(token)}
        try:
            answer = await self._client.request(method, f"/training/v1{path}", headers=sent, **more)
        except httpx2.TransportError as exc:
            raise GatewayAway(f"the gateway did not answer ({type(exc).__name__})") from exc
        if answer.is_success or (missing_ok and answer.status_code == 404):
            return answer
        raise error_of(answer.status_code, answer.content)

    async def _fetch(self, path: str, token: int, target: Path, sha256: str) -> None:
        """Download with resume: what is on disk stays, and counts only when the hash of the whole agrees."""
        part = target.with_name(target.name + ".part")
        for attempt in range(self._tries):
            try:
                await self._append(path, token, part)
            except GatewayAway:
                if attempt == self._tries - 1:
                    raise
                await self._sleep(_pause(attempt))
                continue
            with part.open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() == sha256:
                    part.replace(target)
                    return
            part.unlink()
        raise GatewayAway(f"{target.name} came damaged {self._tries} times")

    async def _append(self, path: str, token: int, part: Path) -> None:
        have = _size(part)
        headers = {**_fence(token), **({"range": f"bytes={have}-"} if have else {})}
        try:
            async with self._client.stream("GET", f"/training/v1{path}", headers=headers, timeout=60) as answer:
                if answer.status_code == 416:
                    return  # all of it is here
                if answer.status_code not in (200, 206):
                    raise error_of(answer.status_code, await answer.aread())
                with part.open("ab" if answer.status_code == 206 else "wb") as opened:
                    async for block in answer.aiter_bytes(_CHUNK):
                        opened.write(block)
        except httpx2.TransportError as exc:
            raise GatewayAway(f"the download broke off ({type(exc).__name__})") from exc


def _fence(token: int | None) -> dict[str, str]:
    return {} if token is None else {"x-fencing-token": str(token)}


def _json(body: Any) -> bytes:
    return msgspec.json.encode(body)


def _pause(attempt: int) -> float:
    return float(min(10.0, 0.25 * 2**attempt))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as opened:
        while block := opened.read(_CHUNK):
            yield block
