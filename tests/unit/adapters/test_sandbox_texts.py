"""Texts that are scanned together: whatever goes wrong, each of them is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from hashweir.adapters.sandbox_process import Failed, ScanProcess, Why, Work
from hashweir.adapters.sandbox_texts import Scanned, Texts
from hashweir.model import Scan

FOUND = Scan(media_class="text", media_type="text/plain", checked={})


class Process:
    """A process that fails as it is told, once for each."""

    pid = 7

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.sizes: list[int] = []

    async def run(self, work: Sequence[Work], deadline_s: float) -> list[Scan | None]:
        """As that of a scan process."""
        self.sizes.append(len(work))
        if self.failures:
            raise self.failures.pop(0)
        return [FOUND] * len(work)


class World:
    """One process, and what was done with it."""

    def __init__(self, process: Process, *, refused: Exception | None = None) -> None:
        self.process = cast("ScanProcess", process)
        self.refused = refused
        self.back = 0
        self.lost: list[Why | None] = []
        self.texts = Texts(
            take=self.take,
            give_back=self.give_back,
            lost=lambda _, why: self.lost.append(why),
            alone=self.alone,
            at_once=1,
            deadline_s=1.0,
        )

    async def take(self) -> ScanProcess:
        """It, or the refusal, once."""
        if self.refused:
            refused, self.refused = self.refused, None
            raise refused
        return self.process

    def give_back(self, process: ScanProcess) -> None:
        """Count it."""
        self.back += 1

    async def alone(self, process: ScanProcess, work: Work) -> Scanned:
        """With no second attempt."""
        (scan,) = await process.run([work], 1.0)
        assert scan is not None
        return scan, process.pid

    async def scan(self, count: int) -> list[Scanned | BaseException | None]:
        """What becomes of so many texts that come in one turn of the loop."""
        works: list[Work] = [(b"%d" % number, None, (), b"") for number in range(count)]
        gathered = asyncio.gather(*map(self.texts.scan, works), return_exceptions=True)
        return await asyncio.wait_for(gathered, 5.0)


async def test_those_that_wait_share_a_process() -> None:
    process = Process()
    world = World(process)
    assert await world.scan(40) == [(FOUND, 7)] * 40
    assert process.sizes == [32, 8]
    assert (world.back, world.lost) == (2, [])


async def test_a_process_that_fails_gives_no_answer_to_any() -> None:
    world = World(Process(Failed("signal")))
    assert await world.scan(3) == [None] * 3
    assert (world.back, world.lost) == (0, ["signal"])


@pytest.mark.parametrize("count", [1, 3, 40])
async def test_an_error_that_nobody_foresaw_is_told_and_the_next_are_scanned(count: int) -> None:
    """Told, and not cancelled: a cancelled text would be neither judged again nor refused."""
    world = World(Process(error := KeyError("unforeseen")))
    found = await world.scan(count)
    assert found == [error] * min(count, 32) + [(FOUND, 7)] * (count - 32)
    assert await world.scan(2) == [(FOUND, 7)] * 2


async def test_where_there_is_no_process_all_are_told_and_the_next_are_scanned() -> None:
    world = World(Process(), refused=(error := RuntimeError("stopped")))
    assert await world.scan(5) == [error] * 5
    assert await world.scan(2) == [(FOUND, 7)] * 2


@pytest.mark.parametrize("turns", range(8))
async def test_whoever_comes_when_the_last_scan_ends_is_scanned(turns: int) -> None:
    """However many turns of the loop later that is."""
    world = World(Process())

    async def later() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        assert await world.scan(1) == [(FOUND, 7)]

    await asyncio.wait_for(asyncio.gather(world.scan(1), later()), 5.0)
