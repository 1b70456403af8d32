"""Connections to one Redis or Valkey server: whole exchanges of commands and replies, on one connection each.

redis-py's own clients repeat a command after a lost reply, so that an increment happens twice, and have left replies
on pooled connections after a cancellation. Here a connection whose exchange did not end is closed, never reused;
only an idle connection that turns out to be dead is replaced and the exchange repeated, once: every command that
hashweir sends may be repeated.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from hashweir.errors import REASONS, ConfigError, HashweirError, OutcomeUnknown, Refused, Unreachable

Command = tuple[str | bytes | int, ...]

MOST_CONNECTIONS = 16
_TEMPORARY = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "UNBLOCKED")
"""The server will answer otherwise soon, or another one does: nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the server is and how to be let in. Files are PEM paths; times are seconds."""

    url: str
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    connect_s: float = 5.0
    """How long `open` tries to reach the server."""
    answer_s: float = 5.0
    """How long one exchange may take, waiting for a connection included."""


class Link:
    """A small pool of connections to one server."""

    def __init__(self, access: Access) -> None:
        """Raises ConfigError where the URL makes no sense. Connects to nothing."""
        self.address = mask(access.url)
        self._access = access
        try:
            options: dict[str, Any] = dict(parse_url(access.url))
        except ValueError as e:
            raise ConfigError(f"store address {self.address}: {e}") from None
        self._class: type[Connection] = options.pop("connection_class", Connection)
        given = {"username": access.username, "password": access.password}
        options |= {key: value for key, value in given.items() if value is not None}
        if issubclass(self._class, SSLConnection):
            files = {
                "ssl_ca_certs": access.ca_file,
                "ssl_certfile": access.cert_file,
                "ssl_keyfile": access.key_file,
            }
            options |= {key: value for key, value in files.items() if value is not None}
        elif access.ca_file or access.cert_file or access.key_file:
            raise ConfigError(f"store address {self.address}: certificates need a rediss:// address")
        if not issubclass(self._class, UnixDomainSocketConnection):
            alive = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
            options |= {"socket_keepalive": True, "socket_keepalive_options": alive}
        self.options: Mapping[str, Any] = options | {
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": access.answer_s,
            "socket_timeout": None,  # `exchange` sets the bound, for sending and receiving together
            "health_check_interval": 15,
            "driver_info": None,  # to tell its version redis-py would look it up for each connection: a millisecond
        }
        """What redis-py makes a connection with."""
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(MOST_CONNECTIONS)

    async def exchange(self, *commands: Command, writes: bool = False, wait_s: float = 0.0) -> list[Any]:
        """Send commands in one write on one connection and give all replies; the first error reply is raised.

        `wait_s` is what the server itself may wait (BLOCK, WAIT), on top of the answer time. Raises
        Unreachable(store_unreachable), for writes that were sent OutcomeUnknown(outcome_unknown), or Refused.
        """
        sent = False
        try:
            async with asyncio.timeout(self._access.answer_s + wait_s), self._slots:
                while True:
                    reused = bool(self._idle)
                    connection = self._idle.pop() if reused else self._class(**self.options)
                    try:
                        await connection.connect()  # type: ignore[no-untyped-call]
                        sent = writes
                        replies = await _converse(connection, commands)
                    except (RedisError, OSError):
                        await connection.disconnect(nowait=True)
                        if not reused:
                            raise
                        await self._drop_idle()
                        continue
                    except BaseException:
                        await connection.disconnect(nowait=True)
                        raise
                    self._idle.append(connection)
                    break
        except TimeoutError:
            self._lost(sent, f"no answer within {self._access.answer_s + wait_s:g} s")
        except ResponseError as e:  # while logging in
            raise self.refusal(e) from None
        except AuthenticationError as e:  # like the next one an answer, although redis-py sees a lost connection
            raise Refused("store_refused", f"{self.address}: {e}") from None
        except BusyLoadingError as e:
            raise Unreachable("store_unreachable", f"{self.address}: {e}") from None
        except (RedisError, OSError) as e:
            self._lost(sent, str(e))
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise self.refusal(reply)
        return replies

    def refusal(self, error: ResponseError) -> HashweirError:
        """What an error reply means here: ours carry their reason code, the server's are sorted by their word."""
        # redis-py takes the words off that it knows, and keeps the class.
        text = str(error)
        word, _, rest = text.partition(" ")
        if word == "HASHWEIR":
            reason, _, message = rest.partition(" ")
            if reason in REASONS:
                return Refused(reason, message)
        if "Function not found" in text:
            return Refused("store_not_created", f"{self.address}: its function library is not loaded")
        kind = type(error).__name__.removesuffix("Error").upper()
        if word in _TEMPORARY or kind in _TEMPORARY:
            return Unreachable("store_unreachable", f"{self.address}: {text}")
        return Refused("store_refused", f"{self.address}: {text}")

    def _lost(self, sent: bool, why: str) -> NoReturn:
        if sent:
            raise OutcomeUnknown("outcome_unknown", f"{self.address}: {why}") from None
        raise Unreachable("store_unreachable", f"{self.address}: {why}") from None

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def close(self) -> None:
        """Close what is idle; what is in use closes at the end of its exchange. Never raises."""
        while self._idle:
            try:
                await asyncio.wait_for(self._idle.pop().disconnect(), 1.0)
            except (RedisError, OSError, TimeoutError):
                continue


async def _converse(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    await connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as e:
            replies.append(e)
    return replies


def mask(url: str) -> str:
    """A URL fit for logs: without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
