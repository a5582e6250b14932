"""From an open upstream answer to the caller's reply: relayed, metered, settled before its last byte, kept if asked.

The settlement is on its way to Redis before the last bytes (of a stream: `[DONE]`) are on theirs, so a caller that
sends its next request on seeing them finds its counters right; only the account waits until it was heard. An upstream
that breaks off after the head becomes OpenAI's error event and a closed stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from app.backends.metering import emitted_text
from app.backends.relay import Relay, error_event, read_usage, renamed
from app.backends.stop import stopped
from app.errors import UpstreamFailed
from app.interfaces import Record, TokenCounter, Upstream
from app.types import Call, Reply, Target, Usage

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
CHECK_BYTES = 4096  # some twenty tokens: so often a stream is asked whether its account can pay for more
MAX_KEPT_BYTES = 1024 * 1024  # no cache keeps a longer stream, so its events are let go of

Keep = Callable[[bytes, Usage | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Whole:
    used: Usage

    def usage(self) -> Usage:
        return self.used


@dataclass(frozen=True, slots=True)
class _Streamed:
    relay: Relay
    call: Call
    count_tokens: TokenCounter

    def usage(self) -> Usage:
        return self.relay.usage_or_estimate(self.call.prompt_tokens_estimate, self.count_tokens)


@dataclass(slots=True)
class _Sent:
    """The events that the caller has got, while they are few enough to be kept."""

    events: list[bytes] = field(default_factory=list)
    size: int = 0

    @property
    def all(self) -> bool:
        return self.size <= MAX_KEPT_BYTES

    def add(self, events: bytes, wanted: bool) -> bytes:
        if wanted and self.all:
            self.size += len(events)
            self.events.append(events)
        elif self.events:
            self.events.clear()
        return events


@dataclass(frozen=True, slots=True)
class Replier:
    """Turns upstream answers into replies."""

    count_tokens: TokenCounter

    async def reply(self, target: Target, upstream: Upstream, call: Call, record: Record, keep: Keep | None) -> Reply:
        """The caller's reply; for a non-streaming call the answer is complete and settled when this returns."""
        if call.stream:
            return Reply(
                200, [(b"content-type", EVENTS)], self._stream(target, upstream, call, record, keep), stream=True
            )
        body = b"".join([block async for block in upstream.blocks()])
        record.first_byte()
        used = read_usage(body) or self._estimate(call, body)
        record.metered(target, _Whole(used))
        body = renamed(body, target.model, call.route)
        if keep is not None:
            await keep(body, used)
        record.settle()
        return Reply(200, [(b"content-type", JSON)], _once(body), stream=False)

    async def _stream(
        self, target: Target, upstream: Upstream, call: Call, record: Record, keep: Keep | None
    ) -> AsyncIterator[bytes]:
        relay = Relay(include_usage=call.include_usage, upstream_model=target.model, public_model=call.route)
        meter = _Streamed(relay, call, self.count_tokens)
        record.metered(target, meter)
        sent, checked, stop = _Sent(), 0, b""
        try:
            async for block in upstream.blocks():
                record.first_byte()
                last = sent.add(relay.feed(block), keep is not None)
                if relay.done:
                    break
                checked += len(block)
                if checked >= CHECK_BYTES:
                    checked = 0
                    if not await record.affords():
                        stop = stopped(last, call, meter.usage())
                        break
                if last:
                    yield last
            else:
                last = sent.add(relay.finish(), keep is not None)
            last += stop or _early_end(relay, record)
        except UpstreamFailed as exc:
            record.broke(exc)
            last = error_event(exc)
        if keep is not None and relay.done and relay.complete and sent.all:
            await keep(b"".join(sent.events), relay.usage)
        record.settle()
        if last:
            yield last

    def _estimate(self, call: Call, body: bytes) -> Usage:
        completion = self.count_tokens(emitted_text(body))
        if call.max_tokens is not None:
            completion = min(completion, call.max_tokens * call.choices)
        return Usage(call.prompt_tokens_estimate, completion, estimated=True)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _early_end(relay: Relay, record: Record) -> bytes:
    """What is left to tell at the body's end: nothing, unless the answer said neither why it finished nor [DONE]."""
    if relay.complete:
        return b""
    error = UpstreamFailed("The upstream ended its answer early.")
    record.broke(error)
    return b"" if relay.failed else error_event(error)
