"""Short texts are scanned together: to hash one takes less time than to wake a process for it."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from hashweir.adapters.sandbox_process import Failed, ScanProcess, Why, Work
from hashweir.model import Scan
from hashweir.runners import Runners

SHORT_BYTES: Final = 8 * 1024
MOST: Final = 32
"""Texts that one process is given at once: some 5 ms of work for posts of 1 KB."""

Scanned = tuple[Scan, int]
"""A scan, and the id of the process that made it."""
Waiting = tuple[Work, asyncio.Future[Scanned | None]]


class Texts:
    """Texts that wait for a process, and are given to it together."""

    def __init__(
        self,
        *,
        take: Callable[[], Awaitable[ScanProcess]],
        give_back: Callable[[ScanProcess], None],
        lost: Callable[[ScanProcess, Why | None], None],
        alone: Callable[[ScanProcess, Work], Awaitable[Scanned]],
        at_once: int,
        deadline_s: float,
    ) -> None:
        """`take` waits for a free process, `lost` is told of one that failed; at most `at_once` are asked for.

        `alone` scans the one text that waits, with all the attempts that an upload has.
        """
        self._take, self._give_back, self._lost, self._alone = take, give_back, lost, alone
        self._at_once, self._deadline_s = at_once, deadline_s
        self._waiting: deque[Waiting] = deque()
        self._runners = Runners(self._run, at_once)

    def __len__(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    async def scan(self, work: Work) -> Scanned | None:
        """Scan a text with others. None where their process failed, and nobody knows for which of them.

        Cancelling gives up the answer; the process goes on. Raises what `take` raises, and what no process foresaw.
        """
        scanned: asyncio.Future[Scanned | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, scanned))
        self._runners.wake()  # it begins in the next turn of the loop, when all that came in this one are waiting
        return await scanned

    async def _run(self) -> None:
        """Scan until nobody waits."""
        while self._waiting:
            try:
                process = await self._take()
            except Exception as error:  # noqa: BLE001 - told to all who wait
                _tell(self._waiting, error)
                self._waiting.clear()
                return
            share = math.ceil(len(self._waiting) / self._at_once)
            batch = [self._waiting.popleft() for _ in range(min(MOST, share))]
            batch = [one for one in batch if not one[1].done()]
            try:
                if len(batch) == 1:
                    scans: list[Scanned | None] = [await self._alone(process, batch[0][0])]
                else:
                    scans = await self._together(process, [work for work, _ in batch])
            except Exception as error:  # noqa: BLE001 - told to those whose scan it was: each is judged again, or refused
                _tell(batch, error)
            else:
                for (_, scanned), scan in zip(batch, scans, strict=True):
                    if not scanned.done():
                        scanned.set_result(scan)

    async def _together(self, process: ScanProcess, works: list[Work]) -> list[Scanned | None]:
        try:
            scans = await process.run(works, self._deadline_s) if works else []
        except Failed as failed:
            self._lost(process, failed.why)
            return [None] * len(works)
        except Exception:
            self._lost(process, None)
            raise
        if None in scans:
            self._lost(process, "memory")
        else:
            self._give_back(process)
        return [None if scan is None else (scan, process.pid) for scan in scans]


def _tell(waiting: Iterable[Waiting], error: Exception) -> None:
    for _, scanned in waiting:
        if not scanned.done():
            scanned.set_exception(error)
