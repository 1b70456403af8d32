"""A server of the tests as a child process: started until it answers, stopped, killed, frozen."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self


class ServerError(Exception):
    """A server is missing, did not start, is in the wrong state or refused a request; the message says why."""


class ServerProcess(ABC):
    """One server process with a folder for its data, its log and its files.

    As a context manager it starts on entry, and on exit stops and removes the folder if it made it. After `kill()`
    or `stop()`, `start()` brings it back in the same folder.
    """

    name: str
    start_s = 20.0
    stop_s = 10.0

    def __init__(self, folder: Path | None = None) -> None:
        self._own_folder = folder is None
        self._folder = folder or Path(tempfile.mkdtemp(prefix=f"hashweir-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.log_file = self._folder / "server.log"

    @abstractmethod
    def _command(self) -> list[str]:
        """The program and its arguments; whatever it needs is written by now. Raises ServerError."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it does its work already: an open port is too early for most."""

    @property
    def pid(self) -> int:
        """Process id. Raises ServerError when it is not running."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers. Raises ServerError with the end of its log."""
        if self._process is not None:
            raise ServerError(f"{self.name} is already running")
        self._process = self._spawn(self._command())
        deadline = time.monotonic() + self.start_s
        while not self._answers():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                self.kill()
                state = "too slow" if code is None else f"exit code {code}"
                raise ServerError(f"{self.name} did not start ({state}):\n{self._log_tail()}")
            time.sleep(0.03)

    def stop(self) -> None:
        """Stop in good order (SIGTERM), by force after `stop_s`. Idempotent."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(self.stop_s)
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

    def restart(self) -> None:
        """`stop()`, then `start()` with the same data and ports."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as log:
            # A session of its own: Ctrl-C goes to the test run, which then stops its servers in its own order.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, start_new_session=True
            )

    def _log_tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-3000:] if self.log_file.exists() else "(no log)"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._remove()

    def _remove(self) -> None:
        if self._own_folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports free at this moment, held together while they are chosen so that no two are equal."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports


def free_port() -> int:
    """A port that is free now."""
    return free_ports(1)[0]
