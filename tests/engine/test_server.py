"""The running engine over real sockets: what is listed, what is resident, who runs, and what breaks on purpose."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.engine.conftest import ADAPTERS, Assets
from tests.support.engine import running_server, wait_until
from tests.support.processes import free_port


def load(engine: httpx2.Client, assets: Assets, *names: str) -> None:
    """Register adapters that must be accepted."""
    for name in names:
        answer = engine.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": assets.path(name)})
        assert answer.text == f"Success: LoRA adapter '{name}' added successfully."


def complete(engine: httpx2.Client, model: str = "base", **fields: Any) -> httpx2.Response:
    """One greedy completion of eight tokens, unless told otherwise."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 8, "temperature": 0, "ignore_eos": True, **fields}
    return engine.post("/v1/completions", json=body)


def text(answer: httpx2.Response) -> str:
    """The text of a completion that must have worked."""
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def inject(engine: httpx2.Client, **fields: Any) -> None:
    """Change the injected latency and faults."""
    assert engine.post("/engine/faults", json=fields).status_code == 200


def gauge(engine: httpx2.Client, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = engine.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def residency(engine: httpx2.Client) -> dict[str, Any]:
    """What is resident."""
    found: dict[str, Any] = engine.get("/engine/residency").json()
    return found


@contextmanager
def background(engine: httpx2.Client, *models: str, **fields: Any) -> Iterator[list[threading.Thread]]:
    """Completions running beside the test; all are awaited at the end."""
    threads = [threading.Thread(target=complete, args=(engine, model), kwargs=fields) for model in models]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join()


def test_listed_is_not_resident(engine: httpx2.Client, assets: Assets) -> None:
    """Six adapters are listed while three are resident; each still answers as itself, being read again."""
    load(engine, assets, *ADAPTERS)
    assert [card["id"] for card in engine.get("/v1/models").json()["data"]] == ["base", *ADAPTERS]
    assert residency(engine) == {"slots": ["a4", "a5"], "host": ["a3", "a4", "a5"], "loads": 6}
    first = [text(complete(engine, name)) for name in ("base", *ADAPTERS)]
    assert len(set(first)) == 7
    assert residency(engine)["loads"] == 12
    assert [text(complete(engine, name)) for name in ("base", *ADAPTERS)] == first


def test_unloading_frees_nothing_and_a_second_load_is_another_copy(engine: httpx2.Client, assets: Assets) -> None:
    """Unloading only forgets the name: the copy stays resident, and the name loaded again makes a second one."""
    load(engine, assets, "a0")
    assert engine.post("/v1/unload_lora_adapter", json={"lora_name": "a0"}).status_code == 200
    assert complete(engine, "a0").status_code == 404
    assert residency(engine)["host"] == ["a0"]
    load(engine, assets, "a0")
    assert residency(engine)["host"] == ["a0", "a0"]


def test_racing_loads_of_one_name_give_one_success(engine: httpx2.Client, assets: Assets) -> None:
    """Of eight clients that load one name at once, one is told yes and seven that it is there."""
    inject(engine, load_s=0.05)
    body = {"lora_name": "a0", "lora_path": assets.path("a0")}
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: engine.post("/v1/load_lora_adapter", json=body).status_code, range(8)))
    assert sorted(codes) == [200] + [400] * 7
    assert residency(engine)["loads"] == 1


def test_a_cold_load_stalls_everyone(engine: httpx2.Client, assets: Assets) -> None:
    """While an adapter is read from disk no running sequence makes a token: its stream has a gap that long."""
    inject(engine, load_s=0.6, per_token_s=0.02)
    body = {"model": "base", "prompt": "x", "max_tokens": 60, "ignore_eos": True, "stream": True}
    loader = threading.Thread(target=load, args=(engine, assets, "a0"))
    arrivals: list[float] = []
    with engine.stream("POST", "/v1/completions", json=body) as answer:
        for _ in filter(None, answer.iter_lines()):
            arrivals.append(time.monotonic())
            if len(arrivals) == 5:
                loader.start()
    loader.join()
    assert max(later - earlier for earlier, later in pairwise(arrivals)) >= 0.55


def test_a_third_adapter_waits_for_a_slot(engine: httpx2.Client, assets: Assets) -> None:
    """With two adapters running on two slots a third is deferred, counted as such, and served when one ends."""
    load(engine, assets, "a0", "a1", "a2")
    inject(engine, per_token_s=0.1)
    with background(engine, "a0", "a1", max_tokens=12):
        wait_until(lambda: gauge(engine, "vllm:num_requests_running") == 2, 5)
        with background(engine, "a2", max_tokens=1):
            wait_until(lambda: gauge(engine, "vllm:num_requests_waiting") == 1, 5)
            waiting = engine.get("/metrics").text
            assert 'vllm:num_requests_waiting_by_reason{engine="0",model_name="base",reason="deferred"} 1.0' in waiting
    assert set(residency(engine)["slots"]) == {"a2"} | ({"a0", "a1"} & set(residency(engine)["slots"]))


def test_seats_are_limited(engine: httpx2.Client) -> None:
    """More requests than seats wait, and all are answered."""
    inject(engine, per_token_s=0.1)
    with background(engine, *["base"] * 12):
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        wait_until(lambda: [gauge(engine, name) for name in names] == [8, 4], 5)
    assert gauge(engine, "vllm:generation_tokens_total") == 12 * 8


def test_streams_run_side_by_side(engine: httpx2.Client) -> None:
    """A short answer asked for during a long one comes back long before it."""
    inject(engine, per_token_s=0.03)
    with background(engine, "base", max_tokens=60) as (long,):
        text(complete(engine, max_tokens=2))
        assert long.is_alive()


def test_a_client_that_leaves_frees_its_sequence(engine: httpx2.Client) -> None:
    """Closing a stream, or a connection that waits for a whole answer, ends the work behind it."""
    inject(engine, per_token_s=0.05)
    body = {"model": "base", "prompt": "Hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with engine.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert gauge(engine, "vllm:num_requests_running") == 1
    wait_until(lambda: gauge(engine, "vllm:num_requests_running") == 0, 10)
    with pytest.raises(httpx2.TimeoutException):
        engine.post("/v1/completions", json={**body, "stream": False}, timeout=0.3)
    wait_until(lambda: gauge(engine, "vllm:num_requests_running") == 0, 10)
    aborted = 'vllm:request_success_total{engine="0",finished_reason="abort",model_name="base"} 2.0'
    assert aborted in engine.get("/metrics").text


def test_a_seed_repeats_an_answer_among_others(engine: httpx2.Client) -> None:
    """A seeded sample is the same alone and in a crowd; each of `n` answers has a draw of its own."""
    fields: dict[str, Any] = {"temperature": 1.5, "seed": 7, "max_tokens": 24, "n": 3}
    alone = [choice["text"] for choice in complete(engine, **fields).json()["choices"]]
    assert len(set(alone)) == 3
    with background(engine, *["base"] * 4, max_tokens=100):
        assert [choice["text"] for choice in complete(engine, **fields).json()["choices"]] == alone


def test_injected_errors_strike_so_often(engine: httpx2.Client) -> None:
    """The next two requests fail with the wanted status, the third works."""
    inject(engine, error_next=2, error_status=503)
    assert [complete(engine).status_code for _ in range(3)] == [503, 503, 200]


def test_an_injected_hang_ends_with_the_client(engine: httpx2.Client) -> None:
    """A hanging request never answers; others do."""
    inject(engine, hang_next=1)
    with pytest.raises(httpx2.TimeoutException):
        engine.post("/v1/completions", json={"model": "base", "prompt": "x"}, timeout=0.3)
    assert complete(engine).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_an_injected_drop_cuts_the_connection(engine: httpx2.Client, stream: bool) -> None:
    """After the wanted number of events the socket closes without the end that HTTP requires."""
    inject(engine, drop_next=1, drop_after_chunks=2)
    seen: list[str] = []
    body = {"model": "base", "prompt": "Hello", "max_tokens": 8, "stream": stream, "temperature": 0}
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        engine.stream("POST", "/v1/completions", json=body) as answer,
    ):
        seen.extend(line for line in answer.iter_lines() if line)
    assert len(seen) == (2 if stream else 0)
    wait_until(lambda: gauge(engine, "vllm:num_requests_running") == 0, 10)
    assert complete(engine).status_code == 200


def test_injected_latency_delays_one_sequence_only(engine: httpx2.Client) -> None:
    """First-token and per-token time add up for a sequence, and several wait side by side."""
    inject(engine, first_token_s=0.2, per_token_s=0.05)
    started = time.monotonic()
    with background(engine, "base", "base", "base", max_tokens=5):
        wait_until(lambda: gauge(engine, "vllm:num_requests_running") == 3, 5)
    assert time.monotonic() - started >= 0.4


def test_an_injected_load_failure_is_a_500(engine: httpx2.Client, assets: Assets) -> None:
    """The load says no and registers nothing; the next one works."""
    inject(engine, load_error_next=1)
    body = {"lora_name": "a0", "lora_path": assets.path("a0")}
    assert engine.post("/v1/load_lora_adapter", json=body).status_code == 500
    assert complete(engine, "a0").status_code == 404
    load(engine, assets, "a0")


def test_injected_ill_health_shows(engine: httpx2.Client) -> None:
    """/health turns while the engine works."""
    inject(engine, unhealthy=True)
    assert engine.get("/health").status_code == 503
    assert complete(engine).status_code == 200


@pytest.mark.parametrize(
    "fault",
    [
        {"eror_next": 1},
        {"error_next": "many"},
        {"error_next": -2},
        {"load_s": -1},
        {"error_status": 99},
        {"load_s": 1e9},
    ],
)
def test_impossible_faults_are_refused(engine: httpx2.Client, fault: dict[str, Any]) -> None:
    """A misspelt fault is not silently no fault, an impossible one is named, and neither changes anything."""
    before = engine.get("/engine/faults").json()
    answer = engine.post("/engine/faults", json={"per_token_s": 9, **fault})
    assert answer.status_code == 400
    assert next(iter(fault)) in answer.json()["error"]["message"]
    assert engine.get("/engine/faults").json() == before


@pytest.mark.parametrize(
    "field",
    [{"response_format": {"type": "json_object"}}, {"bad_words": ["x"]}, {"use_beam_search": True}],
)
def test_what_is_not_done_is_refused(engine: httpx2.Client, field: dict[str, Any]) -> None:
    """A field that would change the answer, and that the engine does not do, is named; its neutral value is not."""
    answer = complete(engine, **field)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == next(iter(field))
    neutral: dict[str, Any] = {"response_format": {"type": "text"}, "bad_words": [], "use_beam_search": False}
    assert complete(engine, **neutral).status_code == 200


def test_the_answers_of_one_request_are_bounded(engine: httpx2.Client) -> None:
    """Prompts times n beyond vLLM's bound are refused before a sequence is made."""
    answer = complete(engine, prompt=["x"] * 200, n=100, temperature=1)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"


def test_a_missing_folder_at_a_lazy_reload_kills_the_engine(assets: Assets, tmp_path: Path) -> None:
    """As in vLLM: the request gets a 500, /health a 503 if it is asked in time, and the process leaves."""
    port = free_port()
    gone = shutil.copytree(assets.path("a0"), tmp_path / "gone")
    modules = [f"gone={gone}", *(f"{name}={assets.path(name)}" for name in ("a1", "a2"))]
    command = [sys.executable, "-m", "app.engine", "--port", str(port), "--model", str(assets.base)]
    command += ["--max-cpu-loras", "2", "--lora-modules", *modules]
    with running_server(command, f"http://127.0.0.1:{port}", seconds=30) as (url, process):
        shutil.rmtree(gone)
        with httpx2.Client(base_url=url, timeout=10) as client:
            answer = complete(client, "gone")
        assert answer.status_code == 500
        assert answer.json()["error"]["message"].startswith("EngineCore encountered an issue.")
        assert process.wait(timeout=10) == 1


def test_a_half_sent_request_does_not_hold_the_engine(engine: httpx2.Client) -> None:
    """A client that announces a body and never sends it blocks nobody."""
    with socket.create_connection((engine.base_url.host, engine.base_url.port or 80)) as half:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        assert complete(engine).status_code == 200


def test_latency_and_faults_read_back(engine: httpx2.Client) -> None:
    """What was set is what is shown, and nothing else changed."""
    before = engine.get("/engine/faults").json()
    inject(engine, per_token_s=0.5, error_next=-1)
    assert engine.get("/engine/faults").json() == {**before, "per_token_s": 0.5, "error_next": -1}
    assert json.loads(complete(engine).text)["error"]["code"] == 500
