"""Tasks that work off what waits: a few at a time, started when something comes, ended when nothing waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Runners:
    """At most `at_once` tasks of `work`, which goes on until it finds nothing. For one loop.

    Whoever adds to what waits calls `wake` in the same turn of the loop, and `work` returns in the turn in which it
    found nothing: so nothing is ever left waiting with nobody to work it off.
    """

    def __init__(self, work: Callable[[], Coroutine[None, None, None]], at_once: int) -> None:
        """`work` tells whoever waits what went wrong, and raises nothing but cancellation."""
        self._work = work
        self._at_once = at_once
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Something waits. One more begins in the next turn of the loop, where fewer than `at_once` are at work."""
        if len(self._tasks) < self._at_once:
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)  # it may be cancelled before it begins

    async def _run(self) -> None:
        task = asyncio.current_task()
        try:
            await self._work()
        finally:
            # Not in the task's callback: that is called a turn later, and who comes in between would wake nobody.
            if task is not None:
                self._tasks.discard(task)
