"""What every store promises of new epochs and of chunks that are put right."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest
from msgspec.structs import replace

from hashweir.errors import Refused
from hashweir.ports import Position
from hashweir.shards.layout import SIDE_BYTES, SLOT_BYTES
from tests.contract.stores import Deployments, add, in_shard, part

POOL = list(islice(in_shard(0, kinds=["pdq"]), 5))


async def test_a_new_epoch_keeps_everything_but_the_history(fresh: Deployments) -> None:
    """Entries, sums and the sequence stay; the stream begins anew and goes on from there."""
    async with fresh() as deployment:
        store = await deployment.connect()
        await store.apply(part("one", *map(add, POOL[:3])))
        before, chunk = await store.head(0), await store.read_chunk(0, "pdq", 0)
        after = await store.new_epoch(0)
        assert (after.seq, after.epoch != before.position.epoch) == (3, True)
        head = await store.head(0)
        assert (head.position, head.total, head.counts) == (after, before.total, before.counts)
        assert await store.read_chunk(0, "pdq", 0) == replace(chunk, position=after)
        assert await store.read_changes({0: after}, 0, 10) == []
        await store.apply(part("two", add(POOL[3])))
        changes = await store.read_changes({0: after}, 0, 10)
        assert [change.position for change in changes] == [Position(after.epoch, 4)]


async def test_a_new_epoch_of_an_empty_store(fresh: Deployments) -> None:
    """Sequence 0 is no obstacle, and a second time is one more."""
    async with fresh() as deployment:
        store = await deployment.connect()
        epochs = {(await store.new_epoch(shard)).epoch for shard in (0, 0, 1)}
        sets = await store.read_sets()
        after = await store.new_epoch(None)
        assert len(epochs) == 3
        assert after.epoch != sets.position.epoch
        assert (await store.read_sets()).position == after


async def test_readers_wake_for_a_new_epoch(fresh: Deployments) -> None:
    """Whoever waits for changes or sets is told at once, with no change."""
    async with fresh() as deployment:
        reader, writer = await deployment.connect(), await deployment.connect()
        await writer.apply(part("one", add(POOL[0])))
        before, sets = await reader.head(0), (await reader.read_sets()).position
        await writer.new_epoch(None)
        await writer.new_epoch(0)
        async with asyncio.timeout(10):
            assert await reader.wait_sets(sets, 30_000)
            assert await reader.read_changes({0: before.position}, 30_000, 10) == []


async def test_a_new_epoch_is_read_from_its_beginning(fresh: Deployments) -> None:
    """Nothing before its first change, whatever the sequence stands at, and then that change."""
    async with fresh() as deployment:
        store = await deployment.connect()
        await store.apply(part("one", *map(add, POOL[:3])))
        start = replace(await store.new_epoch(0), seq=0)
        assert await store.read_changes({0: start}, 0, 100) == []
        await store.apply(part("two", add(POOL[3])))
        assert [change.position.seq for change in await store.read_changes({0: start}, 0, 100)] == [4]


async def test_only_what_gives_the_sum_is_written(fresh: Deployments) -> None:
    """Other bytes, other lengths and a chunk that moved on are refused, and nothing changes."""
    async with fresh() as deployment:
        store = await deployment.connect()
        await store.apply(part("one", *map(add, POOL[:3])))
        seen = await store.read_chunk(0, "pdq", 0)
        wrong = bytes(SLOT_BYTES) + seen.slots[SLOT_BYTES:]
        for right in ((wrong, seen.sides), (seen.slots[:-SLOT_BYTES], seen.sides[:-SIDE_BYTES])):
            with pytest.raises(Refused) as refused:
                await store.mend_chunk(0, "pdq", 0, seen, right)
            assert refused.value.reason == "bad_field"
        assert await store.mend_chunk(0, "pdq", 0, seen, (seen.slots, seen.sides)) == seen.position
        await store.apply(part("two", add(POOL[3])))
        for right_or_none in ((seen.slots, seen.sides), None):
            with pytest.raises(Refused) as refused:
                await store.mend_chunk(0, "pdq", 0, seen, right_or_none)
            assert refused.value.reason == "store_changed"


async def test_accepting_tells_every_slot(fresh: Deployments) -> None:
    """Each slot is one change, so that positions move and followers take over what is there."""
    async with fresh() as deployment:
        store = await deployment.connect()
        await store.apply(part("one", *map(add, POOL)))
        before, seen = await store.head(0), await store.read_chunk(0, "pdq", 0)
        after = await store.mend_chunk(0, "pdq", 0, seen, None)
        assert after == Position(before.position.epoch, 10)
        assert (await store.head(0)).total == before.total
        changes = await store.read_changes({0: before.position}, 0, 100)
        assert [change.slot for change in changes] == [0, 1, 2, 3, 4]
        assert b"".join(change.image for change in changes) == seen.slots
        assert b"".join(change.side for change in changes) == seen.sides
