"""What every Kafka client of this process shares: how to reach the brokers, own time limits, calm and silent logs.

aiokafka repeats what can be repeated without an end, so each call that goes to a broker is made through `within`.
"""

from __future__ import annotations

import asyncio
import logging
import pkgutil
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import aiokafka
from aiokafka.conn import collect_hosts
from aiokafka.errors import KafkaError

from hashweir.errors import ConfigError, HashweirError, Unreachable

Result = TypeVar("Result")
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

SLICES = 8
RETRY_S = 0.25
SAY_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the brokers are and how to be let in. Files are PEM paths; times are seconds."""

    bootstrap: str
    """`host:port`, several with commas between."""
    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism = "SCRAM-SHA-512"
    username: str = ""
    password: str = ""
    ca_file: str = ""
    """Empty: the system's authorities."""
    cert_file: str = ""
    key_file: str = ""
    key_password: str = ""
    connect_s: float = 15.0
    """How long a start tries to reach the brokers."""
    answer_s: float = 5.0
    """How long one question to a running broker may take."""

    def options(self) -> dict[str, Any]:
        """Arguments for any aiokafka client. Raises ConfigError for an address or a file that makes no sense."""
        try:
            collect_hosts(self.bootstrap)
        except ValueError:
            raise ConfigError(f"kafka address {self.bootstrap!r} is not host:port,host:port") from None
        found: dict[str, Any] = {"bootstrap_servers": self.bootstrap, "security_protocol": self.protocol}
        if self.protocol.startswith("SASL"):
            if not self.username:
                raise ConfigError(f"kafka: {self.protocol} needs a user and a password")
            found["sasl_mechanism"] = self.mechanism
            found["sasl_plain_username"], found["sasl_plain_password"] = self.username, self.password
        if self.protocol.endswith("SSL"):
            found["ssl_context"] = self._tls()
        return found

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                # A password is always given, or OpenSSL would ask for one on the terminal and wait.
                context.load_cert_chain(self.cert_file, self.key_file or None, self.key_password)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"kafka: certificates can't be used: {error}") from None
        return context


class _Calm(logging.Filter):
    """Keeps a client's log fit to be written.

    Nothing below warning passes, whatever level is set: on debug aiokafka writes keys, values and passwords. In an
    outage it says the same thing ten times a second: each sentence passes once in 10 seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}
        self.last_error = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return False
        if record.levelno >= logging.ERROR:
            self.last_error = record.getMessage()[:300]
        key, now = f"{record.name} {record.msg}", time.monotonic()
        if now - self._said.get(key, -SAY_AGAIN_S) < SAY_AGAIN_S:
            return False
        self._said[key] = now
        return True


_calm = _Calm()
# A filter holds for its own logger and not for those below it, so it goes to every one that there is.
for _module in pkgutil.walk_packages(aiokafka.__path__, "aiokafka."):
    logging.getLogger(_module.name).addFilter(_calm)
logging.getLogger("aiokafka").addFilter(_calm)


async def within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`. Raises TimeoutError after so many seconds in which this process really ran.

    Counted in turns: when a frozen process thaws, all its timers are due before any socket was read, and a plain
    timeout would report as failed what was answered long ago.
    """
    task = asyncio.create_task(work)
    try:
        await ended(seconds, [task])
        if task.done():
            # Cancelled from inside, when a client is closed under it: not a cancellation of the caller.
            if task.cancelled():
                raise TimeoutError
            return task.result()
    finally:
        if not task.done():
            task.add_done_callback(_take_note)
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
    raise TimeoutError


async def ended(seconds: float, tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until all of these ended, however they did, or so many seconds passed in which this process really ran."""
    pending = set(tasks)
    for _ in range(SLICES):
        if pending:
            _, pending = await asyncio.wait(pending, timeout=seconds / SLICES)


def _take_note(task: asyncio.Task[Any]) -> None:
    """Nobody waits for this task any more: its error is not news."""
    if not task.cancelled():
        task.exception()


async def connect(access: Access, start: Callable[[], Awaitable[None]]) -> None:
    """Start a client, again and again for at most `connect_s` seconds.

    Raises Unreachable(stream_unreachable) with the address and the client's last words: aiokafka does not say in
    its error whether nobody listens, the certificate is strange or the password wrong, but it does in its log.
    """
    until, why = time.monotonic() + access.connect_s, ""

    async def once() -> None:
        await start()

    _calm.last_error = ""
    while True:
        try:
            return await within(max(0.1, until - time.monotonic()), once())
        except (KafkaError, OSError) as error:
            why = _calm.last_error or f"{type(error).__name__}: {error}"
        except TimeoutError:
            why = why or _calm.last_error or "no answer"
        if time.monotonic() + RETRY_S >= until:
            break
        await asyncio.sleep(RETRY_S)
    raise unreachable(access, f"no connection within {access.connect_s:g} s: {why}")


def unreachable(access: Access, why: str) -> Unreachable:
    """The error of a broker that does not answer, naming the address."""
    return Unreachable("stream_unreachable", f"kafka at {access.bootstrap}: {why}")


def topic_missing(names: list[str]) -> HashweirError:
    """The error of topics that nobody has made."""
    listed = ", ".join(sorted(names))
    return HashweirError("stream_topic_missing", f"no such topic: {listed}; run `hashweir check --create`")
