"""Digests of chunks that a server on this machine hands over, made here: in a thread, over blocking connections.

Its Lua takes 0.3 ms to digest a chunk, on the one processor that it has for all clients; to hand it over takes a tenth
of that, and OpenSSL digests it in a fifth. Over a network it would be 10 MB a second for each million entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

from redis.backoff import NoBackoff
from redis.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import NoPermissionError, RedisError
from redis.retry import Retry

from hashweir.adapters.redis_link import Access
from hashweir.model import Kind
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, digest

_READ_BYTES = 1 << 20


class Near:
    """Reads of threads. What fails is not repeated, and not explained: who asks in the usual way is told why."""

    def __init__(self, access: Access, options: Mapping[str, Any], *, works: bool = True) -> None:
        """`options` as for the connections of `redis_link`. Connects to nothing."""
        self.works = works and _is_near(access.url)
        """Whether the server is on this machine and lets chunks be read."""
        self._class: Any = UnixDomainSocketConnection if "path" in options else Connection
        retry = Retry(NoBackoff(), 0)
        self._options = {**options, "retry": retry, "socket_timeout": access.answer_s, "socket_read_size": _READ_BYTES}
        self._idle: list[Any] = []
        self._digested: dict[tuple[str, Kind, int], tuple[tuple[int, int], bytes]] = {}
        """Digests by head, kind and number of the chunk, with what the chunk was known by then."""

    def digests(self, head: str, chunks: Sequence[tuple[str, str]], kind: Kind, first: int) -> list[bytes] | None:
        """As `RedisStore.digests`, of chunks from `first` on with these keys of slots and side records.

        None where there was no answer, or another one than expected.
        """
        keys = [key for pair in chunks for key in pair]
        # As in `RedisStore.read_chunk`: the position before and after says that all is of one instant.
        position = ("HMGET", head, "epoch", "seq", f"n:{kind}")
        commands = [position, *(("GET", key) for key in keys), position]
        try:
            connection = self._idle.pop() if self._idle else self._class(**self._options)
            try:
                connection.send_packed_command(connection.pack_commands(commands))
                before, *found, after = [connection.read_response() for _ in commands]
            except BaseException:
                connection.disconnect()
                raise
        except NoPermissionError:
            self.works = False
            return None
        except (RedisError, OSError):
            return None
        self._idle.append(connection)
        epoch, _, count = before
        if epoch is None or before != after:
            return None
        digests = []
        for number, (slots, sides) in enumerate(zip(found[::2], found[1::2], strict=True), first):
            used = min(CHUNK_SLOTS, int(count or 0) - number * CHUNK_SLOTS)
            if used > 0:
                runs = (memoryview(slots or b"")[: used * SLOT_BYTES], memoryview(sides or b"")[: used * SIDE_BYTES])
                digests.append(self._digest(head, kind, number, *runs))
        return digests

    def _digest(self, head: str, kind: Kind, number: int, slots: memoryview, sides: memoryview) -> bytes:
        """A chunk with the CRC-32 with which it was digested before is as it was: half the time of digesting it."""
        name, mark = (head, kind, number), (len(slots), crc32(sides, crc32(slots)))
        known = self._digested.get(name)
        if known is None or known[0] != mark:
            known = self._digested[name] = mark, digest(slots, sides)
        return known[1]

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().disconnect()


def _is_near(url: str) -> bool:
    """Whether an address is of this machine. That a proxy listens there can't be told: `store.near` says so."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    try:
        return parts.scheme == "unix" or (
            parts.scheme == "redis" and (host == "localhost" or ip_address(host).is_loopback)
        )
    except ValueError:  # another name
        return False
