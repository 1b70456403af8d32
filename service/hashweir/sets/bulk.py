"""Bulk import: changes gathered by shard and sent as full operations of one shard, two at once.

One operation of 256 for one shard costs the store one answer to remember and few calls; split over all shards it would
cost sixteen. Reading goes on while the store works. Which changes share an operation follows from the file alone, so
an import that was cut short, at whatever point, is completed by repeating it under its id.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final, Self

import numpy as np

from hashweir.errors import Unreachable
from hashweir.model import KINDS, Set
from hashweir.ports import Applied, EditResult, PackedPart, Store
from hashweir.sets.validate import Change, Report
from hashweir.sets.write import (
    MOST_CHANGES,
    Publish,
    Written,
    derived,
    event_of,
    patiently,
    put_batches,
    repeatable,
)
from hashweir.shards.layout import NAME_BYTES, SIDE_BYTES, pack, shard_of

AT_ONCE: Final = 2
"""Operations under way. It keeps the store busy while this process reads, and bounds how long a single change of
somebody else waits behind them, some 3 ms each: four gave no more a second and twice the wait."""
_TIME = slice(8, 16)
"""Where a side record holds its time. A repeat is later and still the same operation."""


class BulkWriter:
    """Writes any number of changes as operations of 256 under one id and keeps the count."""

    def __init__(
        self, store: Store, principal: str, into: Set, operation: str, time_ms: int, publish: Publish | None
    ) -> None:
        self._store, self._principal, self._into, self._operation = store, principal, into, operation
        self._time_ms, self._publish = time_ms, publish
        self._batches: set[str] = set()
        self._gathered: list[list[Change]] = [[] for _ in range(store.shards)]
        self._sent: Counter[int] = Counter()
        self._under_way: set[asyncio.Task[None]] = set()
        self.outcomes: Counter[EditResult] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Send the rest and wait for every answer; after an error, leave nothing under way. Raises as `write`."""
        try:
            if error is None:
                for shard, gathered in enumerate(self._gathered):
                    if gathered:
                        await self._send(shard)
                while self._under_way:
                    await self._one_done()
        except BaseException as later:
            error = later
            raise
        finally:
            await self._end(cancel=error is not None and not isinstance(error, Exception))
            if isinstance(error, Unreachable):
                raise repeatable(error, self._operation, self.outcomes.total()) from error

    async def write(self, changes: Sequence[Change]) -> None:
        """Take changes; send what fills an operation. Raises Unreachable (the context says how to go on), Refused."""
        await put_batches(self._store, changes, self._batches)
        for change in changes:
            shard = shard_of(change.value, self._store.shards)
            self._gathered[shard].append(change)
            if len(self._gathered[shard]) == MOST_CHANGES:
                await self._send(shard)

    def answer(self, report: Report) -> Written:
        """What was done in all."""
        return Written(
            operation=self._operation,
            set=self._into.name,
            outcomes={result: count for result, count in sorted(self.outcomes.items()) if count},
            report=report,
            operations=self._sent.total(),
        )

    async def _send(self, shard: int) -> None:
        changes, self._gathered[shard] = self._gathered[shard], []
        place = shard.to_bytes(4, "big") + self._sent[shard].to_bytes(8, "big")
        self._sent[shard] += 1
        part = packed(changes, self._into.number, shard, self._principal, self._operation, place)
        while len(self._under_way) >= AT_ONCE:
            await self._one_done()
        self._under_way.add(asyncio.create_task(self._apply(part, changes)))
        await asyncio.sleep(0)  # so that it is on its way before the next one is read

    async def _apply(self, part: PackedPart, changes: Sequence[Change]) -> None:
        async def once() -> Applied:
            return await self._store.apply_packed(part)

        done = await patiently(once)
        self.outcomes.update(done.results)
        if self._publish:
            pairs = zip(changes, done.results, strict=True)
            found = (event_of(c.entry, r, self._into, self._operation, self._time_ms) for c, r in pairs)
            if events := [event for event in found if event]:
                await self._publish(events)

    async def _one_done(self) -> None:
        done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        for error in [task.exception() for task in done]:
            if error:
                raise error

    async def _end(self, *, cancel: bool) -> None:
        """Let what is under way end, cancelled where we are. The first error was told, those after it are not."""
        for task in self._under_way:
            if cancel:
                task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


def packed(
    changes: Sequence[Change], set_number: int, shard: int, principal: str, operation: str, place: bytes
) -> PackedPart:
    """1-256 changes of one shard as bytes. The id they go under follows from the place and from all but the time."""
    verbs, slots, sides = bytearray(), [], []
    names: list[tuple[int, str]] = []
    for at, change in enumerate(changes):
        entry = change.entry
        verbs += b"A" if change.verb == "add" else b"W"
        verbs.append(KINDS.index(entry.kind) + 1)
        slot, side = pack(entry, set_number, change.value)
        slots.append(slot)
        sides.append(side)
        if len(entry.item_name) > NAME_BYTES or len(entry.item_name.encode()) > NAME_BYTES:
            names.append((at, entry.item_name))
    all_slots, all_sides = b"".join(slots), b"".join(sides)
    undated = np.frombuffer(all_sides, np.uint8).reshape(-1, SIDE_BYTES).copy()
    undated[:, _TIME] = 0
    return PackedPart(
        operation=derived(operation, place, bytes(verbs), all_slots, undated.tobytes()),
        shard=shard,
        principal=principal,
        verbs=bytes(verbs),
        slots=all_slots,
        sides=all_sides,
        names=tuple(names),
    )
