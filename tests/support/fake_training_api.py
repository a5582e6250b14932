"""The gateway's half of docs/training-api.md over real HTTP, in memory: leases, fencing tokens, blobs, versions.

It implements the page and nothing more. Tests look at its state and make trouble by name: `away` answers 503 for a
while, `expire` ends a lease, `command` is what heartbeats answer, `hold` keeps a request waiting, `refuse` has
refusals by request, `elsewhere` the statuses that another server at its address answers instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec
from aiohttp import web

SECRET = "trainer-secret"
JsonObject = dict[str, Any]


@dataclass
class FakeJob:
    """A job as the gateway keeps it."""

    spec: JsonObject
    files: dict[str, bytes]
    validation: str | None = None
    status: str = "queued"
    token: int = 0
    holder: str = ""
    expires_at: float = 0.0
    command: str = "continue"
    events: dict[str, JsonObject] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    checkpoint: JsonObject | None = None
    beats: list[JsonObject] = field(default_factory=list)
    error: JsonObject | None = None
    completion: JsonObject | None = None
    manifest: JsonObject | None = None

    @property
    def messages(self) -> list[str]:
        """What the log says, in order."""
        return [event["message"] for event in self.events.values()]


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass
class FakeTrainingApi:
    """An HTTP server on loopback; `async with` it."""

    lease_seconds: float = 60.0
    heartbeat_seconds: float = 0.2
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    versions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    away: int = 0
    cut_downloads: int = 0
    damage_uploads: int = 0
    hold: str = ""
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    elsewhere: list[int] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guard], client_max_size=2**30)
        job = "/training/v1/jobs/{job}"
        app.add_routes(
            [
                web.post("/training/v1/claim", self._claim),
                web.post(f"{job}/heartbeat", self._heartbeat),
                web.post(f"{job}/events", self._events),
                web.get(f"{job}/files/{{file}}", self._file),
                web.get(f"{job}/blobs/{{sha}}", self._blob),
                web.put(f"{job}/blobs/{{sha}}", self._put_blob),
                web.post(f"{job}/checkpoints", self._checkpoint),
                web.post(f"{job}/complete", self._complete),
                web.post(f"{job}/fail", self._fail),
                web.post(f"{job}/release", self._release),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def add(self, name: str, training: bytes, validation: bytes | None = None, **spec: Any) -> FakeJob:
        """Queue a job on these bytes."""
        base = {
            "id": name,
            "tenant": "acme",
            "name": "support",
            "model": "tunegate-tiny",
            "attempt": 0,
            "method": "supervised",
            "seed": 42,
            "recipe": None,
            "created_at": int(time.time()),
            "hyperparameters": {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"},
        }
        files = {"file-train": training} | ({} if validation is None else {"file-valid": validation})
        self.jobs[name] = FakeJob(base | spec, files, None if validation is None else "file-valid")
        return self.jobs[name]

    def expire(self, name: str) -> None:
        """End a lease, as time would."""
        self.jobs[name].expires_at = 0.0

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        name = f"{request.method} {request.path.rsplit('/', 1)[-1]}"
        self.requests[name] += 1
        while self.hold and self.hold in f"{request.method} {request.path}":
            await asyncio.sleep(0.02)
        if self.elsewhere:
            return web.Response(status=self.elsewhere.pop(0), text="default backend")
        try:
            self._check_caller(request, name)
            answer: web.StreamResponse = await handler(request)
        except Refusal as exc:
            error = {"message": exc.code, "type": "invalid_request_error", "param": None, "code": exc.code}
            return web.json_response({"error": error}, status=exc.status)
        return answer

    def _check_caller(self, request: web.Request, name: str) -> None:
        if request.headers.get("authorization") != f"Bearer {SECRET}":
            raise Refusal(401, "invalid_api_key")
        if self.away > 0:
            self.away -= 1
            raise Refusal(503, "server_is_overloaded")
        if name in self.refuse:
            raise Refusal(*self.refuse[name])

    def _held(self, request: web.Request) -> FakeJob:
        """The fence: only the current token may do anything."""
        job = self.jobs.get(request.match_info["job"])
        if job is None:
            raise Refusal(404, "fine_tune_not_found")
        if job.status not in ("queued", "running", "paused"):
            raise Refusal(409, "job_finished")
        if job.status != "running" or self._token(request) != str(job.token):
            raise Refusal(409, "lease_lost")
        return job

    @staticmethod
    def _token(request: web.Request) -> str | None:
        return request.headers.get("x-fencing-token")

    async def _claim(self, request: web.Request) -> web.Response:
        asked = await request.json()
        end = time.monotonic() + min(asked["wait_seconds"], 30)
        while True:
            for job in self.jobs.values():
                if job.spec["model"] in asked["bases"] and self._runnable(job, asked["trainer"]):
                    return web.json_response(self._leased(job, asked["trainer"]))
            if time.monotonic() >= end:
                return web.Response(status=204)
            await asyncio.sleep(0.02)

    def _runnable(self, job: FakeJob, trainer: str) -> bool:
        if job.status == "running":
            return job.holder == trainer or time.monotonic() > job.expires_at
        return job.status == "queued"

    def _leased(self, job: FakeJob, trainer: str) -> JsonObject:
        job.token += 1
        job.status, job.holder = "running", trainer
        job.expires_at = time.monotonic() + self.lease_seconds
        job.spec["attempt"] += 1
        names = {"training": "file-train", "validation": job.validation}
        files = {
            role: None
            if name is None
            else {
                "id": name,
                "filename": f"{role}.jsonl",
                "bytes": len(job.files[name]),
                "sha256": hashlib.sha256(job.files[name]).hexdigest(),
            }
            for role, name in names.items()
        }
        return {"job": job.spec, "files": files, "lease": self._lease(job), "checkpoint": job.checkpoint}

    def _lease(self, job: FakeJob) -> JsonObject:
        return {
            "token": job.token,
            "expires_in_seconds": self.lease_seconds,
            "heartbeat_seconds": self.heartbeat_seconds,
        }

    async def _heartbeat(self, request: web.Request) -> web.Response:
        job = self._held(request)
        job.beats.append(await request.json())
        job.expires_at = time.monotonic() + self.lease_seconds
        return web.json_response({"lease": self._lease(job), "command": job.command})

    async def _events(self, request: web.Request) -> web.Response:
        job = self._held(request)
        for event in (await request.json())["events"]:
            job.events.setdefault(event["id"], event)
        return web.Response(status=204)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        job = self._held(request)
        content = job.files.get(request.match_info["file"])
        if content is None:
            raise Refusal(404, "not_found")
        return await self._bytes(request, content)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        job = self._held(request)
        content = job.blobs.get(request.match_info["sha"])
        if content is None:
            raise Refusal(404, "not_found")
        return await self._bytes(request, content)

    async def _bytes(self, request: web.Request, content: bytes) -> web.StreamResponse:
        """Honour Range; break off in the middle as often as `cut_downloads` says."""
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        if start and start >= len(content):
            raise Refusal(416, "range_not_satisfiable")
        answer = web.StreamResponse(status=206 if start else 200)
        answer.content_length = len(content) - start
        await answer.prepare(request)
        if self.cut_downloads and request.method == "GET":
            self.cut_downloads -= 1
            await answer.write(content[start : start + (len(content) - start) // 2])
            assert request.transport is not None
            request.transport.close()
            return answer
        await answer.write(content[start:])
        return answer

    async def _put_blob(self, request: web.Request) -> web.Response:
        job, sha = self._held(request), request.match_info["sha"]
        content = await request.read()
        if self.damage_uploads:
            self.damage_uploads -= 1
            content = content[:-1]
        if hashlib.sha256(content).hexdigest() != sha:
            raise Refusal(422, "digest_mismatch")
        _members(content)
        job.blobs[sha] = content
        return web.Response(status=201)

    async def _checkpoint(self, request: web.Request) -> web.Response:
        job, asked = self._held(request), await request.json()
        if asked["blob"] not in job.blobs:
            raise Refusal(400, "invalid_value")
        if job.checkpoint is None or asked["step"] >= job.checkpoint["step"]:
            size = len(job.blobs[asked["blob"]])
            job.checkpoint = {"step": asked["step"], "sha256": asked["blob"], "bytes": size}
        return web.Response(status=204)

    async def _complete(self, request: web.Request) -> web.Response:
        asked = await request.json()
        job = self.jobs[request.match_info["job"]]
        if (
            job.completion is not None
            and job.manifest is not None
            and job.manifest["sha256"] == asked["adapter_sha256"]
        ):
            return web.json_response(job.completion)
        job = self._held(request)
        files = _members(job.blobs[asked["artifact"]])
        total = hashlib.sha256(b"tunegate-adapter\0")
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            total.update(len(files[name]).to_bytes(8, "big") + files[name])
        digest = total.hexdigest()
        if digest != asked["adapter_sha256"] or msgspec.json.decode(files["manifest.json"]) != asked["manifest"]:
            raise Refusal(400, "invalid_value")
        version = f"{job.spec['tenant']}--{job.spec['name']}@{digest[:12]}"
        self.versions[version] = files
        job.completion = {"version": version, "fine_tuned_model": version}
        job.manifest, job.status = asked["manifest"], "succeeded"
        return web.json_response(job.completion)

    async def _fail(self, request: web.Request) -> web.Response:
        job = self._held(request)
        job.error, job.status = await request.json(), "failed"
        return web.Response(status=204)

    async def _release(self, request: web.Request) -> web.Response:
        known = self.jobs.get(request.match_info["job"])
        if known is not None and known.status in ("queued", "paused") and self._token(request) == str(known.token):
            return web.Response(status=204)
        job = self._held(request)
        job.status = "paused" if job.command == "pause" else "queued"
        job.spec["attempt"] -= 1
        return web.Response(status=204)


def _members(content: bytes) -> dict[str, bytes]:
    """What a tar holds, by the page's rules."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        entries = tar.getmembers()
        if len(entries) > 64 or any(not entry.isreg() or "/" in entry.name for entry in entries):
            raise Refusal(400, "invalid_value")
        opened = {entry.name: tar.extractfile(entry) for entry in entries}
        return {name: file.read() for name, file in opened.items() if file is not None}
