"""Short texts are scanned together: to hash one takes less time than to wake a process for it."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from hashweir.adapters.sandbox_process import Failed, ScanProcess, Why, Work
from hashweir.model import Scan

SHORT_BYTES: Final = 8 * 1024
MOST: Final = 32
"""Texts that one process is given at once: some 5 ms of work for posts of 1 KB."""

Scanned = tuple[Scan, int]
"""A scan, and the id of the process that made it."""


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
        self._waiting: deque[tuple[Work, asyncio.Future[Scanned | None]]] = deque()
        self._runners: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    async def scan(self, work: Work) -> Scanned | None:
        """Scan a text with others. None where their process failed, and nobody knows for which of them.

        Cancelling gives up the answer; the process goes on. Raises what `take` raises.
        """
        scanned: asyncio.Future[Scanned | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, scanned))
        if len(self._runners) < self._at_once:
            # It begins in the next turn of the loop, when all that came in this one are waiting.
            runner = asyncio.create_task(self._run())
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)
        return await scanned

    async def _run(self) -> None:
        """Scan until nobody waits."""
        while self._waiting:
            try:
                process = await self._take()
            except BaseException as error:
                while self._waiting:
                    _, scanned = self._waiting.popleft()
                    if isinstance(error, Exception) and not scanned.done():
                        scanned.set_exception(error)
                    scanned.cancel()
                if isinstance(error, Exception):
                    return
                raise
            share = math.ceil(len(self._waiting) / self._at_once)
            batch = [self._waiting.popleft() for _ in range(min(MOST, share))]
            batch = [one for one in batch if not one[1].done()]
            if len(batch) == 1:
                await self._scan_alone(process, *batch[0])
            else:
                await self._scan(process, batch)

    async def _scan_alone(self, process: ScanProcess, work: Work, scanned: asyncio.Future[Scanned | None]) -> None:
        try:
            answer = await self._alone(process, work)
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            if not scanned.done():
                scanned.set_exception(error)
        except BaseException:
            scanned.cancel()
            raise
        else:
            if not scanned.done():
                scanned.set_result(answer)

    async def _scan(self, process: ScanProcess, batch: list[tuple[Work, asyncio.Future[Scanned | None]]]) -> None:
        scans: list[Scan | None] = [None] * len(batch)
        try:
            if batch:
                scans = await process.run([work for work, _ in batch], self._deadline_s)
        except Failed as failed:
            self._lost(process, failed.why)
        except BaseException:
            self._lost(process, None)
            for _, scanned in batch:
                scanned.cancel()
            raise
        else:
            if None in scans:
                self._lost(process, "memory")
            else:
                self._give_back(process)
        for (_, scanned), scan in zip(batch, scans, strict=True):
            if not scanned.done():
                scanned.set_result(None if scan is None else (scan, process.pid))
