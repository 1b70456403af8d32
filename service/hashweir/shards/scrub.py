"""Find silent damage: bytes that changed by themselves, here or in the store, where no sequence shows it.

Round after round, the server digests each chunk as it has it, and this process digests its own, from its own memory; or
tells by a checksum of that memory that it is as it was when it was digested last.
Equal digests say that neither changed: the two copies are kept apart. Where they differ, the sums tell which is right,
and only then is a chunk read. Damaged here: it is read again, and its table is made anew. Damaged in the store: alarm,
and the verified copy is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import zip_longest

from msgspec.structs import replace

from hashweir.errors import Refused, Unreachable
from hashweir.model import KINDS, Kind
from hashweir.ports import Chunk, Store
from hashweir.shards.reread import Rereader, Wanted, damage_text, sum_of
from hashweir.shards.snapshot import Mark, Snapshot
from hashweir.shards.tables import Tables
from hashweir.shards.trust import Alarms, Followed

AT_ONCE = 8
"""Chunks per call: 0.8 MB."""
_SHARE = 0.8
"""Share of a round's time that is planned for. The rest is for what is slower than it was expected."""
_PAUSE_S = 0.5
"""After no answer. Chunk by chunk, a store that is away would be called a thousand times a second."""
_ATTEMPTS = 5
"""A chunk that is written to while it is looked at is looked at again."""
_REFUSED = "chunks can't be compared with the store's: `hashweir check --create` loads its function library again"


class Scrubber:
    """Compares all chunks with the store's, each once in `round_s` seconds."""

    def __init__(self, store: Store, chunks: Rereader, tables: Tables, alarms: Alarms, round_s: float) -> None:
        """All but the time belong to the follower."""
        self._store, self._chunks, self._tables, self._alarms = store, chunks, tables, alarms
        self._round_s = round_s
        self._digested: dict[tuple[int, Kind, int], tuple[Mark, bytes]] = {}
        """Digests by shard, kind and number of the chunk, with the mark that the chunk had."""

    async def round(self, followed: Sequence[Followed]) -> None:
        """Every chunk once, spread over the time in which the store answers. What it does not answer is left to the
        next round."""
        steps = [
            (one, kind, first)
            for one in followed
            for kind in KINDS
            for first in range(0, len(one.shard.sums(kind)), AT_ONCE)
        ]
        clock = asyncio.get_running_loop().time
        began, apart = clock(), self._round_s * _SHARE / max(1, len(steps))
        for number, (one, kind, first) in enumerate(steps):
            await asyncio.sleep(max(0.0, began + number * apart - clock()))
            try:
                await self._compare(one, kind, first)
            except Unreachable:
                await asyncio.sleep(_PAUSE_S)
                began = clock() - number * apart  # the time without a store is not made up for in a hurry
            except Refused:
                self._alarms.judge("store_refused", one.shard.number, True, _REFUSED)
        await asyncio.sleep(max(0.0, began + self._round_s * _SHARE - clock()))

    async def _compare(self, one: Followed, kind: Kind, first: int) -> None:
        shard = one.shard
        if one.doubt:
            return
        numbers = range(first, min(first + AT_ONCE, len(shard.sums(kind))))
        snapshots = [shard.snapshot(kind, number) for number in numbers]
        theirs = await self._store.digests(shard.number, kind, first, len(numbers))
        ours = await asyncio.to_thread(lambda: [self._digest(shard.number, snapshot) for snapshot in snapshots])
        for number, mine, there in zip_longest(numbers, ours, theirs[: len(ours)]):
            if mine != there:
                self._digested.pop((shard.number, kind, snapshots[number - first].first), None)
                await self._decide(one, kind, number)
            else:
                self._alarms.judge("store_damaged", shard.number, False, damage_text(kind, number))
        self._alarms.judge("store_refused", shard.number, False, _REFUSED)

    def _digest(self, shard: int, snapshot: Snapshot) -> bytes:
        """Of a chunk that has the mark with which it was digested before, that digest."""
        name, mark = (shard, snapshot.kind, snapshot.first), snapshot.mark()
        known = self._digested.get(name)
        if known is not None and known[0] == mark:
            return known[1]
        digest = snapshot.digest()
        if mark is not None:
            self._digested[name] = mark, digest
        return digest

    async def _decide(self, one: Followed, kind: Kind, number: int) -> None:
        """Two copies differ: because the store was written meanwhile, or because one of them is damaged."""
        shard = one.shard
        for _ in range(_ATTEMPTS):
            mine = shard.snapshot(kind, number)
            chunk = await self._store.read_chunk(shard.number, kind, number)
            intact, total = await asyncio.to_thread(_examine, mine, chunk, number)
            self._alarms.judge("store_damaged", shard.number, total != chunk.sum, damage_text(kind, number))
            if intact or one.doubt:
                return
            if total is not None and total == shard.snapshot(kind, number).sum:
                # It is what this copy is to be, whatever was written to other chunks before or after.
                self._alarms.tell("copy_damaged", shard.number, f"{kind} chunk {number} of this copy was damaged")
                right = replace(chunk, position=shard.position)
                self._chunks.put(Wanted(one, kind, number, one.as_of_ms), right, total)
                self._tables.suspect(kind)
                return


def _examine(mine: Snapshot, chunk: Chunk, number: int) -> tuple[bool, int | None]:
    """Whether this copy is intact, and the sum of the other one's bytes."""
    return mine.intact(), sum_of(chunk, number)
