"""One frame out and one back; whatever else comes ends the link. The memory for contents is read-only over there."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import AsyncIterator

import pytest

from hashweir.adapters.sandbox_frames import BadReply
from hashweir.adapters.sandbox_link import ARENA_BYTES, Arena, Link


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


class Pair:
    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.link = Link(ours)
        self.loop = asyncio.get_running_loop()

    async def say(self, what: bytes) -> None:
        await self.loop.sock_sendall(self.theirs, what)

    async def hear(self, size: int) -> bytes:
        heard = b""
        while len(heard) < size:
            heard += await self.loop.sock_recv(self.theirs, size - len(heard))
        return heard


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    yield made
    await made.link.close()
    made.theirs.close()


@pytest.mark.parametrize("size", [0, 1, 70_000, 500_000])
async def test_a_frame_there_and_back_by_any_parts(pair: Pair, size: int) -> None:
    body = os.urandom(size)
    # More than the buffers of a socket hold, so that sending takes several turns.
    question = bytearray(os.urandom(3_000_000))
    asked = asyncio.create_task(pair.link.exchange(question, 10))
    assert await pair.hear(len(question)) == question
    answer = framed(body)
    for at in range(0, len(answer), 60_000):
        await pair.say(answer[at : at + 60_000])
    assert await asked == body
    again = asyncio.create_task(pair.link.exchange(bytearray(b"second"), 10))
    assert await pair.hear(6) == b"second"
    await pair.say(framed(b"yes"))
    assert await again == b"yes"


@pytest.mark.parametrize("answer", [framed(b"one") + framed(b"two"), b"\xff\xff\xff\xff", framed(b"one") + b"x"])
async def test_an_answer_that_is_too_much(pair: Pair, answer: bytes) -> None:
    asked = asyncio.create_task(pair.link.exchange(bytearray(b"?"), 10))
    await pair.hear(1)
    await pair.say(answer)
    with pytest.raises(BadReply):
        await asked
    with pytest.raises(BadReply):
        await pair.link.exchange(bytearray(b"?"), 10)


async def test_what_comes_unasked_is_not_the_next_answer(pair: Pair) -> None:
    await pair.say(framed(b"forged"))
    while pair.link._over is None:  # noqa: ASYNC110, no event tells
        await asyncio.sleep(0)
    with pytest.raises(BadReply, match="nobody asked"):
        await pair.link.exchange(bytearray(b"?"), 10)


async def test_an_answer_that_does_not_come_and_an_end(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        await pair.link.exchange(bytearray(b"?"), 0.01)
    asked = asyncio.create_task(pair.link.exchange(bytearray(b"?"), 10))
    await pair.hear(2)
    pair.theirs.close()
    with pytest.raises(EOFError):
        await asked


@pytest.mark.parametrize("question", [b"?", bytes(9_000_000)])
async def test_each_answer_has_its_own_time(pair: Pair, question: bytes) -> None:
    """Be it shorter or longer than the one before, and sending counts."""
    for most_s in (10, 0.2):
        asked = asyncio.create_task(pair.link.exchange(bytearray(b"?"), most_s))
        await pair.hear(1)
        await pair.say(framed(b"yes"))
        assert await asked == b"yes"
    began = pair.loop.time()
    with pytest.raises(TimeoutError):
        await pair.link.exchange(bytearray(question), 0.4)
    assert 0.4 <= pair.loop.time() - began < 5


async def test_closing_wakes_who_waits(pair: Pair) -> None:
    asked = asyncio.create_task(pair.link.exchange(bytearray(9_000_000), 10))
    await pair.hear(1)
    async with asyncio.timeout(5):
        await pair.link.close()
        with pytest.raises((OSError, EOFError)):
            await asked


def test_contents_can_be_read_and_not_changed() -> None:
    arena = Arena()
    assert arena.put(b"the first and longer")
    assert arena.put(b"second")
    with mmap.mmap(arena.descriptor, 0, prot=mmap.PROT_READ) as seen:
        assert seen[:6] == b"second"
        assert len(seen) == ARENA_BYTES
    with pytest.raises(PermissionError):
        mmap.mmap(arena.descriptor, 0)
    for change in (lambda: os.ftruncate(arena.descriptor, 0), lambda: os.write(arena.descriptor, b"x")):
        with pytest.raises(OSError, match=r"Invalid argument|Bad file descriptor"):
            change()
    assert not arena.put(bytes(ARENA_BYTES + 1))
    arena.handed_over()
    arena.close()
