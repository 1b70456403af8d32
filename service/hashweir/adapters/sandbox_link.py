"""The parent's end of what joins it to one scan process: a socket for frames, and memory for contents.

An upload's bytes are copied once, into memory that the process can read and not write. Through the socket they would be
copied four times, by pieces of what its buffers hold, with a wake-up for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
from typing import Final

from hashweir.adapters.sandbox_frames import LENGTH_BYTES, MOST_REPLY_BYTES, BadReply

ARENA_BYTES: Final = 4 * 2**20
"""Longer contents go through the socket: what is inline in a record is at most 1 MiB by default."""
_PART_BYTES: Final = 2**14
"""Read of an answer at a time; that of a picture has less than 2 kB."""


class Arena:
    """Memory that this process writes and one scan process reads. Pages count once they were written."""

    def __init__(self) -> None:
        """`descriptor` is for the scan process, and gives no right to write or to change the size."""
        made = os.memfd_create("contents")
        try:
            os.ftruncate(made, ARENA_BYTES)
            self._memory = mmap.mmap(made, ARENA_BYTES)
            self.descriptor = os.open(f"/proc/self/fd/{made}", os.O_RDONLY)
        finally:
            os.close(made)

    def put(self, content: bytes) -> bool:
        """Hold this content in place of the one before; whether there is room for it."""
        if len(content) > ARENA_BYTES:
            return False
        self._memory[: len(content)] = content
        return True

    def handed_over(self) -> None:
        """The process was started: it has the descriptor, and nobody else needs it."""
        os.close(self.descriptor)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


class Link:
    """Frames to one scan process and back, one at a time. Make it on the loop that it is used on."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._answer: asyncio.Future[bytes] | None = None
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Comes by no later than the answer is due. One for many answers: each would leave its own to the loop."""
        self._parts = bytearray()
        self._over: Exception | None = None
        """Why nothing is read any more."""
        self._loop.add_reader(end, self._readable)

    async def exchange(self, frame: bytearray, most_s: float) -> bytes:
        """Send a frame and receive one within so many seconds. Not while another exchange is under way.

        Raises TimeoutError, BadReply for an answer that is too long, one too many, or came unasked, EOFError where the
        process hung up, OSError.
        """
        if self._over is not None:
            raise self._over
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answer = answer
        self._until = until = self._loop.time() + most_s
        if self._timer is None or self._timer.when() > until:
            self._look_at(until)
        try:
            sent = self._send(frame)
            if sent < len(frame):
                async with self._sending, asyncio.timeout_at(until):
                    await self._loop.sock_sendall(self._socket, memoryview(frame)[sent:])
            return await answer
        finally:
            self._answer = None
            if answer.done() and not answer.cancelled():
                answer.exception()  # or the loop complains of an end that sending met first

    async def close(self) -> None:
        """Wake whoever waits, and close."""
        # Sending may be under way, and would wait for ever on a socket that was closed under it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        async with self._sending:
            self._end(EOFError())
            self._socket.close()
        if self._timer is not None:
            self._timer.cancel()

    def _send(self, frame: bytearray) -> int:
        """How much of it went at once: all, where it is no long content."""
        try:
            return self._socket.send(frame)
        except BlockingIOError:
            return 0

    def _readable(self) -> None:
        try:
            part = self._socket.recv(_PART_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            return self._end(error)
        if not part:
            return self._end(EOFError())
        if self._answer is None or self._answer.done():
            return self._end(BadReply("an answer that nobody asked for"))
        whole: bytes | bytearray = part
        if self._parts:
            self._parts += part
            whole = self._parts
        end = LENGTH_BYTES + int.from_bytes(whole[:LENGTH_BYTES], "big")
        if len(whole) == end:
            self._answer.set_result(bytes(whole[LENGTH_BYTES:]))
            self._parts.clear()
        elif len(whole) >= LENGTH_BYTES and end > LENGTH_BYTES + MOST_REPLY_BYTES:
            self._end(BadReply("a frame longer than any honest one"))
        elif len(whole) > end:
            self._end(BadReply("more than one answer"))
        elif whole is part:
            self._parts += part
        return None

    def _look_at(self, when: float) -> None:
        """Look at this time, by the loop's clock, whether an answer is due."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._answer is None or self._answer.done():
            return
        if self._until <= self._loop.time():
            self._answer.set_exception(TimeoutError())
        else:
            self._look_at(self._until)

    def _end(self, why: Exception) -> None:
        if self._over is None:
            self._over = why
            self._loop.remove_reader(self._socket)
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(why)
