"""Answers as bytes: any split, any framing, and every way for a hostile upstream to fill our memory."""

from __future__ import annotations

import pytest

from app.backends.answer import MAX_HEAD_BYTES, Answer, Bounds, Broken, TooLarge

CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\nx-trailer: 1\r\n\r\n"
)
COUNTED = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nhello, world"


def answer(*, whole: bool = False, max_bytes: int = 1000) -> Answer:
    """An answer with small bounds."""
    return Answer(Bounds(whole, max_bytes, 50, first_byte_seconds=1, idle_seconds=1, total_seconds=1))


def body(of: Answer) -> bytes:
    """What is there now, joined."""
    found = b""
    while block := of.take():
        found += block
    return found


@pytest.mark.parametrize("said", [CHUNKED, COUNTED], ids=["chunked", "counted"])
def test_any_split_gives_the_same_answer(said: bytes) -> None:
    """Wherever the bytes are cut, status, head and body are the same, and the connection can be used again."""
    for cut in range(1, len(said)):
        read = answer()
        read.feed(said[:cut])
        seen = body(read)
        read.feed(said[cut:])
        assert (read.status, seen + body(read), read.complete, read.keep) == (200, b"hello, world", True, True)
        assert b"x-trailer" not in read.headers
        assert b"link" not in read.headers


def test_a_whole_answer_is_given_at_its_end_only() -> None:
    """Nothing of it is to be had before it is complete."""
    read = answer(whole=True)
    read.feed(COUNTED[:-1])
    assert read.take() is None
    read.feed(COUNTED[-1:])
    assert read.take() == b"hello, world"
    assert read.take() == b""


def test_a_refusal_is_whole_even_where_parts_were_asked_for() -> None:
    """A stream that is refused has one body, within the bound of refusals."""
    read = answer()
    read.feed(b"HTTP/1.1 400 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n")
    assert read.take() is None
    with pytest.raises(TooLarge):
        read.feed(b"64\r\n" + b"x" * 100)


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    """Closing ends it, an error breaks it off, and the connection is not used again."""
    read, broken = answer(), answer()
    for one in (read, broken):
        one.feed(b"HTTP/1.1 200 OK\r\n\r\nhello")
    read.end()
    assert (body(read), read.complete, read.keep) == (b"hello", True, False)
    with pytest.raises(Broken):
        broken.end("ConnectionResetError")


@pytest.mark.parametrize("said", [b"", CHUNKED[:-9], COUNTED[:-1], b"HTTP/1.1 200 OK\r\n"])
def test_half_an_answer_is_none(said: bytes) -> None:
    """A connection that closes in the middle never makes an answer complete."""
    read = answer()
    if said:
        read.feed(said)
    with pytest.raises(Broken):
        read.end()
    assert not read.complete


def test_bytes_after_the_end_spoil_the_connection_not_the_answer() -> None:
    """A second answer that nobody asked for is not read, and no call can get it."""
    for surplus in (b"\0\0\0", b"HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\nbad"):
        read = answer()
        read.feed(COUNTED + surplus)
        assert (read.status, body(read), read.complete, read.keep) == (200, b"hello, world", True, False)


def test_a_connection_that_the_upstream_closes_is_not_kept() -> None:
    """`Connection: close` and HTTP/1.0 end the use of a connection."""
    for said in (COUNTED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), COUNTED.replace(b"/1.1", b"/1.0")):
        read = answer()
        read.feed(said)
        assert read.complete
        assert not read.keep


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n\0",
        b"ICY 200 OK\r\n\r\n",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(said: bytes) -> None:
    """Two lengths, a length and chunks, another protocol: none is an answer."""
    with pytest.raises(Broken):
        answer().feed(said)


def test_an_announced_size_beyond_the_bound_is_refused_at_the_head() -> None:
    """Nothing of its body is read."""
    with pytest.raises(TooLarge):
        answer().feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n")


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 100),
        (b"", b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n" * 20),
        (HEAD + b"0\r\nx: ", b"y" * 1000),
        (HEAD + b"0\r\n", b"x: y\r\n" * 100),
        (HEAD + b"5;", b"x" * 1000),
    ],
    ids=["a header", "headers", "interim answers", "a trailer", "trailers", "a chunk's extension"],
)
def test_what_carries_no_body_is_bounded(begin: bytes, more: bytes) -> None:
    """Each part that could go on for ever ends at the bound of a head, soon after it."""
    read, fed = answer(), 0
    if begin:
        read.feed(begin)
    with pytest.raises(Broken):
        while fed < 20 * MAX_HEAD_BYTES:
            read.feed(more)
            fed += len(more)
    assert fed <= 8 * MAX_HEAD_BYTES
