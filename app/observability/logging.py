"""One line for each thing that happens, as JSON or for people; ours and the libraries' in the same form.

One request writes one line, so a line must be cheap: one processor, one encoder, one write. What must not be written
is kept out in three ways: fields with a telling name are blanked, text that looks like a credential is masked, and an
exception gives its classes and places, never its message (libraries put the value they choked on into theirs).
Libraries that log what they carry (SQL, URLs, bodies) are heard from WARNING on, also under `log_level: debug`.

Fail mode: a line that cannot be written (the reader of our output has gone) is dropped; no request fails for it.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal

import msgspec
import structlog

from app.observability.correlation import current_trace_id

Event = MutableMapping[str, Any]
Render = Callable[[Event], bytes]

BLANK = "[redacted]"
MAX_CAUSES = 8
TELLING = frozenset({
    "admin_key", "api_key", "authorization", "body", "content", "cookie", "database_url", "input", "key", "messages",
    "password", "payload", "prompt", "redis_url", "secret", "text", "token",
})  # fmt: skip
CHATTY = ("aiosqlite", "asyncio", "httpcore2", "httpx2", "openai", "sqlalchemy", "uvicorn.access")
_MARKS = (b"tg-", b"sk-", b"earer ", b"://")  # a line without these needs no closer look
_CREDENTIAL = re.compile(
    rb"\b(?:tg|sk)-[A-Za-z0-9_-]{16,}"  # our keys, and those of most providers
    rb"|(?<=[Bb]earer )[^\s\"\\]+"
    rb"|(?<=://)[^\s/@\"\\]+(?=@)"  # user:password of an address
)


def configure(
    log_format: Literal["json", "console"],
    log_level: Literal["debug", "info", "warning", "error"],
    *,
    output: BinaryIO | None = None,
    trace_id: Callable[[], str | None] = current_trace_id,
) -> None:
    """Send every line of this process to `output` (default: standard output) in this form, from this level on.

    `trace_id` names the sampled trace that a line belongs to. May be called again; loggers made before keep their way.
    """
    lines = Lines(output or sys.stdout.buffer)
    render = _json() if log_format == "json" else _console(colours=(output or sys.stdout).isatty())
    level = logging.getLevelNamesMapping()[log_level.upper()]
    structlog.configure(
        processors=[_ours(render, trace_id)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(level, logging.INFO), handlers=[Foreign(render, lines)], force=True)
    logging.captureWarnings(capture=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class Lines:
    """Writes whole lines; has the methods of a logger, which all do the same."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output

    def write(self, line: bytes) -> None:
        """Write and flush; what cannot be written is dropped."""
        with suppress(OSError, ValueError):  # ValueError: the file is closed
            self._output.write(line)
            self._output.flush()

    debug = info = warning = error = critical = exception = fatal = msg = write


class Foreign(logging.Handler):
    """Brings the records of libraries into our form."""

    def __init__(self, render: Render, lines: Lines) -> None:
        super().__init__()
        self._render = render
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; asyncio appends the repr of what failed to its message, which is left out."""
        message = record.getMessage()
        event: Event = {
            "timestamp": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "event": message.partition("\n")[0] if record.name == "asyncio" else message,
            "logger": record.name,
        }
        if record.exc_info:
            event["exception"] = places(record.exc_info[1])
        self._lines.write(masked(self._render(event)))


def masked(line: bytes) -> bytes:
    """The line with everything that looks like a credential blanked."""
    for mark in _MARKS:
        if mark in line:
            return _CREDENTIAL.sub(BLANK.encode(), line)
    return line


def places(error: BaseException | None) -> str:
    """Classes and places of an exception and of what led to it, the newest last, without any message."""
    parts: list[str] = []
    while error is not None and len(parts) < MAX_CAUSES:
        stack = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
        frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in stack]
        inside = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        parts.append("\n".join([*frames, _class(error), *(f"| {_class(one)}" for one in inside)]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n->\n".join(reversed(parts))


def _class(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _ours(render: Render, trace_id: Callable[[], str | None]) -> structlog.typing.Processor:
    def process(_logger: Any, method: str, event: Event) -> bytes:
        line: Event = {"timestamp": datetime.now(UTC), "level": method, "event": event.pop("event")}
        if not TELLING.isdisjoint(event):
            event = {name: BLANK if name in TELLING else value for name, value in event.items()}
        line.update(event)
        exc_info = line.pop("exc_info", None)
        if exc_info:
            line["exception"] = places(_error(exc_info))
        trace = trace_id()
        if trace is not None:
            line["trace_id"] = trace
        return masked(render(line))

    return process


def _error(exc_info: Any) -> BaseException | None:
    """What `exc_info=` stands for: an exception, the triple of `sys.exc_info()`, or True for the current one."""
    if isinstance(exc_info, BaseException):
        return exc_info
    found: BaseException | None = (exc_info if isinstance(exc_info, tuple) else sys.exc_info())[1]
    return found


def _json() -> Render:
    encoder = msgspec.json.Encoder(enc_hook=str)

    def render(event: Event) -> bytes:
        return encoder.encode(event) + b"\n"

    return render


def _console(*, colours: bool) -> Render:
    renderer = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)

    def render(event: Event) -> bytes:
        shown: Mapping[str, Any] = {**event, "timestamp": event["timestamp"].strftime("%H:%M:%S.%f")[:-3]}
        return f"{renderer(None, '', dict(shown))}\n".encode(errors="replace")

    return render
