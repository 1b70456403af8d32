"""Entries that come and go while uploads are judged, and what a verdict may therefore say of them.

A ledger of every add and withdrawal: when it was asked for and when it was answered. A verdict's `as_of` is the
store's time up to which all its knowledge is complete: a change answered before it must be in, one asked for after
the verdict was written can't be, between the two both are right.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.errors import Unreachable
from hashweir.sets import commands
from hashweir.sets.read import Row
from tests.system.rig import Rig

SLACK_MS = 2
"""Clocks are read in whole milliseconds, on both sides."""


@dataclass
class Ledger:
    """For each value: (asked, answered, present afterwards), in order; an answer of None never came."""

    changes: dict[str, list[tuple[float, float | None, bool]]] = field(default_factory=lambda: defaultdict(list))

    def allowed(self, value: str, as_of_ms: int, written_ms: int) -> set[bool]:
        """Whether the entry may be (True), may be missing (False), or both, in a verdict."""
        states = {False}
        for asked, answered, present in self.changes[value]:
            if asked > written_ms + SLACK_MS:
                break
            if answered is not None and answered < as_of_ms - SLACK_MS:
                states = {present}
            else:
                states.add(present)
        return states


class Churn:
    """One warm client that adds and withdraws entries of one set until it is stopped."""

    def __init__(self, rig: Rig, name: str, values: Sequence[str], seed: int) -> None:
        self.ledger = Ledger()
        self._store = RedisStore(Access(url=rig.store_url), rig.name)
        self._set = name
        self._values = list(values)
        self._chance = random.Random(seed)
        self.done = 0

    async def run(self, stop: asyncio.Event, pause_s: float = 0.05) -> None:
        """Change one entry after the other; while the store is away, repeat under the same operation id."""
        await self._store.open()
        present = dict.fromkeys(self._values, False)
        try:
            while not stop.is_set():
                value = self._chance.choice(self._values)
                present[value] = not present[value]
                await self._change(value, present[value], f"churn-{self.done}", stop)
                self.done += 1
                await asyncio.sleep(pause_s)
        finally:
            await self._store.close()

    async def _change(self, value: str, add: bool, operation: str, stop: asyncio.Event) -> None:
        asked = time.time() * 1000
        place = len(self.ledger.changes[value])
        self.ledger.changes[value].append((asked, None, add))
        row = Row(kind="pdq", value=value, item=value)
        while True:
            try:
                if add:
                    await commands.add(self._store, "test", self._set, [row], operation=operation)
                else:
                    await commands.withdraw(self._store, "test", self._set, [row], reason="t", operation=operation)
            except Unreachable:
                if stop.is_set():
                    return
                await asyncio.sleep(0.1)
            else:
                self.ledger.changes[value][place] = (asked, time.time() * 1000, add)
                return
