"""Short turns: for the thread that asks, and for nothing that it starts."""

from __future__ import annotations

import ctypes
import platform
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hashweir.short_turns import TURN_NS, take_short_turns

GET_ATTRIBUTES = {"x86_64": 315, "aarch64": 275}
RESET_ON_FORK = 1


def turn() -> tuple[int, int, int]:
    """Flags, niceness and turn (ns; 0 before Linux 6.12) of the calling thread, as the kernel has them."""
    room = ctypes.create_string_buffer(48)
    number = GET_ATTRIBUTES[platform.machine()]
    assert ctypes.CDLL(None).syscall(ctypes.c_long(number), 0, room, 48, 0) == 0
    _, _, flags, nice, _, runtime, _, _ = struct.unpack("=IIQiIQQQ", room.raw)
    return flags, nice, runtime


def test_only_who_asks_takes_short_turns() -> None:
    with ThreadPoolExecutor(1) as asking:
        before = asking.submit(turn).result()
        asking.submit(take_short_turns).result()
        after, started = asking.submit(turn).result(), list[tuple[int, int, int]]()

        def start() -> None:
            thread = threading.Thread(target=lambda: started.append(turn()))
            thread.start()
            thread.join()

        asking.submit(start).result()
    has_turns = tuple(map(int, platform.release().split(".")[:2])) >= (6, 12)
    assert after == (RESET_ON_FORK, before[1], TURN_NS if has_turns else before[2])
    assert started == [before]


def test_an_unknown_processor_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as asking:
        before = asking.submit(turn).result()
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(platform, "machine", lambda: "abacus")
            asking.submit(take_short_turns).result()
        assert asking.submit(turn).result() == before
