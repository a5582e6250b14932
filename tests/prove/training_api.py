"""The proof of the fine-tuning API: an app written for OpenAI's gets an adapter on our servers, and uses it at once.

`python -m tests.prove.training_api` runs it with the real trainer, killed with -9 in the middle and started again, and
prints what it took: once on the reference engine, once on a real vLLM. The same steps in short, with a trainer that
hands in a shipped adapter, are in `tests/training_api/test_end_to_end.py`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import openai
import yaml
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.support.engine import engine_server, wait_until
from tests.support.gateway import PRICE, Gateway, gateway
from tests.support.processes import stop
from tests.support.training_data import BASE, chat_file
from tests.support.vllm import vllm_server

BASE_NAME = "tunegate-tiny"
SECRET = "the-trainer-secret-of-the-proof"
QUESTION = "How do I reset my password?"
ENDED = {"succeeded", "failed", "cancelled"}
TRAIN_SECONDS = 280

Engine = Callable[[], AbstractContextManager[str]]


@dataclass
class Mailbox:
    """A tenant's webhook receiver: what came, as it came."""

    url: str = ""
    got: list[tuple[dict[str, str], str]] = field(default_factory=list)


@dataclass(frozen=True)
class World:
    """A gateway in front of an engine, and a tenant's mailbox."""

    gateway: Gateway
    mailbox: Mailbox
    folder: Path

    def tenant(self, name: str) -> OpenAI:
        """A new tenant's SDK, unmodified."""
        self.gateway.call("POST", "/tenants", {"id": name})
        return self.gateway.openai(self.gateway.key(name))


@contextmanager
def reference_engine() -> Iterator[str]:
    """The engine that the gateway's own tests run on."""
    with engine_server(served_model_name=BASE_NAME, max_loras=2, max_cpu_loras=8) as url:
        yield url


@contextmanager
def real_vllm() -> Iterator[str]:
    """A real vLLM with the same base."""
    with vllm_server(BASE, served_model_name=BASE_NAME, max_loras=2, max_cpu_loras=8) as (url, _):
        yield url


ENGINES: dict[str, Engine] = {"engine": reference_engine, "vllm": real_vllm}


@contextmanager
def world(folder: Path, engine_of: Engine = reference_engine, **more: Any) -> Iterator[World]:
    """Engine, gateway and mailbox."""
    folder.mkdir(parents=True, exist_ok=True)
    with mailbox() as box, engine_of() as engine:
        settings = {
            "pools": [{"name": "main", "replicas": [engine], "base_model": BASE_NAME, "max_lora_rank": 16}],
            "prices": {"models": {"main/*": PRICE}},
            "cache": {"semantic": False},
            "trainer_secret": SECRET,
            "webhooks": {"allow_private_networks": True},
            **more,
        }
        with gateway(folder, settings) as running:
            yield World(running, box, folder)


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    """A real HTTP server on loopback."""
    box = Mailbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            box.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    box.url = f"http://127.0.0.1:{server.server_port}/hooks"
    try:
        yield box
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def trainer(world: World, name: str = "one") -> Iterator[subprocess.Popen[bytes]]:
    """A real trainer process, as `adapters trainer` starts it."""
    settings = {
        "gateway": world.gateway.url,
        "name": name,
        "work": str(world.folder / f"trainer-{name}"),
        "bases": {BASE_NAME: {"path": str(BASE), "recipe": "tiny-cpu"}},
        "poll_seconds": 1,
        "progress_seconds": 0.2,
    }
    path = world.folder / f"trainer-{name}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    environment = {**os.environ, "TUNEGATE_TRAINER_SECRET": SECRET, "OMP_NUM_THREADS": "1"}
    with (world.folder / f"trainer-{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "adapters.cli", "trainer", str(path)],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
        )
        try:
            yield process
        finally:
            stop(process, group=True)


def start(client: OpenAI, rows: Path, suffix: str, **fields: Any) -> FineTuningJob:
    """Upload and create, as OpenAI's guide does."""
    with rows.open("rb") as opened:
        file = client.files.create(file=opened, purpose="fine-tune")
    assert client.files.content(file.id).read() == rows.read_bytes()
    return client.fine_tuning.jobs.create(model=BASE_NAME, training_file=file.id, suffix=suffix, **fields)


def follow(client: OpenAI, job: str, seconds: float = TRAIN_SECONDS) -> tuple[FineTuningJob, list[str]]:
    """Poll to the end; the job and its whole log, oldest first."""
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job).status in ENDED, seconds, lambda: str(log_of(client, job)))
    return client.fine_tuning.jobs.retrieve(job), log_of(client, job)


def log_of(client: OpenAI, job: str) -> list[str]:
    """Every message of a job's log, read page by page by the SDK."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job, limit=10)][::-1]


def say(client: OpenAI, model: str) -> str:
    """A model's greedy answer."""
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], max_tokens=24, temperature=0
    )
    return answer.choices[0].message.content or ""


def told(world: World, secret: str, kinds: Sequence[str]) -> None:
    """Exactly these events came, and the SDK believes each with the endpoint's secret."""
    wait_until(lambda: len(world.mailbox.got) >= len(kinds), 20)
    with OpenAI(api_key="none", webhook_secret=secret) as client:
        got = [client.webhooks.unwrap(body, headers).type for headers, body in world.mailbox.got]
    assert sorted(got) == sorted(f"fine_tuning.job.{kind}" for kind in kinds), got


def prove(folder: Path, engine_of: Engine) -> dict[str, Any]:
    """The whole way with the real trainer, which is killed with -9 once it has committed a checkpoint."""
    began = time.monotonic()
    with world(folder, engine_of, training={"lease_seconds": 10}) as made, made.tenant("acme") as client:
        made.gateway.call("PUT", "/routes/base", {"variants": [{"name": "b", "weight": 1, "target": {"pool": "main"}}]})
        endpoint = made.gateway.call("POST", "/tenants/acme/webhooks", {"url": made.mailbox.url})
        rows = chat_file(folder / "train.jsonl", "bloom", count=60)
        with trainer(made, "killed") as process:
            job = start(client, rows, "bloom-voice", seed=7)
            wait_until(lambda: _checkpoints(client, job.id) > 0, TRAIN_SECONDS, lambda: str(log_of(client, job.id)))
            os.killpg(process.pid, signal.SIGKILL)
        killed_at = _checkpoints(client, job.id)
        with trainer(made, "second"):
            ended, log = follow(client, job.id)
            assert ended.status == "succeeded", (ended, log)
            assert ended.fine_tuned_model is not None
            resumed = [line for line in log if line.startswith("Resuming from step")]
            assert resumed, log
            bad = folder / "bad.jsonl"
            bad.write_text('{"messages": [{"role": "user", "content": "no answer"}]}\n' * 12, encoding="utf-8")
            failed, _ = follow(client, start(client, bad, "bad").id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.code == "invalid_training_file"
        told(made, str(endpoint["secret"]), ["succeeded", "failed"])
        before, after = say(client, "base"), say(client, ended.fine_tuned_model)
        assert "Bloom" in after or "bloom" in after, after
        assert before != after
        with made.tenant("bloom") as stranger:
            refused = _status(stranger, ended.fine_tuned_model)
            assert refused == 404, refused
    return {
        "seconds": round(time.monotonic() - began),
        "model": ended.fine_tuned_model,
        "trained_tokens": ended.trained_tokens,
        "checkpoints_before_kill": killed_at,
        "resumed": resumed[0],
        "base_says": before,
        "tuned_says": after,
        "another_tenant_gets": refused,
        "bad_file": failed.error.message[:200],
    }


def _checkpoints(client: OpenAI, job: str) -> int:
    return len(list(client.fine_tuning.jobs.checkpoints.list(job)))


def _status(client: OpenAI, model: str) -> int:
    try:
        say(client, model)
    except openai.APIStatusError as exc:
        return exc.status_code
    return 200


def main() -> int:
    """Prove it on each engine that was asked for."""
    parser = argparse.ArgumentParser(prog="training_api")
    parser.add_argument("--only", choices=sorted(ENGINES), help="one engine; default: both")
    only = parser.parse_args().only
    figures = []
    for name, engine_of in ENGINES.items():
        if only in (None, name):
            with tempfile.TemporaryDirectory() as scratch:
                found = prove(Path(scratch), engine_of)
            for key, value in found.items():
                print(f"{name}: {key:24} {value}", flush=True)
            figures.append(f"{name} in {found['seconds']} s, {found['resumed']}, tuned says {found['tuned_says']!r}")
    print("figure: " + "; ".join(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
