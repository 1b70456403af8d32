"""Lookups of the uploads that wait, together: one call for all of them, and a thread only where that is worth it.

A thread and back costs more than looking up a text, so what takes less than two milliseconds is done on the loop: the
first to come in a turn of the loop at once, as one that comes alone mostly does, and all others of that turn together.
What takes longer goes to the threads; while all of them are busy, what comes waits and makes one batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Final

from hashweir.model import Neighbour, Scan
from hashweir.pipeline.lookup import lookup_many
from hashweir.ports import View
from hashweir.runners import Runners

MOST: Final = 64
"""Uploads per call: a bound of how long the first of them waits for the last."""
ON_THE_LOOP_S: Final = 0.002
"""Processor time up to which a call is made on the loop: less than half of what Python lets a thread run at a time."""
_FADE: Final = 0.9
"""What a fingerprint is reckoned to cost is the dearest of the last few calls."""

Answer = tuple[View, list[Neighbour], float]
"""The view, the neighbours by it, and how many seconds there was no view to judge by."""


class Lookups:
    """Looks up scans by the usable view of the moment. For one loop."""

    def __init__(self, usable_view: Callable[[], Awaitable[View]], threads: Executor, at_once: int = 2) -> None:
        """At most `at_once` calls are made in `threads` at a time."""
        self._usable_view = usable_view
        self._threads = threads
        self._waiting: deque[tuple[Scan, asyncio.Future[Answer]]] = deque()
        self._runners = Runners(self._run, at_once)
        self._first = True
        """Nobody was looked up yet in this turn of the loop."""
        self._each_s = 1.0
        """Processor time per fingerprint; it begins with a guess that sends the first call to a thread."""

    async def lookup(self, scan: Scan) -> Answer:
        """The neighbours of a scan by the view of this moment. Raises what the lookup raises."""
        loop = asyncio.get_running_loop()
        if self._first and not self._waiting and self._is_short([scan]):
            self._first = False
            loop.call_soon(self._next_turn)
            return (await self._look([scan]))[0]
        found: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((scan, found))
        self._runners.wake()  # it begins in the next turn of the loop, when all that came in this one are waiting
        return await found

    async def _run(self) -> None:
        """Look up until nobody waits."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
            try:
                await self._answer(batch)
            except Exception:  # noqa: BLE001 - one upload's error ends at that upload: each is looked up alone
                for one in batch:
                    try:
                        await self._answer([one])
                    except Exception as error:  # noqa: BLE001 - told to whoever waits
                        if not one[1].done():
                            one[1].set_exception(error)
            except asyncio.CancelledError:
                for _, answer in batch:
                    answer.cancel()  # whoever waits must not wait for ever
                raise

    async def _answer(self, batch: Sequence[tuple[Scan, asyncio.Future[Answer]]]) -> None:
        wanted = [one for one in batch if not one[1].done()]
        for (_, answer), found in zip(wanted, await self._look([scan for scan, _ in wanted]), strict=True):
            if not answer.done():
                answer.set_result(found)

    async def _look(self, scans: Sequence[Scan]) -> list[Answer]:
        began = time.perf_counter()
        view = await self._usable_view()
        waited_s = time.perf_counter() - began
        if self._is_short(scans):
            found, took_s = _timed(view, scans)
        else:
            loop = asyncio.get_running_loop()
            found, took_s = await loop.run_in_executor(self._threads, _timed, view, scans)
        if count := _count(scans):
            self._each_s = max(took_s / count, _FADE * self._each_s)
        return [(view, neighbours, waited_s) for neighbours in found]

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
