"""Answers of a broker, read where they are needed: a fetch of photos is megabytes.

aiokafka reads through asyncio's StreamReader, which takes 256 KiB at a time, appends them to a buffer that grows,
copies the answer out of it, and stops and starts the socket at every step: a quarter of a worker's own time where it
fetched photos. Here the socket writes into one buffer that stays, and the answer is copied out of it once.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, Final

FIRST_BYTES: Final = 64 * 1024
KEPT_BYTES: Final = 16 * 1024 * 1024
"""A buffer that had to be longer is not kept: a fetch asks for 8 MiB, and one record may be more than that."""
LENGTH_BYTES: Final = 4


class Frames(asyncio.BufferedProtocol):
    """Cuts what comes into frames, each behind its length of 4 bytes, and hands them to a connection of aiokafka."""

    def __init__(self, connection: Any) -> None:
        """`connection` is open and waits for no answer; its own protocol is told of everything else."""
        self._connection = weakref.ref(connection)  # aiokafka ends connections that nobody holds
        self._former: asyncio.StreamReaderProtocol = connection._protocol
        self._buffer = bytearray(FIRST_BYTES)
        self._got = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go. Of asyncio."""
        return memoryview(self._buffer)[self._got :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came. Of asyncio."""
        self._got += nbytes
        at = 0
        while self._got - at >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[at : at + LENGTH_BYTES], "big", signed=True)
            end = at + LENGTH_BYTES + length
            if length < 0:
                return self._fail(ValueError("a length below 0"))
            if end > self._got:
                break
            if not self._hand(bytes(memoryview(self._buffer)[at + LENGTH_BYTES : end])):
                return None
            at = end
        return self._make_room(at)

    def _make_room(self, at: int) -> None:
        """Keep what begins here, and leave room behind it: never in place, for who reads holds a view of the buffer."""
        size = len(self._buffer)
        if at == 0 and self._got < size:
            return
        rest = self._buffer[at : self._got]
        # Doubled as it fills, and not what a length says: that may be no length of Kafka's at all.
        if at == 0 or size > KEPT_BYTES:
            self._buffer = bytearray(max(FIRST_BYTES, 2 * len(rest)))
        self._buffer[: len(rest)] = rest
        self._got = len(rest)

    def _hand(self, frame: bytes) -> bool:
        connection = self._connection()
        if connection is None or connection._reader is None:
            return False  # closed meanwhile
        try:
            connection._handle_frame(frame)
        except Exception as error:  # noqa: BLE001 - told to aiokafka, as its own reader would
            self._fail(error)
            return False
        return True

    def _fail(self, error: Exception) -> None:
        """aiokafka's reader, which waits for bytes that it never gets, ends by this, and with it the connection."""
        connection = self._connection()
        if connection is not None and connection._reader is not None:
            connection._reader.set_exception(error)

    def eof_received(self) -> bool | None:
        """The broker hung up. Of asyncio."""
        return self._former.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._former.connection_lost(exc)

    def pause_writing(self) -> None:
        """Of asyncio."""
        self._former.pause_writing()

    def resume_writing(self) -> None:
        """Of asyncio."""
        self._former.resume_writing()


def read_in_frames(client: Any) -> None:
    """Have every connection that this aiokafka client opens to a node from now on read by `Frames`."""
    opened = client._get_conn

    async def get_conn(*arguments: Any, **options: Any) -> Any:
        connection = await opened(*arguments, **options)
        # No await from here to the end: nothing was asked yet, so nothing is on its way.
        if connection is not None and connection._writer is not None:
            transport = connection._writer.transport
            if not isinstance(transport.get_protocol(), Frames):
                transport.set_protocol(Frames(connection))
        return connection

    client._get_conn = get_conn
