"""One scan process, seen from its parent: start, one job at a time, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from hashweir.adapters.sandbox_fences import LEVELS, Fence, Level
from hashweir.adapters.sandbox_frames import BadReply, Job, Setup, pack, unpack_ready, unpack_replies
from hashweir.adapters.sandbox_link import Arena, Link
from hashweir.model import FormGroup, Scan

Why = Literal["exit", "signal", "forbidden", "deadline", "memory", "bad_reply", "recycled"]
"""Why a scan process ended or was ended. `forbidden`: the kernel killed it for a system call that it may not make."""

ENVIRONMENT: Final = {
    # Read by numpy's libraries when they are loaded: threads of a process with one job only wait for each other.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Read by glibc: keep up to 64 MiB of freed memory. Pictures come and go by the dozen of megabytes, and taking
    # those from the kernel anew each time costs a fifth of all processor time.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}
"""All that a scan process finds in its environment."""
_START_S: Final = 60.0
_END_S: Final = 5.0
_DYING_S: Final = 1.0
"""A process that hung up has so long to be gone, so that its own exit status is seen."""
_SPARE_CPU_S: Final = 2
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

Work = tuple[bytes, str | None, tuple[FormGroup, ...], bytes]
"""A content, its declared media type, the forms that are wanted, and the SHA-256 of the content."""


class Failed(Exception):
    """The process did not answer its job, and is beyond use now."""

    def __init__(self, why: Why, message: str = "") -> None:
        super().__init__(message or why)
        self.why: Why = why


class Unfenced(Failed):
    """The process runs, but not behind the fences that are required."""

    def __init__(self, level: Level, lacking: Mapping[Fence, str]) -> None:
        listed = "; ".join(f"{fence}: {why}" for fence, why in lacking.items() if fence in LEVELS[level])
        super().__init__("exit", f"scan.require_fences is {level}, which this machine does not allow ({listed})")


class ScanProcess:
    """A running scan process. Make it with `start_process`; whoever holds it must `end` it."""

    def __init__(self, popen: subprocess.Popen[bytes], link: Link, arena: Arena, errors: int) -> None:
        self._popen = popen
        self._link = link
        self._arena = arena
        self._errors = errors
        self._handle = os.pidfd_open(popen.pid)
        self._memory = os.open(f"/proc/{popen.pid}/statm", os.O_RDONLY)
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._handle, self._reap)
        self._began = self._loop.time()
        self.pid = popen.pid
        self.fences: tuple[Fence, ...] = ()
        self.lacking: dict[Fence, str] = {}
        """Fences that this machine does not allow, and why."""
        self.jobs = 0
        self.outgoing = False
        """Its successor is being started."""
        self.usable = True
        """False from the moment it ended or was told to."""
        self.when_ended: Callable[[ScanProcess, Why], None] | None = None
        """Told when the process ends by itself."""

    async def prepare(self, setup: Setup) -> None:
        """Hand over the set-up and wait until it is ready. Raises Failed, with what it wrote to stderr."""
        try:
            ready = unpack_ready(await self._link.exchange(pack(setup), _START_S))
        except (TimeoutError, OSError, EOFError, BadReply) as error:
            failed = await self._failed(error)
            raise Failed(failed.why, f"no scan process: {failed}: {self._last_words()}") from error
        self.fences, self.lacking = ready.fences, ready.lacking

    async def run(self, work: Sequence[Work], deadline_s: float) -> list[Scan | None]:
        """Scan these contents within `deadline_s` seconds of wall time; None where its memory did not suffice.

        Raises Failed where an answer is missing, or is about another upload, or a lie: then none of them counts.
        """
        numbers = range(self.jobs + 1, self.jobs + len(work) + 1)
        self.jobs = numbers[-1]
        held = len(work) == 1 and self._arena.put(work[0][0])
        cpu_s = math.ceil(deadline_s) + _SPARE_CPU_S
        jobs = [
            Job(
                number=number,
                content=None if held else content,
                size=len(content),
                media_type=media_type,
                forms=forms,
                sha256=sha256,
                cpu_s=cpu_s,
            )
            for number, (content, media_type, forms, sha256) in zip(numbers, work, strict=True)
        ]
        try:
            scans = unpack_replies(await self._link.exchange(pack(jobs), deadline_s), numbers)
            for scan, (_, _, _, sha256) in zip(scans, work, strict=True):
                if scan is not None and {o.value for o in scan.fingerprints if o.kind == "sha256"} != {sha256.hex()}:
                    raise BadReply("not the digest of what was sent")
        except (TimeoutError, OSError, EOFError, BadReply) as error:
            raise await self._failed(error) from error
        return scans

    def age_s(self) -> float:
        """Seconds since it was started."""
        return self._loop.time() - self._began

    def resident_bytes(self) -> int:
        """Memory of the machine that it takes now, by its own page table; 0 where the machine does not tell."""
        try:
            return int(os.pread(self._memory, 100, 0).split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0

    def kill(self) -> None:
        """SIGKILL, by the handle of this very process."""
        self.usable = False
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it, wait until it is gone (at most 5 s: longer only a broken kernel holds it), let go of everything."""
        self.kill()
        await self._wait(_END_S)
        await self._link.close()
        if self._errors >= 0:
            self._arena.close()
            for descriptor in (self._errors, self._memory):
                os.close(descriptor)
            self._errors = self._memory = -1

    async def _failed(self, error: Exception) -> Failed:
        if isinstance(error, TimeoutError):
            return Failed("deadline")
        if isinstance(error, BadReply):
            return Failed("bad_reply", str(error))
        await self._wait(_DYING_S)  # it hung up: it is dying, or plays dead
        self.kill()
        await self._wait(_END_S)
        return Failed(self._why(), f"exit status {self._popen.returncode}")

    def _why(self) -> Why:
        status = self._popen.returncode
        if status == -signal.SIGXCPU:
            return "deadline"
        if status == -signal.SIGSYS:
            return "forbidden"
        return "signal" if status is not None and status < 0 else "exit"

    async def _wait(self, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._ended.wait()

    def _reap(self) -> None:
        """The handle is readable: the process is gone."""
        self._loop.remove_reader(self._handle)
        self._popen.wait()
        os.close(self._handle)
        by_itself, self.usable = self.usable, False
        self._ended.set()
        if by_itself and self.when_ended is not None:
            self.when_ended(self, self._why())

    def _last_words(self) -> str:
        """The end of what it wrote to stderr, which it can only do before its lock-down."""
        size = os.fstat(self._errors).st_size
        return os.pread(self._errors, 2000, max(size - 2000, 0)).decode(errors="replace").strip()


async def start_process(setup: Setup) -> ScanProcess:
    """Start a scan process and wait until it is ready. Raises Failed.

    It inherits nothing but its end of a socket pair and the memory that contents come in: no other descriptors, no
    environment, no terminal. It dies with the
    thread that calls this, so that must be one that lives as long as the program.
    """
    process = _spawn()
    try:
        await process.prepare(setup)
    except BaseException:
        await process.end()
        raise
    return process


def _spawn() -> ScanProcess:
    ours, theirs = socket.socketpair()
    errors = os.memfd_create("stderr")
    arena = Arena()
    given = (theirs.fileno(), arena.descriptor)
    program = [sys.executable, "-I", "-m", "hashweir.adapters.sandbox_child"]
    command = [*program, str(given[0]), str(os.getpid()), str(given[1])]
    try:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=given,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # a Ctrl-C is for the parent, which drains first
        )
    except OSError:
        ours.close()
        os.close(errors)
        arena.close()
        raise
    finally:
        theirs.close()
        arena.handed_over()
    return ScanProcess(popen, Link(ours), arena, errors)
