"""The first part of an answer decides whether another target may still be tried."""

from __future__ import annotations

import pytest

from app.backends.begun import MAX_PREFIX_BYTES, begin
from app.errors import UpstreamFailed, UpstreamRefused
from tests.backends.calls import Canned
from tests.support.provider import events

EVENTS = events("gpt", include_usage=False)


async def _begun(blocks: list[bytes], *, stream: bool, error: UpstreamFailed | None = None) -> bytes:
    begun = await begin(Canned(blocks, error), stream=stream, broke=lambda: None)
    return b"".join([block async for block in begun.blocks()])


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
async def test_nothing_of_a_stream_is_lost(size: int) -> None:
    """What was read to see the first event is passed on with the rest, however it was cut."""
    data = b": note\n\n" + b"".join(EVENTS)
    assert await _begun([data[i : i + size] for i in range(0, len(data), size)], stream=True) == data


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [b": note\n\n"],
        [b": note\n\n", b'data: {"cho'],
        [b"data: hello\n\n"],
        [b'data: {"error":{"message":"dead","code":500}}\n\n'],
        [b'data: {"error":{"message":"dead"}}'],
        [b": x\n\n", b'data: {"error":"dead"}\n\n', *EVENTS],
    ],
)
async def test_a_stream_that_says_nothing_or_an_error_first_has_not_begun(blocks: list[bytes]) -> None:
    """A 200 alone is no answer: another target may be tried."""
    with pytest.raises(UpstreamFailed):
        await _begun(blocks, stream=True)


async def test_a_last_event_without_its_blank_line_counts() -> None:
    """An upstream that forgets the last newline has still answered."""
    assert await _begun([EVENTS[0].rstrip()], stream=True) == EVENTS[0].rstrip()


async def test_a_first_event_without_end_is_passed_on_at_its_bound() -> None:
    """Looking for the first event holds a bounded prefix only."""
    blocks = [b"x" * 1024] * 100
    begun = await begin(Canned(blocks), stream=True, broke=lambda: None)
    assert len(await anext(begun.blocks())) <= MAX_PREFIX_BYTES + 1024


@pytest.mark.parametrize("code", [400, 413, 415, 422])
async def test_vllms_late_refusal_is_the_callers(code: int) -> None:
    """VLLM says some refusals inside a 200: they are final, with their own status."""
    event = b'data: {"error":{"message":"too long","code":%d}}\n\n' % code
    with pytest.raises(UpstreamRefused) as caught:
        await _begun([event], stream=True)
    assert caught.value.status == code


async def test_a_whole_answer_must_be_an_object_without_error() -> None:
    """HTML, an array, nothing, or an error envelope under 200 are failures; an empty `error` is none."""
    for body in (b"<html>", b"[]", b"", b'"x"', b'{"error":{"message":"x"}}', b"\xff\xfe{}", b"[" * 100_000):
        with pytest.raises(UpstreamFailed):
            await _begun([body], stream=False)
    for body in (b'{"choices":[]}', b'{"error":null,"choices":[]}', b'{"error":{},"choices":[]}'):
        assert await _begun([body[:5], body[5:]], stream=False) == body


async def test_a_break_after_the_first_event_is_told_to_the_breaker() -> None:
    """From then on the caller has bytes: the failure is raised to it and counted, once."""
    broke: list[int] = []
    upstream = Canned(EVENTS[:2], UpstreamFailed("gone"))
    begun = await begin(upstream, stream=True, broke=lambda: broke.append(1))
    blocks = begun.blocks()
    assert [await anext(blocks), await anext(blocks)] == EVENTS[:2]
    with pytest.raises(UpstreamFailed):
        await anext(blocks)
    assert broke == [1]
