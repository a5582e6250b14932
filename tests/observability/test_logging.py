"""What the log promises: one line per event in one form, cheap, and nothing in it that must not be."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import structlog

from app.observability.logging import Lines, configure, masked, places

KEY = "tg-" + "a1B2" * 10
Level = Literal["debug", "info", "warning", "error"]


@dataclass
class Output:
    """What was written."""

    file: io.BytesIO

    def text(self) -> str:
        """All of it."""
        return self.file.getvalue().decode()

    def lines(self) -> list[dict[str, Any]]:
        """Each line as JSON."""
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def log_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Output]]:
    """Configure logging into memory, as in a fresh process; afterwards everything is as it was."""
    root = logging.getLogger()
    kept = (root.level, root.handlers[:])
    for name in logging.Logger.manager.loggerDict:  # libraries that other tests imported set up some of their own
        library = logging.getLogger(name)
        for field, fresh in (("handlers", []), ("propagate", True), ("disabled", False), ("level", logging.NOTSET)):
            monkeypatch.setattr(library, field, fresh)

    def start(log_format: Literal["json", "console"] = "json", level: Level = "info", **more: Any) -> Output:
        output = Output(io.BytesIO())
        configure(log_format, level, output=output.file, **more)
        return output

    yield start
    logging.captureWarnings(capture=False)
    root.setLevel(kept[0])
    root.handlers[:] = kept[1]
    structlog.reset_defaults()


def test_a_line_is_json_with_time_level_and_event_first(log_to: Callable[..., Output]) -> None:
    """Fields keep their types, and the time is UTC."""
    output = log_to()
    structlog.get_logger().info("request", status=200, route="support", cost_microusd=35, cached=None)
    (line,) = output.lines()
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    del line["timestamp"]
    assert line == {
        "level": "info",
        "event": "request",
        "status": 200,
        "route": "support",
        "cost_microusd": 35,
        "cached": None,
    }


def test_libraries_speak_in_the_same_form(log_to: Callable[..., Output]) -> None:
    """A standard-library record becomes a line with its logger's name; Python's warnings come too."""
    output = log_to()
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = output.lines()
    assert (first["event"], first["logger"], first["level"]) == (
        "Started server process [7]",
        "uvicorn.error",
        "info",
    )
    assert second["logger"] == "py.warnings"


@pytest.mark.parametrize("name", ["sqlalchemy.engine", "aiosqlite", "httpx2", "openai._base_client", "uvicorn.access"])
def test_libraries_that_log_what_they_carry_are_quiet_even_in_debug(log_to: Callable[..., Output], name: str) -> None:
    """SQL with its parameters, URLs and bodies are not written at the most talkative level either."""
    output = log_to(level="debug")
    logging.getLogger(name).debug("SELECT %s", "prompt")
    logging.getLogger(name).info("POST body %s", "prompt")
    logging.getLogger(name).warning("slow")
    assert [line["event"] for line in output.lines()] == ["slow"]


def test_the_level_is_the_least_that_is_written(log_to: Callable[..., Output]) -> None:
    """Ours and the libraries' lines below the level are dropped."""
    output = log_to(level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("alembic").info("quiet")
    structlog.get_logger().warning("loud")
    logging.getLogger("alembic").error("loud too")
    assert [line["event"] for line in output.lines()] == ["loud", "loud too"]


@pytest.mark.parametrize("name", ["api_key", "authorization", "prompt", "messages", "secret", "database_url"])
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_telling_field_is_blanked(log_to: Callable[..., Output], log_format: str, name: str) -> None:
    """A field with such a name is written without its value, in both forms."""
    output = log_to(log_format)
    structlog.get_logger().warning("event", **{name: "do-not-show", "route": "support"})
    assert "do-not-show" not in output.text()
    assert "[redacted]" in output.text()
    assert "support" in output.text()


@pytest.mark.parametrize(
    "text",
    [
        f"refused {KEY}",
        f"sent Authorization: Bearer {KEY}",
        "sent authorization: bearer eyJhbGciOi.J9.sig",
        "openai sk-proj-abcdefghijklmnopqrstuvwxyz0123456789",
        "cannot reach postgresql+asyncpg://gateway:hunter2@db:5432/tunegate",
        "redis://:hunter2@redis:6379/0",
    ],
)
def test_what_looks_like_a_credential_is_masked(log_to: Callable[..., Output], text: str) -> None:
    """Keys, bearer tokens and passwords in addresses are masked in our lines and in the libraries'."""
    output = log_to()
    structlog.get_logger().warning("event", reason=text)
    logging.getLogger("uvicorn.error").error(text)
    for secret in (KEY, "hunter2", "eyJhbGciOi", "sk-proj"):
        assert secret not in output.text()
    assert len(output.lines()) == 2


def test_ordinary_names_are_not_masked() -> None:
    """Adapter versions, short ids and addresses without a password stay readable."""
    line = b'{"model":"acme--support@0123456789ab","url":"http://vllm-0.vllm:8000","id":"tg-short"}'
    assert masked(line) == line


def test_an_exception_tells_places_not_messages(log_to: Callable[..., Output]) -> None:
    """Classes, causes and lines of code are written; what the exceptions say is not."""
    output = log_to()
    log = structlog.get_logger()
    try:
        try:
            _ = dict[str, str]()["the caller's prompt"]
        except KeyError as exc:
            raise ValueError("another prompt") from exc
    except ValueError:
        log.exception("request_failed", request_id="req_1")
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    ours, theirs = output.lines()
    for line in (ours, theirs):
        assert "builtins.KeyError\n->\n" in line["exception"]
        assert line["exception"].endswith("builtins.ValueError")
        assert "test_logging.py" in line["exception"]
    assert ours["level"] == "error"
    assert "prompt" not in output.text()


@pytest.mark.parametrize("give", ["instance", "triple", "true"])
def test_an_exception_may_be_given_in_every_usual_way(log_to: Callable[..., Output], give: str) -> None:
    """The exception itself, the triple, and True all name the class."""
    output = log_to()
    try:
        _ = list[int]()[0]
    except IndexError as exc:
        given = {"instance": exc, "triple": sys.exc_info(), "true": True}[give]
        structlog.get_logger().warning("event", exc_info=given)
    assert output.lines()[0]["exception"].endswith("builtins.IndexError")


def test_groups_and_cycles_of_exceptions_end() -> None:
    """A group names its members, and a chain that bites its tail is cut."""
    one, two = ValueError("a"), KeyError("b")
    one.__cause__, two.__cause__ = two, one
    assert places(one).count("->") == 7
    assert places(ExceptionGroup("g", [ValueError("a"), OSError("b")])).splitlines() == [
        "builtins.ExceptionGroup",
        "| builtins.ValueError",
        "| builtins.OSError",
    ]
    assert places(None) == ""


def test_asyncio_does_not_repeat_what_failed(log_to: Callable[..., Output]) -> None:
    """The repr of a future, with its exception's message, is left out of asyncio's own records."""
    output = log_to()
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: <Task exception=ValueError('prompt')>"
    )
    assert [line["event"] for line in output.lines()] == ["Task exception was never retrieved"]


def test_a_line_names_the_sampled_trace(log_to: Callable[..., Output]) -> None:
    """Lines of a traced request can be found from the trace; others have no such field."""
    output = log_to(trace_id=iter(["abc", None]).__next__)
    structlog.get_logger().info("one")
    structlog.get_logger().info("two")
    one, two = output.lines()
    assert one["trace_id"] == "abc"
    assert "trace_id" not in two


def test_values_without_a_json_form_are_written_as_text(log_to: Callable[..., Output]) -> None:
    """A path or an exception as a field costs no line."""
    output = log_to()
    structlog.get_logger().info("event", error=OSError("x"), where={"a": (1, 2)})
    assert output.lines()[0]["where"] == {"a": [1, 2]}


def test_a_reader_that_has_gone_costs_no_request() -> None:
    """Writing to a closed file or a broken pipe drops the line and raises nothing."""
    closed = io.BytesIO()
    closed.close()
    Lines(closed).info(b"x\n")

    class Broken(io.BytesIO):
        def write(self, _: object) -> int:
            raise BrokenPipeError

    Lines(Broken()).info(b"x\n")


def test_colour_is_for_terminals_only(log_to: Callable[..., Output]) -> None:
    """The console form in a file has no escape sequences."""
    output = log_to("console")
    structlog.get_logger().info("request", route="support")
    assert "\x1b[" not in output.text()
    assert "route=support" in output.text()


def test_a_process_writes_to_its_standard_output() -> None:
    """Configured without an output, a fresh process logs JSON lines to stdout and nothing to stderr."""
    program = (
        "import structlog, logging\n"
        "log = structlog.get_logger()\n"
        "from app.observability.logging import configure\n"
        "configure('json', 'info')\n"
        "log.info('hello', n=1)\n"
        "logging.getLogger('alembic').info('hi')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["hello", "hi"]
    assert done.stderr == b""
