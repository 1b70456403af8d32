"""Scan processes: decoding and hashing of untrusted bytes, away from credentials, index and network.

A pool of processes of our own. Each has a socket pair to itself and one job in flight, so that no process sees or
answers another's upload; short texts that wait are one job, and are scanned one by one where it fails. Whatever one
does (crash, hang, eat memory, lie), its upload is tried once more in a fresh process and then answered with a reason;
the parent and the other processes go on.
Long because starting, giving out and ending processes change one state between them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from hashweir.adapters.sandbox_cache import ScanCache
from hashweir.adapters.sandbox_fences import LEVELS, Fence, Level
from hashweir.adapters.sandbox_frames import Setup
from hashweir.adapters.sandbox_process import Failed, ScanProcess, Unfenced, Why, Work, start_process
from hashweir.adapters.sandbox_texts import SHORT_BYTES, Texts
from hashweir.adapters.sandbox_upload import class_of, declared, failed_scan, sha256_of
from hashweir.errors import ConfigError, HashweirError
from hashweir.model import FormGroup, Limits, MediaClass, Scan, Upload
from hashweir.ports import Load

ATTEMPTS: Final = 2
_REASONS: Final[Mapping[Why, str]] = {
    "exit": "scan_died",
    "signal": "scan_died",
    "forbidden": "scan_died",
    "deadline": "scan_deadline",
    "memory": "scan_memory",
    "bad_reply": "scan_bad_reply",
}
_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 10.0


class ProcessSandbox:
    """`ports.Sandbox` over `count` scan processes. Start it on a thread that lives as long as the program."""

    def __init__(
        self,
        *,
        scan: str,
        count: int,
        limits: Limits,
        deadline_s: Mapping[MediaClass, float],
        memory_bytes: int,
        recycle_after: int = 500,
        recycle_s: float = 0.0,
        recycle_bytes: int = 2**29,
        cache: ScanCache | None = None,
        require: Level = "none",
        path: tuple[str, ...] = (),
        when_ready: Callable[[tuple[Fence, ...], Mapping[Fence, str]], None] = lambda fences, lacking: None,
        when_ended: Callable[[Why], None] = lambda why: None,
        when_asked: Callable[[bool], None] = lambda hit: None,
    ) -> None:
        """`scan` is the dotted name `module:function` of what makes a scan function of `limits`.

        `deadline_s` holds seconds of wall time per media class, by magic bytes or else as declared; those that are
        missing get the image's. At most `count - 1` processes (and at least one) have a video at a time.
        `memory_bytes` is the address space of one process, libraries included. A process is replaced after
        `recycle_after` jobs and `recycle_s` seconds of service, whichever comes last, or where more than
        `recycle_bytes` of memory stay with it. `cache` may be shared by several; without one, every upload is scanned.
        No process serves that does not reach the level `require`.
        `path` holds directories in which the module is looked for before the installed packages.

        `when_ready` is told once, at the start, what fences stand and why others don't; `when_ended` of every
        process that ended or was ended, and why; `when_asked` of every scan, whether the cache had it.
        """
        self._setup = Setup(scan=scan, path=path, limits=limits, memory_bytes=memory_bytes)
        self._count = count
        self._deadline_s = deadline_s
        self._recycle_after = recycle_after
        self._recycle_s = recycle_s
        self._recycle_bytes = recycle_bytes
        self._cache = cache if cache is not None else ScanCache(0)
        self._require = require
        self._when_ready = when_ready
        self._when_ended = when_ended
        self._when_asked = when_asked
        self._idle: asyncio.Queue[ScanProcess | None] = asyncio.Queue()
        self._all: set[ScanProcess] = set()
        self._busy: set[ScanProcess] = set()
        self._retired: set[ScanProcess] = set()
        """Busy ones whose successor is ready."""
        self._starting: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._stopping = False
        # Videos take minutes where pictures take milliseconds: one process is always left to the others.
        self._videos = asyncio.Semaphore(max(1, count - 1))
        text_s = deadline_s.get("text", deadline_s["image"])
        self._texts = Texts(
            take=self._take,
            give_back=self._give_back,
            lost=self._lost,
            alone=lambda process, work: self._scan(process, work, text_s),
            at_once=count,
            deadline_s=text_s,
        )

    @property
    def fences(self) -> tuple[Fence, ...]:
        """The fences that every ready process stands behind."""
        each = [set(process.fences) for process in self._all]
        return tuple(sorted(set.intersection(*each))) if each else ()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of all that are ready, in ascending order."""
        return tuple(sorted(process.pid for process in self._all if process.usable))

    async def start(self) -> None:
        """Start all processes at once.

        Raises HashweirError(scan_died) with the last words of one that failed, ConfigError where this machine does
        not allow the fences that are required.
        """
        outcomes = await asyncio.gather(*(self._start_one() for _ in range(self._count)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                await self.stop()
                if isinstance(outcome, Unfenced):
                    raise ConfigError(str(outcome)) from outcome
                if isinstance(outcome, Failed | OSError):
                    raise HashweirError("scan_died", str(outcome)) from outcome
                raise outcome
            self._idle.put_nowait(outcome)
        self._when_ready(self.fences, {why: text for one in self._all for why, text in one.lacking.items()})

    async def scan(self, upload: Upload, forms: tuple[FormGroup, ...] = ()) -> Scan:
        """Scan `upload.content` in a free process, waiting for one; `forms` are computed beside the canonical one.

        Always answers: what befell the second attempt is the scan's reason, and the exact fingerprints are there
        all the same. An equal upload that was scanned lately is answered from the cache. Cancelling ends the
        process that has the job, where that is no short text's. Raises RuntimeError once `stop` was called.
        """
        if upload.content is None:
            raise ValueError("an upload without content can't be scanned")
        media_class = class_of(upload.content, upload.media_type)
        deadline_s = self._deadline_s.get(media_class or "image", self._deadline_s["image"])
        async with self._videos if media_class == "video" else contextlib.nullcontext():
            return await self._ask(upload.content, upload.media_type, media_class, forms, deadline_s)

    async def _ask(
        self,
        content: bytes,
        media_type: str | None,
        media_class: MediaClass | None,
        forms: tuple[FormGroup, ...],
        deadline_s: float,
    ) -> Scan:
        """The cache's answer, or else a process's."""
        self._require_running()
        key = (sha256 := await sha256_of(content), declared(media_type), forms)
        known = self._cache.get(key)
        if known is None and media_class == "text" and len(content) <= SHORT_BYTES:
            scanned = await self._texts.scan((content, media_type, forms, sha256))
            if scanned is not None:
                self._when_asked(False)
                self._cache.put(key, *scanned)
                return scanned[0]
        if known is None:
            self._waiting += 1
            try:
                process = await self._take()
            finally:
                self._waiting -= 1
            known = self._cache.get(key)  # of a flood of copies, all but the first wait until it is scanned
            if known is not None:
                self._give_back(process)
        self._when_asked(known is not None)
        if known is not None:
            return known
        scan, maker = await self._scan(process, (content, media_type, forms, sha256), deadline_s)
        self._cache.put(key, scan, maker)
        return scan

    async def _scan(self, process: ScanProcess, work: Work, deadline_s: float) -> tuple[Scan, int]:
        """Scan in this process, which is busy, or else in a fresh one; and the id of the one that answered."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                (scan,) = await process.run([work], deadline_s)
                if scan is None:
                    raise Failed("memory")
            except Failed as failed:
                why = failed.why
                self._drop(process, why)
                self._require_running()
                if attempt < ATTEMPTS:
                    process = await self._fresh()
                else:
                    self._grow()
            except BaseException:
                self._drop(process, None)
                self._grow()
                raise
            else:
                self._give_back(process)
                # Its own word is 1, or it would not have been believed.
                return scan if attempt == 1 else msgspec.structs.replace(scan, attempts=attempt), process.pid
        return await asyncio.to_thread(failed_scan, *work[:2], _REASONS[why], ATTEMPTS), 0

    def load(self) -> Load:
        """How busy it is now."""
        ready = [process for process in self._all if process.usable]
        resident = sum(process.resident_bytes() for process in ready)
        return Load(len(ready), len(self._busy), self._waiting + len(self._texts), resident)

    async def stop(self) -> None:
        """Kill all processes, each by its own handle, in at most some seconds. Scans in flight raise RuntimeError."""
        self._stopping = True
        for task in self._starting:
            task.cancel()
        for process in tuple(self._all):
            self._drop(process, None)
        await asyncio.gather(*self._starting, *self._ending, return_exceptions=True)
        self._idle.put_nowait(None)

    async def _take(self) -> ScanProcess:
        """An idle process, now busy."""
        while True:
            self._require_running()
            process = await self._idle.get()
            if process is None:
                self._idle.put_nowait(None)  # for the next who waits
            elif process.usable:
                self._busy.add(process)
                return process

    async def _fresh(self) -> ScanProcess:
        """A newly started process, busy: what the upload before did to the old one can't matter."""
        claim: asyncio.Future[ScanProcess] = asyncio.get_running_loop().create_future()
        self._grow(claim=claim)
        try:
            return await claim
        except asyncio.CancelledError:
            if claim.done() and not claim.cancelled():
                self._give_back(claim.result())
            self._require_running()
            raise

    def _give_back(self, process: ScanProcess) -> None:
        self._busy.discard(process)
        if not process.usable:  # it ended right after its answer
            self._drop(process, "exit")
            self._grow()
        elif process in self._retired or len(self._all) - len(self._retired) > self._count:
            self._drop(process, "recycled")
        else:
            served = process.jobs >= self._recycle_after and process.age_s() >= self._recycle_s
            if not process.outgoing and (served or process.resident_bytes() > self._recycle_bytes):
                process.outgoing = True
                self._grow(successor_of=process)
            self._idle.put_nowait(process)

    def _drop(self, process: ScanProcess, why: Why | None) -> None:
        """End a process, counted where there is a reason. Nothing is started in its place."""
        if process not in self._all:
            return
        if why is not None and not self._stopping:
            self._when_ended(why)
            if why != "recycled":
                self._cache.forget(process.pid)
        for held in (self._all, self._busy, self._retired):
            held.discard(process)
        process.kill()
        task = asyncio.create_task(process.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _lost(self, process: ScanProcess, why: Why | None) -> None:
        """End a process in the middle of its work, and start another in its place."""
        self._drop(process, why)
        self._grow()

    def _ended(self, process: ScanProcess, why: Why) -> None:
        """A process ended by itself. Where it had a job, that job's scan sees to it."""
        if process in self._all and process not in self._busy and not self._stopping:
            self._drop(process, why)
            self._grow()

    def _grow(
        self, *, claim: asyncio.Future[ScanProcess] | None = None, successor_of: ScanProcess | None = None
    ) -> None:
        """Start one more in the background: for whoever claims it, or for all.

        A successor is started before its predecessor goes, for starting takes as long as some dozens of scans.
        """
        if self._stopping:
            return
        task = asyncio.create_task(self._start_surely(claim, successor_of))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        if claim is not None:
            task.add_done_callback(lambda _: claim.cancel())

    async def _start_surely(self, claim: asyncio.Future[ScanProcess] | None, successor_of: ScanProcess | None) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                process = await self._start_one()
                break
            except Failed as failed:
                self._when_ended(failed.why)
            except OSError:
                self._when_ended("exit")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if successor_of in self._busy:
            self._retired.add(successor_of)
        elif successor_of in self._all:
            self._drop(successor_of, "recycled")
        if claim is not None and not claim.done():
            self._busy.add(process)
            claim.set_result(process)
        else:
            self._give_back(process)

    async def _start_one(self) -> ScanProcess:
        process = await start_process(self._setup)
        if not LEVELS[self._require] <= set(process.fences):
            await process.end()
            raise Unfenced(self._require, process.lacking)
        self._all.add(process)
        process.when_ended = self._ended
        return process

    def _require_running(self) -> None:
        if self._stopping:
            raise RuntimeError("the scan processes were stopped")
