"""The client of the gateway's training API (docs/training-api.md): one method per endpoint, and what its answers mean.

Every write carries the lease's fencing token; the gateway's 409 becomes LeaseLost or JobOver and is never tried again.
No answer and 5xx are tried again with growing pauses for as long as the lease that this client was given may be alive
(GatewayAway afterwards), but not for ever where heartbeats are answered and this one thing is not (NotTaken). Every
endpoint can be repeated: a blob is known by its hash, an event by its id, a completion by the adapter's hash. Downloads
go on where they stopped and are believed only when the SHA-256 agrees.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import msgspec

from adapters.gateway.errors import Damaged, GatewayAway, LeaseLost, NotTaken, error_of
from adapters.gateway.messages import Beat, Claim, Completion, Event, FileRef, Lease, Stop
from adapters.types import AdapterManifest

_CHUNK = 1 << 20
_DAMAGED_TRIES = 6
_PATIENCE_SECONDS, _HASTE_SECONDS = 1800.0, 10.0  # with one request, while heartbeats keep the lease
Sleep = Callable[[float], Coroutine[Any, Any, None]]
Clock = Callable[[], float]
T = TypeVar("T")


class TrainingApi:
    """A connection to one gateway; `client` has its base URL (without `/training/v1`) and the secret's header.

    It holds one job at a time: how long to ask again follows from the newest lease that it was told.
    """

    def __init__(
        self, client: httpx2.AsyncClient, *, sleep: Sleep = asyncio.sleep, clock: Clock = time.monotonic
    ) -> None:
        self._client = client
        self._sleep = sleep
        self._clock = clock
        self._lease_ends = clock()
        self._patience = _PATIENCE_SECONDS

    async def claim(
        self, trainer: str, bases: Sequence[str], wait_seconds: int, providers: Sequence[str] = ()
    ) -> Claim | None:
        """Lease a job, or None when there is none; asked once, since the caller asks again anyway."""
        body: dict[str, Any] = {"trainer": trainer, "bases": list(bases), "wait_seconds": wait_seconds}
        if providers:
            body["providers"] = list(providers)
        answer = await self._once("POST", "/claim", content=_json(body), timeout=wait_seconds + 15)
        if answer.status_code == 204:
            return None
        claim = _read(answer, Claim)
        self._patience = _PATIENCE_SECONDS
        self._keeps(claim.lease)
        return claim

    async def heartbeat(self, job: str, token: int, beat: dict[str, Any]) -> Beat:
        """Keep the lease and hear the gateway's command; asked once, since the next beat comes soon."""
        answer = await self._once("POST", f"/jobs/{job}/heartbeat", token, content=_json(beat))
        told = _read(answer, Beat)
        self._keeps(told.lease)
        return told

    async def announce(self, job: str, token: int, beat: dict[str, Any]) -> None:
        """A heartbeat that has to be heard before what it tells of is done."""
        await self._persist(lambda: self.heartbeat(job, token, beat))

    def hasten(self) -> None:
        """Let requests for this job be tried again for a few seconds only: it is being let go."""
        self._patience = _HASTE_SECONDS

    async def is_resting(self, job: str, token: int) -> bool:
        """Whether a job that was let go waits, paused or queued, as this token left it; False: the token has it still.

        Raises JobOver, or LeaseLost when another trainer has had it since. Changes nothing: an append of no events is
        answered by the fence alone, and a job that rests can be given back again.
        """
        try:
            await self._once("POST", f"/jobs/{job}/events", token, content=_json({"events": []}))
        except LeaseLost:
            await self._once("POST", f"/jobs/{job}/release", token, content=_json({"reason": "given back before"}))
            return True
        return False

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

        async def sent() -> None:
            if (await self._once("HEAD", place, token)).status_code != 200:
                headers = {"content-type": "application/x-tar", "content-length": str(_size(path))}
                await self._once("PUT", place, token, content=_chunks(path), headers=headers, timeout=600)

        for attempt in range(_DAMAGED_TRIES):
            try:
                return await self._persist(sent)
            except Damaged:
                await self._sleep(_pause(attempt))
        raise NotTaken(f"{path.name} arrived damaged {_DAMAGED_TRIES} times")

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
        return await self._completed(job, token, body)

    async def complete_at_provider(self, job: str, token: int, model: str, trained_tokens: int) -> Completion:
        """Name the model that a provider has made, and end the job."""
        body = {"provider_model": model, "trained_tokens": trained_tokens}
        return await self._completed(job, token, body)

    async def fail(self, job: str, token: int, code: str, message: str, param: str | None) -> None:
        """End the job with an error in words for the tenant."""
        await self._ask(
            "POST", f"/jobs/{job}/fail", token, content=_json({"code": code, "message": message[:4000], "param": param})
        )

    async def release(self, job: str, token: int, reason: str) -> None:
        """Give the job back, so that another trainer can have it now."""
        await self._ask("POST", f"/jobs/{job}/release", token, content=_json({"reason": reason}))

    async def claim_stop(self, trainer: str, providers: Sequence[str]) -> Stop | None:
        """Lease a job that has ended and may still run at one of these providers; None when there is none."""
        body = {"trainer": trainer, "providers": list(providers)}
        answer = await self._once("POST", "/stops/claim", content=_json(body))
        return None if answer.status_code == 204 else _read(answer, Stop)

    async def stopped(self, job: str, token: int) -> None:
        """Say that nothing runs at the provider for a job that has ended; else it is offered again."""
        await self._once("POST", f"/jobs/{job}/stopped", token)

    async def _completed(self, job: str, token: int, body: dict[str, Any]) -> Completion:
        content = _json(body)

        async def told() -> Completion:
            return _read(await self._once("POST", f"/jobs/{job}/complete", token, content=content), Completion)

        return await self._persist(told)

    async def _ask(self, method: str, path: str, token: int, **more: Any) -> None:
        await self._persist(lambda: self._once(method, path, token, **more))

    def _keeps(self, lease: Lease) -> None:
        self._lease_ends = self._clock() + lease.expires_in_seconds

    async def _persist(self, request: Callable[[], Awaitable[T]]) -> T:
        began = self._clock()
        for attempt in itertools.count():
            try:
                return await request()
            except GatewayAway as exc:
                now = self._clock()
                if now >= self._lease_ends:
                    raise
                if now - began >= self._patience:
                    raise NotTaken(f"{exc}, for {now - began:.0f} s, while the lease was kept") from exc
                await self._sleep(_pause(attempt))
        raise AssertionError("unreachable")

    async def _once(
        self,
        method: str,
        path: str,
        token: int | None = None,
        *,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> httpx2.Response:
        sent = {"content-type": "application/json", **(headers or {}), **_fence(token)}
        try:
            answer = await self._client.request(method, f"/training/v1{path}", headers=sent, **more)
        except httpx2.RequestError as exc:
            raise GatewayAway(f"the gateway did not answer ({type(exc).__name__})") from exc
        # A refused HEAD has no body to judge it by: what may not be there is sent, and that answer says more.
        if answer.is_success or (method == "HEAD" and answer.status_code < 500 and answer.status_code != 429):
            return answer
        raise error_of(answer.status_code, answer.content)

    async def _fetch(self, path: str, token: int, target: Path, sha256: str) -> None:
        """Download with resume: what is on disk stays, and counts only when the hash of the whole agrees."""
        part = target.with_name(target.name + ".part")
        for _ in range(_DAMAGED_TRIES):
            while not await self._persist(lambda: self._append(path, token, part)):
                pass
            with part.open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() == sha256:
                    part.replace(target)
                    return
            part.unlink()
        raise NotTaken(f"{target.name} came damaged {_DAMAGED_TRIES} times")

    async def _append(self, path: str, token: int, part: Path) -> bool:
        """Read on; False when the connection broke off with more than there was before."""
        have = _size(part)
        headers = {**_fence(token), **({"range": f"bytes={have}-"} if have else {})}
        try:
            async with self._client.stream("GET", f"/training/v1{path}", headers=headers, timeout=60) as answer:
                if answer.status_code == 416:
                    return True  # all of it is here
                if answer.status_code not in (200, 206):
                    raise error_of(answer.status_code, await answer.aread())
                with part.open("ab" if answer.status_code == 206 else "wb") as opened:
                    async for block in answer.aiter_bytes(_CHUNK):
                        opened.write(block)
        except httpx2.RequestError as exc:
            if _size(part) > have:
                return False
            raise GatewayAway(f"the download broke off ({type(exc).__name__})") from exc
        return True


def _fence(token: int | None) -> dict[str, str]:
    return {} if token is None else {"x-fencing-token": str(token)}


def _json(body: Any) -> bytes:
    return msgspec.json.encode(body)


def _read(answer: httpx2.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise GatewayAway("the answer is not the training API's; is this the gateway's address?") from exc


def _pause(attempt: int) -> float:
    return float(min(10.0, 0.25 * 2 ** min(attempt, 6)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as opened:
        while block := opened.read(_CHUNK):
            yield block
