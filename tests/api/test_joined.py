"""An answer's head and body leave in one write."""

from __future__ import annotations

import asyncio

import pytest

from app.api.joined import HELD_BYTES, JOINED_BYTES, Joined


class Socket(asyncio.Transport):
    """Remembers what was written, in which pieces, and what was done besides."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """One system call."""
        self.told.append(bytes(data))

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closing

    def close(self) -> None:
        """Close."""
        self.told.append("close")
        self.closing = True

    def abort(self) -> None:
        """Close now."""
        self.told.append("abort")
        self.closing = True

    def pause_reading(self) -> None:
        """Stop."""
        self.told.append("pause")

    def resume_reading(self) -> None:
        """Go on."""
        self.told.append("resume")

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What it knows."""
        return {"peername": ("192.0.2.1", 5)}.get(name, default)


async def turn() -> None:
    """One turn of the event loop."""
    await asyncio.sleep(0)


async def test_what_is_written_in_one_turn_leaves_in_one_write() -> None:
    """Head and body together, the next turn's by itself."""
    socket = Socket()
    joined = Joined(socket)
    joined.write(b"head ")
    joined.write(bytearray(b"body"))
    assert socket.told == []
    await turn()
    joined.write(b"more")
    await turn()
    assert socket.told == [b"head body", b"more"]


async def test_what_was_queued_before_the_answer_runs_before_it_leaves() -> None:
    """So a settlement, queued before the answer is written, is on its way first."""
    socket = Socket()
    joined = Joined(socket)
    asyncio.get_running_loop().call_soon(socket.told.append, "settlement")
    joined.write(b"answer")
    await turn()
    assert socket.told == ["settlement", b"answer"]


@pytest.mark.parametrize("size", [JOINED_BYTES + 1, HELD_BYTES + 1])
async def test_what_is_large_is_passed_on_uncopied_and_very_much_of_it_at_once(size: int) -> None:
    """A large body keeps its own write; more than may be held leaves within the turn."""
    socket = Socket()
    joined = Joined(socket)
    body = bytes(size)
    joined.write(b"head")
    joined.write(body)
    assert (socket.told == []) is (size <= HELD_BYTES)
    await turn()
    assert socket.told == [b"head", body]


async def test_closing_sends_first_what_was_written() -> None:
    """A response with `connection: close` is whole."""
    socket = Socket()
    joined = Joined(socket)
    joined.write(b"answer")
    joined.close()
    await turn()
    assert socket.told == [b"answer", "close"]


async def test_nothing_is_written_to_a_socket_that_has_gone() -> None:
    """Aborted, or closed by the client before the turn's end: the rest is nobody's."""
    for end in ("abort", "lost"):
        socket = Socket()
        joined = Joined(socket)
        joined.write(b"answer")
        if end == "abort":
            joined.abort()
        socket.closing = True
        await turn()
        assert b"answer" not in socket.told


async def test_everything_else_is_the_socket_s_own() -> None:
    """Reading is stopped and continued there, and it says where the client is."""
    socket = Socket()
    joined = Joined(socket)
    joined.pause_reading()
    joined.resume_reading()
    assert socket.told == ["pause", "resume"]
    assert joined.get_extra_info("peername") == ("192.0.2.1", 5)
    assert joined.get_extra_info("cipher", "none") == "none"
    assert joined.is_closing() is False
