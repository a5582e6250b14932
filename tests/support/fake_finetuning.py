"""A provider's files and fine-tuning API over real HTTP, with the failures that providers have.

State is plain and open to tests. A failure is asked for by request (`"POST /v1/fine_tuning/jobs"`): `lose_answer` does
the work and then cuts the connection, `cut` cuts it before, `fail` answers 500, `hold` never answers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from openai import AsyncOpenAI

from tests.support.provider import answer

JsonObject = dict[str, Any]


@dataclass
class FakeFineTuning:
    """An HTTP server on loopback; `async with` it."""

    files: dict[str, JsonObject] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, JsonObject] = field(default_factory=dict)
    events: dict[str, list[JsonObject]] = field(default_factory=dict)
    shutdown_dates: dict[str, str | None] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    polls_until_done: int = 2
    clients: list[AsyncOpenAI] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._faults], client_max_size=2**30)
        app.add_routes(
            [
                web.post("/v1/files", self._upload),
                web.get("/v1/files", self._list_files),
                web.post("/v1/fine_tuning/jobs", self._create),
                web.get("/v1/fine_tuning/jobs", self._list_jobs),
                web.get("/v1/fine_tuning/jobs/{id}", self._retrieve),
                web.get("/v1/fine_tuning/jobs/{id}/events", self._list_events),
                web.post("/v1/fine_tuning/jobs/{id}/cancel", self._cancel),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            await client.close()
        await self._runner.cleanup()

    def client(self) -> AsyncOpenAI:
        """The unmodified SDK, pointed here; closed with the server."""
        self.clients.append(AsyncOpenAI(api_key="sk-test", base_url=self.url, timeout=10))
        return self.clients[-1]

    def lose_answer(self, request: str, times: int = 1) -> None:
        """Do what is asked, and cut the connection instead of answering."""
        self.failures += [(request, "lose")] * times

    def cut(self, request: str, times: int = 1) -> None:
        """Cut the connection before anything is done."""
        self.failures += [(request, "cut")] * times

    def fail(self, request: str, times: int = 1) -> None:
        """Answer 500 before anything is done."""
        self.failures += [(request, "fail")] * times

    def hold(self, request: str) -> None:
        """Never answer, and do nothing."""
        self.failures.append((request, "hold"))

    @web.middleware
    async def _faults(self, request: web.Request, handler: Any) -> web.StreamResponse:
        name = f"{request.method} {request.path}"
        self.requests[name] += 1
        kind = next((kind for wanted, kind in self.failures if wanted == name), None)
        if kind is not None:
            self.failures.remove((name, kind))
        if kind == "hold":
            await asyncio.sleep(600)
        if kind == "fail":
            return web.json_response(
                {"error": {"message": "the server had an error", "type": "server_error"}}, status=500
            )
        if kind != "cut":
            answer: web.StreamResponse = await handler(request)
            if kind is None:
                return answer
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _chat(self, request: web.Request) -> web.Response:
        model = (await request.json())["model"]
        return web.json_response(answer(model, ("I am ", model)))

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        sent = form["file"]
        assert isinstance(sent, web.FileField)
        content = sent.file.read()
        made: JsonObject = {
            "id": f"file-{len(self.files) + 1}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": sent.filename,
            "purpose": form["purpose"],
            "status": "processed",
        }
        self.files[made["id"]], self.contents[made["id"]] = made, content
        return web.json_response(made)

    async def _list_files(self, request: web.Request) -> web.Response:
        return self._page(request, list(self.files.values())[::-1])

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["training_file"] not in self.files:
            error = {"message": "no such file", "type": "invalid_request_error", "param": "training_file", "code": None}
            return web.json_response({"error": error}, status=400)
        number = len(self.jobs) + 1
        job = {
            "id": f"ftjob-{number}",
            "object": "fine_tuning.job",
            "created_at": int(time.time()),
            "error": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": body["method"]["supervised"]["hyperparameters"],
            "organization_id": "org-test",
            "result_files": [],
            "status": "validating_files",
            "trained_tokens": None,
            "validation_file": None,
            "integrations": [],
            "polls": 0,
            **body,
        }
        self.jobs[job["id"]], self.events[job["id"]] = job, []
        self._tell(job["id"], "Created fine-tuning job", {})
        return web.json_response(job)

    async def _list_jobs(self, request: web.Request) -> web.Response:
        return self._page(request, list(self.jobs.values())[::-1])

    async def _retrieve(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            error = {"message": "no such job", "type": "invalid_request_error", "param": None, "code": "not_found"}
            return web.json_response({"error": error}, status=404)
        self._advance(job)
        return web.json_response(job)

    async def _list_events(self, request: web.Request) -> web.Response:
        return self._page(request, self.events[request.match_info["id"]][::-1])

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["id"]]
        if job["status"] not in {"succeeded", "failed"}:
            job["status"] = "cancelled"
        return web.json_response(job)

    async def _models(self, request: web.Request) -> web.Response:
        cards = [
            {"id": name, "object": "model", "created": 1, "owned_by": "test", "shutdown_date": ends}
            for name, ends in self.shutdown_dates.items()
        ]
        return web.json_response({"object": "list", "data": cards})

    def _advance(self, job: JsonObject) -> None:
        """Each look moves a job on: validate (a real look at the rows), run, succeed."""
        if job["status"] in {"succeeded", "failed", "cancelled", "paused"}:
            return
        job["polls"] += 1
        rows = self.contents[job["training_file"]].splitlines()
        if job["status"] == "validating_files":
            broken = [number for number, row in enumerate(rows, start=1) if not _is_chat(row)]
            if broken or len(rows) < 10:
                reason = f"line {broken[0]} is not a chat example" if broken else f"{len(rows)} examples, 10 are needed"
                job |= {
                    "status": "failed",
                    "error": {"code": "invalid_training_file", "message": reason, "param": "training_file"},
                }
                self._tell(job["id"], "The job failed due to an invalid training file", {})
            else:
                job["status"] = "running"
            return
        step = job["polls"]
        self._tell(
            job["id"], f"Step {step}: training loss={1 / step:.2f}", {"step": step, "train_loss": 1 / step}, "metrics"
        )
        if job["polls"] > self.polls_until_done:
            suffix = job.get("suffix") or ""
            job |= {
                "status": "succeeded",
                "fine_tuned_model": f"ft:{job['model']}:org-test:{suffix}:{job['id']}",
                "trained_tokens": sum(map(len, rows)) // 4,
                "finished_at": int(time.time()),
            }

    def _tell(self, job: str, message: str, data: JsonObject, kind: str = "message") -> None:
        told = self.events[job]
        event = {
            "id": f"ftevent-{job}-{len(told) + 1}",
            "object": "fine_tuning.job.event",
            "created_at": int(time.time()),
            "level": "info",
            "message": message,
            "type": kind,
            "data": data,
        }
        told.append(event)

    @staticmethod
    def _page(request: web.Request, rows: list[JsonObject]) -> web.Response:
        """Two rows a page at most, so that every reader has to page."""
        after, limit = request.query.get("after"), min(2, int(request.query.get("limit", 2)))
        start = next((at + 1 for at, row in enumerate(rows) if row["id"] == after), 0)
        page = rows[start : start + limit]
        more = start + limit < len(rows)
        return web.json_response({"object": "list", "data": page, "has_more": more})


def _is_chat(row: bytes) -> bool:
    try:
        return bool(json.loads(row)["messages"])
    except (ValueError, KeyError, TypeError):
        return False
