"""From an open upstream answer to the caller's reply: relayed, metered, settled before its last byte, kept if asked.

The last bytes of a stream (`[DONE]`) wait for the settlement, so a caller that sends its next request on seeing them
finds its counters right. An upstream that breaks off after the head becomes OpenAI's error event and a closed stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from app.backends.relay import Relay, error_event, read_usage, renamed
from app.errors import UpstreamFailed
from app.interfaces import Record, TokenCounter, Upstream
from app.types import Call, Reply, Target, Usage

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
DONE = b"data: [DONE]"

Keep = Callable[[bytes], Awaitable[None]]


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
            await keep(body)
        await record.settle()
        return Reply(200, [(b"content-type", JSON)], _once(body), stream=False)

    async def _stream(
        self, target: Target, upstream: Upstream, call: Call, record: Record, keep: Keep | None
    ) -> AsyncIterator[bytes]:
        relay = Relay(include_usage=call.include_usage, upstream_model=target.model, public_model=call.route)
        record.metered(target, _Streamed(relay, call, self.count_tokens))
        sent: list[bytes] = []
        last = b""
        try:
            async for block in upstream.blocks():
                record.first_byte()
                out = relay.feed(block)
                if keep is not None:
                    sent.append(out)
                if DONE in out[-32:]:
                    last = out
                    break
                if out:
                    yield out
            else:
                last = relay.finish()
        except UpstreamFailed as exc:
            record.broke(exc)
            last = error_event(exc)
        else:
            if keep is not None and DONE in last:
                await keep(b"".join(sent))
        await record.settle()
        if last:
            yield last

    def _estimate(self, call: Call, body: bytes) -> Usage:
        completion = self.count_tokens(body.decode("utf-8", "replace"))
        return Usage(call.prompt_tokens_estimate, completion, estimated=True)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
