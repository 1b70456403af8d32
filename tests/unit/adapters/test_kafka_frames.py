"""Frames are cut as they were sent, however the bytes arrive; trouble ends the connection as aiokafka would end it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.adapters.kafka_frames import FIRST_BYTES, KEPT_BYTES, Frames, read_in_frames


class Connection:
    """As much of aiokafka's as is used."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.errors: list[Exception] = []
        self._protocol = None
        self._reader: Any = SimpleNamespace(set_exception=self.errors.append)

    def _handle_frame(self, frame: bytes) -> None:
        if frame == b"bad":
            raise RuntimeError("no frame of ours")
        self.frames.append(frame)


def feed(frames: Frames, sent: bytes, parts: list[int]) -> None:
    """Deliver bytes by parts, each cut to the room that is offered, as a loop does."""
    at, turn = 0, 0
    while at < len(sent):
        room = frames.get_buffer(-1)
        take = min(len(room), parts[turn % len(parts)], len(sent) - at)
        room[:take] = sent[at : at + take]
        frames.buffer_updated(take)
        at, turn = at + take, turn + 1


def framed(bodies: list[bytes]) -> bytes:
    return b"".join(len(one).to_bytes(4, "big") + one for one in bodies)


@given(
    bodies=st.lists(st.integers(0, 3 * FIRST_BYTES).map(lambda size: bytes([size % 251]) * size), max_size=6),
    parts=st.lists(st.integers(1, 5 * FIRST_BYTES), min_size=1, max_size=5),
)
def test_frames_come_out_as_they_went_in(bodies: list[bytes], parts: list[int]) -> None:
    connection = Connection()
    # Single bytes are tried where there are few of them.
    feed(Frames(connection), framed(bodies), parts if sum(map(len, bodies)) > 1000 else [1])
    assert connection.frames == bodies
    assert not connection.errors


def test_a_frame_that_is_longer_than_what_is_kept() -> None:
    connection = Connection()
    frames = Frames(connection)
    bodies = [b"a" * (KEPT_BYTES + 5), b"b" * 9]
    feed(frames, framed(bodies), [KEPT_BYTES])
    assert connection.frames == bodies
    assert len(frames.get_buffer(-1)) <= KEPT_BYTES


@pytest.mark.parametrize("sent", [framed([b"bad", b"next"]), b"\xff\xff\xff\xff" + bytes(9)])
def test_trouble_is_told_and_nothing_more_is_taken(sent: bytes) -> None:
    connection = Connection()
    frames = Frames(connection)
    feed(frames, sent, [len(sent)])
    assert connection.frames == []
    assert len(connection.errors) == 1


def test_a_length_that_is_none_claims_no_memory() -> None:
    connection = Connection()
    frames = Frames(connection)
    feed(frames, b"\x7f\xff\xff\xff" + bytes(100_000), [4096])
    assert len(frames.get_buffer(-1)) < 4 * FIRST_BYTES


def test_a_connection_that_was_closed_takes_no_frame() -> None:
    connection = Connection()
    frames = Frames(connection)
    connection._reader = None
    feed(frames, framed([b"late"]), [99])
    assert connection.frames == []


async def test_each_connection_is_taken_over_once() -> None:
    set_to: list[Frames] = []
    transport = SimpleNamespace(get_protocol=lambda: set_to[-1] if set_to else None, set_protocol=set_to.append)
    connection = Connection()
    connection._writer = SimpleNamespace(transport=transport)  # type: ignore[attr-defined]
    answers: list[Connection | None] = [connection, connection, None]

    async def opened(node: int) -> Connection | None:
        await asyncio.sleep(0)
        return answers.pop(0)

    client = SimpleNamespace(_get_conn=opened)
    read_in_frames(client)
    assert [await client._get_conn(1) for _ in range(3)] == [connection, connection, None]
    assert len(set_to) == 1
