"""A follower under test: waiting for what it must come to, a clock that can be set, and a store that can lie."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np

from hashweir.errors import Refused, Unreachable
from hashweir.hashing import HASHERS
from hashweir.model import Entry, Kind, Set
from hashweir.ports import Chunk, Head, Position, SetsState, SlotChange, Store, View
from hashweir.shards.follow import Follower
from hashweir.shards.records import BLOCK_ROWS
from hashweir.shards.shard import Shard
from hashweir.shards.tables import rows_of

KNOWN = Set(name="known", owner="a team", origin="own-review", state="active")


class SetClock:
    """The machine's clock, and as much later as a test says."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + int(self.ahead * 1000)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class Between:
    """A `ports.Store` between a follower and the real one: it can hold everything back, fail, or change answers.

    While it is `unreadable`, its sets are.
    `standings` is what the view said at each re-read.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = False
        self.down = False
        self.unreadable = False
        self.sets_read = 0
        self.edit_changes: Callable[[list[SlotChange]], list[SlotChange]] = list
        self.edit_head: Callable[[int, Head], Head] = lambda _, head: head
        self.standings: list[str] = []
        self.follower: Follower | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def hold(self) -> None:
        """Let no further answer through to the shards' reader, and wait until none is on its way."""
        self.gate.clear()
        self.held = False
        await until(lambda: self.held)

    async def _pass(self, reader: bool = False) -> None:
        self.held = self.held or (reader and not self.gate.is_set())
        await self.gate.wait()
        if self.down:
            raise Unreachable("store_unreachable", "held back by the test")

    async def head(self, shard: int) -> Head:
        await self._pass()
        return self.edit_head(shard, await self.store.head(shard))

    async def heads(self) -> list[Head]:
        await self._pass(reader=True)
        heads = await self.store.heads()
        await self._pass(reader=True)
        return [self.edit_head(number, head) for number, head in enumerate(heads)]

    async def sums(self, shard: int, kind: Kind) -> list[int]:
        await self._pass()
        if self.follower is not None:
            self.standings.append(self.follower.known.view().standing)
        return await self.store.sums(shard, kind)

    async def read_chunk(self, shard: int, kind: Kind, number: int) -> Chunk:
        await self._pass()
        return await self.store.read_chunk(shard, kind, number)

    async def read_changes(self, after: Mapping[int, Position], wait_ms: int, most: int) -> list[SlotChange]:
        await self._pass(reader=True)
        changes = await self.store.read_changes(after, wait_ms, most)
        await self._pass(reader=True)
        return self.edit_changes(changes)

    async def read_sets(self) -> SetsState:
        self.sets_read += 1
        if self.unreadable:
            raise Refused("store_refused", "a set of a newer version")
        return await self.store.read_sets()

    async def wait_sets(self, after: Position, wait_ms: int) -> bool:
        await self._pass()
        return await self.store.wait_sets(after, wait_ms)


@asynccontextmanager
async def following(store: Any, clock: SetClock | None = None, **options: Any) -> AsyncIterator[Follower]:
    """A follower that runs inside the block and has ended, cleanly, after it."""
    follower = Follower(store, clock or SetClock(), **({"ask_s": 0.2, "scrub_round_s": 1.0} | options))
    if isinstance(store, Between):
        store.follower = follower
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object], seconds: float = 5.0) -> float:
    """Wait for a condition; the seconds that it took. Raises AssertionError when it does not come."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "did not come"
        await asyncio.sleep(0.002)
    return time.monotonic() - start


async def caught_up(follower: Follower, store: Store, seconds: float = 5.0) -> View:
    """The first usable view that has everything the store has now."""
    await until(lambda: follower.known.shards, seconds)
    heads = await store.heads()
    wanted = [heads[shard.number].position for shard in follower.known.shards]
    sets = (await store.read_sets()).position

    def there() -> bool:
        standing = follower.known.view().standing
        known = follower.known
        return (
            standing in ("verified", "degraded")
            and not follower._partial  # applied, but not yet shown
            and [shard.position for shard in known.shards] == wanted
            and known.sets_position == sets
            and not any(one.doubt or one.applied_seq != one.head_seq for one in follower.stats())
        )

    await until(there, seconds)
    return follower.known.view()


def finds(view: View, entry: Entry) -> list[Entry]:
    """The entries of this entry's item at distance 0 of its value."""
    value = HASHERS[entry.kind].parse(entry.value)
    return [found.entry for found in view.search(entry.kind, entry.form, [value], 0) if found.entry.item == entry.item]


def found_ids(view: View, entries: Iterable[Entry]) -> set[str]:
    """Ids of those entries that a search for their own value gives."""
    return {entry.id for entry in entries if any(found.id == entry.id for found in finds(view, entry))}


def flip(shard: Shard, kind: Kind, slot: int, at: int) -> None:
    """Change a byte of a slot in memory behind everybody's back: byte `at` of the image, not one of its value."""
    ref = shard.refs(kind)[slot : slot + 1]
    table = shard._tables.by_key[kind, int(ref[0]) >> 28]
    number, within = divmod(int(rows_of(ref)[0]), BLOCK_ROWS)
    block, column = table.records._blocks[number], at - table.width
    if isinstance(block, np.ndarray):
        block[within, column] ^= 0x40
        return
    for start, end, first in block.runs:
        if start <= column < end:
            block.varying[within, first + column - start] ^= 0x40
            return
    block.same[column] ^= 0x40
