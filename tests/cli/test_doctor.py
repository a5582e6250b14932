"""`tunegate doctor`: what is there is found, what is not is said with what to do, and no secret with it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from app.cli.doctor import Finding, examine
from app.cli.main import app
from tests.support.engine import engine_server
from tests.support.gateway import Gateway
from tests.support.postgres import new_database
from tests.support.processes import free_port
from tests.support.s3_server import Bucket

SECRET = "hunter2-hunter2"
NOWHERE = "http://127.0.0.1:1"
ISSUER = {"issuer": "https://a", "audience": "b"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("TUNEGATE_", "OPENAI_", "REDIS_URL", "DATABASE_URL", "VLLM_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def found(**settings: Any) -> dict[str, Finding]:
    """What is said of each part under these settings; the last of equal names."""
    server = {"port": free_port(), "metrics_port": 0}
    Path("tunegate.yaml").write_text(
        yaml.safe_dump({"server": server, "cache": {"semantic": False}, **settings}), encoding="utf-8"
    )
    findings = examine(None)
    assert SECRET not in str(findings)
    return {finding.part: finding for finding in findings}


def lacking(part: str, **settings: Any) -> str:
    """What is said of the one part that is lacking."""
    bad = {name: finding.says for name, finding in found(**settings).items() if not finding.ok}
    assert list(bad) == [part], bad
    return bad[part]


@contextmanager
def service(*, key: str | None = None, status: int = 200, body: object = None) -> Iterator[str]:
    """An HTTP service that answers every request so, and 401 without its key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refused = key is not None and self.headers.get("authorization") != f"Bearer {key}"
            content = json.dumps(body if body is not None else {"object": "list", "data": []}).encode()
            self.send_response(401 if refused else status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", "0")))
            self.do_GET()

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_nothing_is_lacking_on_embedded_stores() -> None:
    """Without semantic cache no weights are asked for; the data folder is left as it was found."""
    parts = found()
    assert all(finding.ok for finding in parts.values()), parts
    assert parts["embedding weights"].says == "not needed: cache.semantic is false"
    assert list(Path(".tunegate").iterdir()) == []


def test_stores_are_asked(redis_url: str, postgres_server: str, s3_bucket: Bucket) -> None:
    """A real Redis, PostgreSQL and bucket are well; nothing is left in the bucket."""
    s3 = s3_bucket.s3
    store = {"endpoint": s3.endpoint, "access_key": s3.access_key, "signing_key": s3.secret_key}
    parts = found(
        redis_url=redis_url,
        database_url=new_database(postgres_server),
        redis_timeout_ms=10_000,
        training={"store_url": f"s3://{s3_bucket.name}/doctor", "s3": store},
        adapters={"s3": store},
    )
    assert all(finding.ok for finding in parts.values()), parts
    assert parts["redis"].says.startswith("server ")
    assert parts["sql"].says.startswith("PostgreSQL ")
    assert {"training bucket", "adapters' bucket"} <= set(parts)


def test_redis_that_is_away_or_refuses(redis_url: str) -> None:
    """Nobody there, and a password that the server does not know."""
    assert lacking("redis", redis_url="redis://127.0.0.1:1") == (
        "nothing listens there; check REDIS_URL and that the server runs"
    )
    said = lacking("redis", redis_url=redis_url.replace("redis://", f"redis://who:{SECRET}@"))
    assert said.startswith("the server refuses: WRONGPASS; check REDIS_URL")


def test_sql_that_is_away_or_absent(postgres_server: str) -> None:
    """Nobody there, no such database, no folder for SQLite's file."""
    assert "nothing listens there; check DATABASE_URL" in lacking(
        "sql", database_url=f"postgresql://u:{SECRET}@127.0.0.1:1/name"
    )
    assert "no database of that name" in lacking("sql", database_url=f"{postgres_server}/absent")
    assert "cannot be made" in lacking("sql", database_url="sqlite:////absent/x.sqlite3")


def test_buckets_that_are_away_or_refuse(s3_bucket: Bucket) -> None:
    """Nobody there, a key that is none, a bucket that is none, a key that was forgotten."""
    s3 = s3_bucket.s3
    store = {"endpoint": s3.endpoint, "access_key": s3.access_key, "signing_key": s3.secret_key}
    away = {**store, "endpoint": NOWHERE}
    url = f"s3://{s3_bucket.name}/doctor"
    assert "nothing listens there" in lacking("training bucket", training={"store_url": url, "s3": away})
    wrong = {**store, "signing_key": SECRET}
    assert "403" in lacking("training bucket", training={"store_url": url, "s3": wrong})
    assert "404" in lacking("training bucket", training={"store_url": "s3://no-such-bucket", "s3": store})
    assert "set training.s3.access_key" in lacking("training bucket", training={"store_url": url})
    assert "nothing listens there" in lacking("adapters' bucket", adapters={"s3": away})
    assert "answered 403; check adapters.s3" in lacking("adapters' bucket", adapters={"s3": wrong})


def test_providers_are_asked_with_their_key() -> None:
    """Well with the right key; refused with a wrong one; without one callers must bring theirs; away; failing."""

    def provider(url: str, key: str | None = None) -> list[dict[str, Any]]:
        return [{"name": "main", "base_url": url, "api_key": key}]

    with service(key=SECRET) as url:
        assert found(providers=provider(url, SECRET))["provider main"].ok
        assert "refuses the key with 401" in lacking("provider main", providers=provider(url, "wrong"))
        own = found(providers=provider(url))["provider main"]
        assert (own.ok, "must bring theirs" in own.says) == (True, True)
        closed = {"own_provider_keys": False}
        assert "refuses the key" in lacking("provider main", providers=provider(url), identity=closed)
    with service(status=503) as url:
        assert "answers 503" in lacking("provider main", providers=provider(url))
    hidden = provider(f"http://user:{SECRET}@127.0.0.1:1")
    assert lacking("provider main", providers=hidden) == (
        "http://127.0.0.1:1: nothing listens there; start it or fix its base_url"
    )


def test_pools_are_found_and_asked() -> None:
    """A server by its address and by its name; one that serves another model, that is away, that no name leads to."""

    def pool(source: str, **more: str) -> list[dict[str, Any]]:
        return [{"name": "main", "replicas": [source], **more}]

    with engine_server() as url:
        port = url.rpartition(":")[2]
        assert found(pools=pool(url))["pool main"] == Finding("pool main", True, url)
        by_name = found(pools=pool(f"dns://127.0.0.1:{port}"))["pool main"]
        assert by_name == Finding("pool main", True, f"http://127.0.0.1:{port}")
        assert "serves base, not base_model 'other'" in lacking("pool main", pools=pool(url, base_model="other"))
    assert "nothing listens there" in lacking("pool main", pools=pool(NOWHERE))
    assert "cannot be looked up" in lacking("pool main", pools=pool("dns://absent.invalid:8000"))
    assert "cannot be looked up" in lacking("pool main", pools=pool("k8s://models/vllm:8000"))


def test_what_else_the_settings_name() -> None:
    """Key sets, the collector, the embedding service, base models and price files are tried too."""
    with service(body={"keys": [{}]}) as url:
        jwks = {"issuers": [{**ISSUER, "jwks_url": url}]}
        parts = found(identity=jwks, telemetry={"otlp_endpoint": url})
        assert (parts["issuer"].ok, parts["traces"].ok) == (True, True)
        embedder = {"upstream": "main", "model": "m", "dimensions": 3}
        providers = [{"name": "main", "base_url": url}]
        said = lacking("embedder", providers=providers, cache={"embedder": embedder})
        assert "cannot be read" in said
        assert "check cache.embedder" in said
    with service() as url:
        assert "has no keys" in lacking("issuer", identity={"issuers": [{**ISSUER, "jwks_url": url}]})
    assert "nothing listens there" in lacking("issuer", identity={"issuers": [{**ISSUER, "jwks_url": NOWHERE}]})
    assert "nothing listens there" in lacking("traces", telemetry={"otlp_endpoint": NOWHERE})
    absent = {"upstream": "absent", "model": "m", "dimensions": 3}
    assert "cache.embedder.upstream" in lacking("embedder", cache={"embedder": absent})
    assert "adapters.bases: /absent" in lacking("settings", adapters={"bases": {"x": {"config_file": "/absent"}}})
    assert "/absent: cannot be read" in lacking("settings", prices={"file": "/absent"})


def test_ports_that_are_taken(live: Gateway) -> None:
    """By a gateway that runs is well; by another program, and an address of another machine, are not."""
    port = int(live.url.rpartition(":")[2])
    taken = found(server={"port": port, "metrics_port": int(live.metrics_url.rpartition(":")[2])})
    assert taken["api port"].says.endswith("a gateway runs there already")
    assert taken["metrics port"].says.endswith("a gateway runs there already")
    with service() as url:
        other = {"port": int(url.rpartition(":")[2]), "metrics_port": 0}
        assert "cannot be opened: the address is in use" in lacking("api port", server=other)
    elsewhere = {"host": "203.0.113.5", "metrics_port": 0}
    assert "this machine has no such address" in lacking("api port", server=elsewhere)


def test_the_command_says_it_and_leaves_with_1() -> None:
    """Settings that cannot be used are a finding; JSON has the same as the table, brackets and all."""
    Path("file").write_text("", encoding="utf-8")
    environment = {"TUNEGATE_DATA": "file/data", "VLLM_URLS": "http://[::1]:1", "COLUMNS": "300"}
    done = CliRunner().invoke(app, ["doctor", "--json"], env=environment)
    assert done.exit_code == 1
    table = CliRunner().invoke(app, ["doctor"], env=environment).output
    for finding in json.loads(done.output):
        assert finding["says"] in table
    bad = {finding["part"]: finding["says"] for finding in json.loads(done.output) if not finding["ok"]}
    assert "set TUNEGATE_DATA" in bad["data folder"]
    assert bad["pool vllm"].startswith("http://[::1]:1: ")
    done = CliRunner().invoke(app, ["doctor"], env={"REDIS_URL": "foo", "COLUMNS": "300"})
    assert (done.exit_code, "REDIS_URL: expected redis://" in done.output) == (1, True)
