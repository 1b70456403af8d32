"""Read chunks: all of them in the beginning, later those that differ from the store's when a shard is doubtful."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hashweir.model import KINDS, Kind
from hashweir.ports import Chunk, Clock, Head, Position, SlotChange, Store
from hashweir.shards._sums import chunk_sum
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES
from hashweir.shards.shard import Gap, Shard
from hashweir.shards.trust import Alarms, Followed

_NOTHING = Chunk(slots=b"", sides=b"", sum=0, position=Position(epoch=0, seq=0))
_TOGETHER = 8
"""Chunks (105 KB each) that are read at once, and summed up in one trip to a thread."""
_AHEAD = 3
"""Such groups on their way while one is applied."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One chunk to be read."""

    one: Followed
    kind: Kind
    number: int
    at_ms: int


class Rereader:
    """Brings chunks from the store into the shards."""

    def __init__(self, store: Store, clock: Clock, alarms: Alarms) -> None:
        """All three belong to the follower."""
        self.applied: list[SlotChange] = []
        """What was applied and not yet told: read as a change, or found by a re-read."""
        self._store, self._clock, self._alarms = store, clock, alarms

    def take_applied(self) -> list[SlotChange]:
        """What was applied since the last time."""
        applied, self.applied = self.applied, []
        return applied

    async def reread(self, doubtful: Sequence[Followed]) -> None:
        """Read the chunks of these shards that differ. Afterwards their streams go on from the heads read first."""
        asked = await asyncio.gather(*(self._ask(one) for one in doubtful))
        verdicts, wanted = list[tuple[Followed, str]](), list[Wanted]()
        for one, (head, sums) in zip(doubtful, asked, strict=True):
            verdict, differing = await self._prepare(one, head, sums)
            verdicts.append((one, verdict))
            wanted += [Wanted(one, kind, number, head.time_ms) for kind in KINDS for number in differing[kind]]
            await asyncio.sleep(0)  # here and below: whoever shares the loop has a turn in between
        await self._read_all(wanted)
        for one, verdict in verdicts:
            for _ in one.shard.settle():
                await asyncio.sleep(0)
            if one.shard.kept and verdict == "suspect":
                one.rewound = True
            one.was_reread(self._clock.monotonic())
            one.shard.kept_digest()  # a millisecond for many of them, better here than for all shards at once
            await asyncio.sleep(0)

    async def _ask(self, one: Followed) -> tuple[Head, dict[Kind, list[int]]]:
        head = await self._store.head(one.shard.number)
        sums = await asyncio.gather(*(self._store.sums(one.shard.number, kind) for kind in KINDS))
        return head, dict(zip(KINDS, sums, strict=True))

    async def _prepare(
        self, one: Followed, head: Head, sums: dict[Kind, list[int]]
    ) -> tuple[str, dict[Kind, list[int]]]:
        """Begin again at this head: whose word counts, and which chunks there are to be read."""
        shard, verdict = one.shard, one.judge_before_reread(head)
        differing = {kind: shard.differing(kind, sums[kind]) for kind in KINDS}
        if verdict == "accepted":
            for kind, at, images, sides in shard.release():
                for slot, image, side in zip(at.tolist(), images, sides, strict=True):
                    self._note(shard, kind, slot, image.tobytes(), side.tobytes(), head.time_ms)
                await asyncio.sleep(0)
            self._alarms.tell("store_epoch", shard.number, "the store has a new epoch; its entries were taken over")
        if verdict == "suspect":
            for kind, chunks in differing.items():
                for chunk in chunks:
                    shard.keep(kind, chunk)
                    await asyncio.sleep(0)
        shard.rebase(head.position)
        for kind in KINDS:
            there = len(sums[kind])
            for number in reversed(range(there, len(shard.sums(kind)))):
                self.put(Wanted(one, kind, number, head.time_ms), _NOTHING, 0)
                await asyncio.sleep(0)
            differing[kind] = [number for number in differing[kind] if number < there]
        return verdict, differing

    async def _read_all(self, wanted: Sequence[Wanted]) -> None:
        """Read and put chunks, in order, some groups ahead of the one that is put."""
        groups = deque(wanted[at : at + _TOGETHER] for at in range(0, len(wanted), _TOGETHER))
        running = deque[tuple[Sequence[Wanted], asyncio.Task[list[tuple[Chunk, int | None]]]]]()
        try:
            while groups or running:
                while groups and len(running) < _AHEAD:
                    group = groups.popleft()
                    running.append((group, asyncio.create_task(self._read(group))))
                group, reading = running[0]
                for what, (chunk, total) in zip(group, await reading, strict=True):
                    self._judge(what, damaged=total != chunk.sum)
                    # A chunk that is gone from the store is no reason to cut off what comes after it.
                    if total is not None and (chunk.slots or total == chunk.sum):
                        self.put(what, chunk, total)
                    await asyncio.sleep(0)
                running.popleft()
        finally:
            for _, reading in running:
                reading.cancel()
            await asyncio.gather(*(reading for _, reading in running), return_exceptions=True)

    async def _read(self, group: Sequence[Wanted]) -> list[tuple[Chunk, int | None]]:
        chunks = await asyncio.gather(
            *(self._store.read_chunk(what.one.shard.number, what.kind, what.number) for what in group)
        )
        pairs = list(zip(chunks, group, strict=True))
        totals = await asyncio.to_thread(lambda: [sum_of(chunk, what.number) for chunk, what in pairs])
        return list(zip(chunks, totals, strict=True))

    def put(self, what: Wanted, chunk: Chunk, total: int) -> None:
        """Put a chunk with the sum of its bytes in place of the one there, and remember what it changed."""
        shard, kind = what.one.shard, what.kind
        try:
            changed = shard.replace(kind, what.number, chunk, total)
        except Gap:
            return  # the store was written meanwhile; the total will not fit, and the next attempt will see it
        if not what.one.loaded:
            return
        first = what.number * CHUNK_SLOTS
        for slot in changed:
            if slot < shard.count(kind):
                at = slot - first
                image = chunk.slots[at * SLOT_BYTES : (at + 1) * SLOT_BYTES]
                side = chunk.sides[at * SIDE_BYTES : (at + 1) * SIDE_BYTES]
                self._note(shard, kind, slot, image, side, what.at_ms)

    def _note(self, shard: Shard, kind: Kind, slot: int, image: bytes, side: bytes, at_ms: int) -> None:
        position = shard.position
        self.applied.append(
            SlotChange(shard=shard.number, position=position, kind=kind, slot=slot, image=image, side=side, at_ms=at_ms)
        )

    def _judge(self, what: Wanted, *, damaged: bool) -> None:
        self._alarms.judge("store_damaged", what.one.shard.number, damaged, damage_text(what.kind, what.number))


def sum_of(chunk: Chunk, number: int) -> int | None:
    """The sum of a chunk's bytes; None where they are not slots and side records, as many of the one as the other."""
    try:
        return chunk_sum(number * CHUNK_SLOTS, chunk.slots, chunk.sides)
    except ValueError:
        return None


def damage_text(kind: Kind, number: int) -> str:
    """What the alarm `store_damaged` says."""
    return f"{kind} chunk {number} does not fit its sum: run `hashweir sets repair`"
