"""Nobody is left waiting, at whatever moment they come."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from hashweir.runners import Runners


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(1, 3), st.integers(0, 3))
def test_all_that_waits_is_worked_off(turns: list[int], at_once: int, slow: int) -> None:
    """Each comes after so many turns of the loop; a piece of work takes `slow` turns."""

    async def scenario() -> None:
        waiting: list[asyncio.Future[None]] = []
        working, most = 0, 0

        async def work() -> None:
            nonlocal working, most
            working, most = working + 1, max(most, working + 1)
            while waiting:
                batch = waiting.copy()
                waiting.clear()
                for _ in range(slow):
                    await asyncio.sleep(0)
                for one in batch:
                    one.set_result(None)
            working -= 1

        runners = Runners(work, at_once)

        async def come(after: int) -> None:
            for _ in range(after):
                await asyncio.sleep(0)
            one: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting.append(one)
            runners.wake()
            await one

        async with asyncio.timeout(5):
            await asyncio.gather(*map(come, turns))
        assert most <= at_once

    asyncio.run(scenario())


async def test_one_that_was_cancelled_is_replaced() -> None:
    """Before it began, and in the middle of its work."""
    begun = asyncio.Event()
    worked = 0

    async def work() -> None:
        nonlocal worked
        worked += 1
        begun.set()
        await asyncio.Event().wait()

    runners = Runners(work, 1)
    runners.wake()
    (first,) = asyncio.all_tasks() - {asyncio.current_task()}
    first.cancel()
    await asyncio.wait([first])
    assert worked == 0
    for expected in (1, 2):
        begun.clear()
        runners.wake()
        await asyncio.wait_for(begun.wait(), 5)
        assert worked == expected
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        task.cancel()
        await asyncio.wait([task])
