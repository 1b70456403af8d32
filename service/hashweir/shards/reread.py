"""Read chunks again: those that differ when a shard is doubtful, and one after the other to find silent damage."""

from __future__ import annotations

import asyncio

from hashweir.model import KINDS, Kind
from hashweir.ports import Chunk, Clock, Position, SlotChange, Store
from hashweir.shards._sums import chunk_sum
from hashweir.shards.known import LiveKnown
from hashweir.shards.layout import CHUNK_SLOTS
from hashweir.shards.shard import Gap
from hashweir.shards.trust import Alarms, Followed

_NOTHING = Chunk(slots=b"", sides=b"", sum=0, position=Position(epoch=0, seq=0))


class Rereader:
    """Brings chunks from the store into `known`."""

    def __init__(self, store: Store, known: LiveKnown, clock: Clock, alarms: Alarms) -> None:
        """All four belong to the follower."""
        self.applied: list[SlotChange] = []
        """What was applied and not yet told: read as a change, or found by a re-read."""
        self._store, self._known, self._clock, self._alarms = store, known, clock, alarms

    def take_applied(self) -> list[SlotChange]:
        """What was applied since the last time."""
        applied, self.applied = self.applied, []
        return applied

    async def reread(self, one: Followed) -> None:
        """Read the chunks that differ. Afterwards the stream goes on from the head that was read first."""
        shard, number = one.shard, one.shard.number
        head = await self._store.head(number)
        verdict = one.judge_before_reread(head)
        sums = dict(zip(KINDS, await asyncio.gather(*(self._store.sums(number, kind) for kind in KINDS)), strict=True))
        differing = {kind: shard.differing(kind, sums[kind]) for kind in KINDS}
        if verdict == "accepted":
            shard.release()
            self._alarms.tell("store_epoch", number, "the store has a new epoch; its entries were taken over")
        if verdict == "suspect":
            for kind, chunks in differing.items():
                for chunk in chunks:
                    shard.keep(kind, chunk)
        shard.rebase(head.position)
        for kind in KINDS:
            gone = [chunk for chunk in differing[kind] if chunk >= len(sums[kind])]
            for chunk in sorted(gone, reverse=True):
                self._replace(one, kind, chunk, _NOTHING, head.time_ms)
            for chunk in differing[kind][: len(differing[kind]) - len(gone)]:
                self._replace(one, kind, chunk, await self._store.read_chunk(number, kind, chunk), head.time_ms)
        if shard.settle() and verdict == "suspect":
            one.rewound = True
        one.was_reread(self._clock.monotonic())

    def _replace(self, one: Followed, kind: Kind, number: int, chunk: Chunk, at_ms: int) -> None:
        shard = one.shard
        try:
            changed = shard.replace(kind, number, chunk)
        except Gap:
            return  # the store was written meanwhile; the total will not fit, and the next attempt will see it
        if chunk.slots:
            self._judge(shard.number, kind, number, damaged=shard.sums(kind)[number] != chunk.sum)
        for slot in changed if one.loaded else ():
            if slot < shard.count(kind):
                image, side = shard.slot(kind, slot)
                self.applied.append(
                    SlotChange(
                        shard=shard.number,
                        position=shard.position,
                        kind=kind,
                        slot=slot,
                        image=image,
                        side=side,
                        at_ms=at_ms,
                    )
                )

    async def scrub(self, one: Followed, kind: Kind, number: int) -> bool:
        """Compare one chunk with the store, byte for byte; whether this copy was mended.

        A chunk that is damaged in the store raises an alarm, and the verified copy here is kept.
        """
        shard = one.shard
        chunk = await self._store.read_chunk(shard.number, kind, number)
        if one.doubt or chunk.position != shard.position or number >= len(shard.sums(kind)):
            return False  # not of one moment; the next round will be
        ours = shard.chunk(kind, number)
        damaged = mended = False
        if ours != (chunk.slots, chunk.sides):
            damaged = chunk_sum(number * CHUNK_SLOTS, chunk.slots, chunk.sides) != shard.sums(kind)[number]
            mended = not damaged and not shard.intact(kind, number)
            if mended:
                self._alarms.tell("copy_damaged", shard.number, f"{kind} chunk {number} of this copy was damaged")
                self._replace(one, kind, number, chunk, one.as_of_ms)
        self._judge(shard.number, kind, number, damaged=damaged)
        return mended

    def _judge(self, shard: int, kind: Kind, number: int, *, damaged: bool) -> None:
        text = f"{kind} chunk {number} does not fit its sum: run `hashweir sets repair`"
        self._alarms.judge("store_damaged", shard, damaged, text)
