"""Lookups of the uploads that wait, together: one call for all of them, and a thread only where that is worth it.

A thread and back costs more than looking up a text, so what takes less than two milliseconds is done on the loop: the
first to come in a turn of the loop at once, as one that comes alone mostly does, and all others of that turn together.
What takes longer goes to the threads; while all of them are busy, or nobody has a view, what comes waits and makes one
batch, past which the first of a turn goes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Final, NamedTuple

from hashweir.model import Neighbour, Scan
from hashweir.pipeline.lookup import lookup_many
from hashweir.ports import View
from hashweir.runners import Runners

MOST: Final = 64
"""Uploads per call: a bound of how long the first of them waits for the last."""
ON_THE_LOOP_S: Final = 0.002
"""Processor time up to which a call is made on the loop. Where processors are short a thread waits for one as well as
for the interpreter: at ten million entries, 0.5 ms each, that took the slowest hundredth of lookups half as long again
(`decisions/0011-rows-that-never-change.md`)."""
_FADE: Final = 0.9
"""What a fingerprint is reckoned to cost is the dearest of the last few calls."""

_BLINK_S: Final = 0.001
"""Who got a view sooner did not wait for one."""

Answer = tuple[View, list[Neighbour], float]
"""The view, the neighbours by it, and how many seconds there was no view to judge by."""


class _Waiting(NamedTuple):
    """Who asked when (`time.perf_counter`), and how to answer."""

    scan: Scan
    asked_at: float
    answer: asyncio.Future[Answer]


class Lookups:
    """Looks up scans by the usable view of the moment. For one loop."""

    def __init__(self, usable_view: Callable[[], Awaitable[View]], threads: Executor, at_once: int = 2) -> None:
        """Of calls in `threads` at most twice `at_once` are under way: of single uploads, and of those that waited."""
        self._usable_view = usable_view
        self._threads = threads
        self._at_once = at_once
        self._waiting: deque[_Waiting] = deque()
        self._runners = Runners(self._run, at_once)
        self._in_place = 0
        """Who is looked up in its own task: not in one of the runners'."""
        self._first = True
        """Nobody was looked up on the loop yet in this turn of it."""
        self._blind_until = 0.0
        """When there was a view again, the last time that there was none."""
        self._each_s = 1.0
        """Processor time per fingerprint; it begins with a guess that sends the first call to a thread."""

    async def lookup(self, scan: Scan) -> Answer:
        """The neighbours of a scan by the view of this moment. Raises what the lookup raises."""
        asked_at = time.perf_counter()
        if self._in_place < self._at_once:
            # Not behind those who wait for a thread: after a while without a view they are hundreds.
            short = self._is_short([scan])
            if (self._first and short) or (not self._waiting and (self._first or not short)):
                return await self._look_in_place(scan, asked_at)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(scan, asked_at, answer))
        if self._in_place < self._at_once:
            self._runners.wake()  # it begins in the next turn, when all that came in this one are waiting
        return await answer

    async def _look_in_place(self, scan: Scan, asked_at: float) -> Answer:
        self._in_place += 1
        self._first = False
        asyncio.get_running_loop().call_soon(self._next_turn)
        try:
            view, found = await self._look([scan])
            return view, found[0], self._blind_s(asked_at)
        finally:
            self._in_place -= 1
            if self._waiting:
                self._runners.wake()

    async def _run(self) -> None:
        """Look up until nobody waits."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
            try:
                await self._answer_or_tell(batch)
            except asyncio.CancelledError:
                for one in batch:
                    one.answer.cancel()  # whoever waits must not wait for ever
                raise

    async def _answer_or_tell(self, batch: Sequence[_Waiting]) -> None:
        try:
            await self._answer(batch)
        except Exception:  # noqa: BLE001 - one upload's error ends at that upload: each is looked up alone
            for one in batch:
                try:
                    await self._answer([one])
                except Exception as error:  # noqa: BLE001 - told to whoever waits
                    if not one.answer.done():
                        one.answer.set_exception(error)

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        wanted = [one for one in batch if not one.answer.done()]
        view, found = await self._look([one.scan for one in wanted])
        for one, neighbours in zip(wanted, found, strict=True):
            if not one.answer.done():
                one.answer.set_result((view, neighbours, self._blind_s(one.asked_at)))

    async def _look(self, scans: Sequence[Scan]) -> tuple[View, list[list[Neighbour]]]:
        began = time.perf_counter()
        view = await self._usable_view()
        if time.perf_counter() - began > _BLINK_S:
            self._blind_until = time.perf_counter()
        if self._is_short(scans):
            found, took_s = _timed(view, scans)
        else:
            loop = asyncio.get_running_loop()
            found, took_s = await loop.run_in_executor(self._threads, _timed, view, scans)
        if count := _count(scans):
            self._each_s = max(took_s / count, _FADE * self._each_s)
        return view, found

    def _blind_s(self, asked_at: float) -> float:
        """How long there was no view for who asked then, be it that others waited for one in their stead."""
        return max(0.0, self._blind_until - asked_at)

    def _is_short(self, scans: Sequence[Scan]) -> bool:
        """Whether to look these up on the loop."""
        return _count(scans) * self._each_s <= ON_THE_LOOP_S

    def _next_turn(self) -> None:
        self._first = True


def _count(scans: Sequence[Scan]) -> int:
    return sum(len(scan.fingerprints) for scan in scans)


def _timed(view: View, scans: Sequence[Scan]) -> tuple[list[list[Neighbour]], float]:
    """The neighbours, and the processor time that they took."""
    began = time.thread_time()
    found = lookup_many(view, [(scan.fingerprints, scan.notes) for scan in scans])
    return found, time.thread_time() - began
