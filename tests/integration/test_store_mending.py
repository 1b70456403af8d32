"""A damaged chunk is mended and a lost history ruled on, on real servers, with a follower that sees both."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.sets import commands, damage, held, reconcile, repair
from hashweir.sets.commands import LOCAL
from hashweir.sets.read import Line, Row
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES
from tests.contract.following import following, until
from tests.integration.test_follow_faults import POOL, Server, _server, found_within, ids, scene

__all__ = ["_server"]
pytestmark = pytest.mark.store
COUNT = 1500
CHUNK, SIDES, CHANGES = "{mend:0}:c:pdq:0", "{mend:0}:s:pdq:0", "{mend:0}:changes"


class Bench:
    """One shard with a chunk that is full and one that is not, and a connection for doing harm."""

    def __init__(self, server: Server) -> None:
        self.store = RedisStore(Access(url=server.url), "mend")
        self.raw: Any = redis.Redis(port=server.port)

    async def fill(self) -> None:
        await self.store.create(1)
        await self.store.open()
        await commands.create(self.store, LOCAL, name="demo", owner="team", origin="own-review")
        rows = (
            (n, Row(kind="pdq", value=hashlib.sha256(b"%d" % n).hexdigest(), item=f"item {n}", note=f"batch {n % 2}"))
            for n in range(1, COUNT + 1)
        )
        await commands.import_rows(self.store, LOCAL, "demo", rows)

    def xor(self, key: str, at: int, mask: bytes) -> None:
        there = self.raw.getrange(key, at, at + len(mask) - 1)
        self.raw.setrange(key, at, bytes(a ^ b for a, b in zip(there, mask, strict=True)))

    async def damaged(self) -> list[damage.Damaged]:
        return [one async for _, _, one in damage.find(self.store) if one]

    async def mend(self, lines: list[Line] | None = None) -> repair.Mended:
        (one,) = await self.damaged()
        of = await commands.find_set(self.store, "demo")
        mender = repair.Mender(self.store, [of], [one], of if lines else None, lines or ())
        return await mender.mend(one)

    def bytes(self) -> tuple[bytes, bytes]:
        return self.raw.get(CHUNK), self.raw.get(SIDES)


@pytest.fixture(name="bench")
async def _bench(server: Server) -> AsyncIterator[Bench]:
    bench = Bench(server)
    await bench.fill()
    yield bench
    await bench.store.close()
    bench.raw.close()


async def test_the_change_stream_gives_back_what_changed_lately(bench: Bench) -> None:
    """However many bytes of however many slots."""
    before = bench.bytes()
    assert await bench.damaged() == []
    for slot in (3, 4, 900):
        bench.xor(CHUNK, slot * SLOT_BYTES, b"\xff\x00\x17\x21")
    bench.xor(SIDES, 5 * SIDE_BYTES + 30, b"\x01\x02")
    told = await bench.mend()
    assert (told.outcome, told.source, told.slots) == ("mended", "change stream", (3, 4, 5, 900))
    assert bench.bytes() == before
    assert await bench.damaged() == []


@pytest.mark.parametrize(
    ("key", "at", "mask"),
    [
        (CHUNK, 7 * SLOT_BYTES + 11, b"\xa5"),
        (CHUNK, 7 * SLOT_BYTES + 61, b"\x10"),
        (SIDES, 7 * SIDE_BYTES + 13, b"\x01"),
    ],
    ids=["value", "quality", "time"],
)
async def test_one_flipped_byte_is_found_by_the_sum(bench: Bench, key: str, at: int, mask: bytes) -> None:
    """Without any copy: of all single flips one alone gives the sum."""
    before = bench.bytes()
    bench.raw.delete(CHANGES)
    bench.xor(key, at, mask)
    told = await bench.mend()
    assert (told.outcome, told.source, told.slots) == ("mended", "one byte", (7,))
    assert bench.bytes() == before


@pytest.mark.parametrize("slots", [(9,), (9, 10, 1000)])
@pytest.mark.parametrize("at", [2, 32], ids=["value", "entry id"])
async def test_an_export_gives_back_whole_slots(bench: Bench, slots: tuple[int, ...], at: int) -> None:
    """One by the sum alone; several where their ids tell which they are."""
    lines = [line async for run in commands.export(bench.store, LOCAL, "demo") for line in run]
    before = bench.bytes()
    bench.raw.delete(CHANGES)
    for slot in slots:
        bench.xor(CHUNK, slot * SLOT_BYTES + at, b"\x01\x02\x03\x04")
    told = await bench.mend(lines)
    assert (told.outcome, told.source, told.slots) == ("mended", "export", slots)
    assert bench.bytes() == before


async def test_what_nothing_mends_can_be_accepted(bench: Bench) -> None:
    """It is named first; accepted, it is the store's word, and a follower that had verified the old one takes it."""
    async with following(bench.store) as follower:
        await until(lambda: follower.known.view().standing == "verified")
        bench.raw.delete(CHANGES)
        bench.xor(CHUNK, 9 * SLOT_BYTES, b"\x01\x02\x03\x04")
        (one,) = await bench.damaged()
        told = repair.Mender(bench.store, (await bench.store.read_sets()).sets).unmended(one)
        assert (told.outcome, told.suspects, told.entries) == ("not_mended", (9,), CHUNK_SLOTS)
        seq = (await bench.store.head(0)).position.seq
        assert (await repair.accept(bench.store, LOCAL, one)).outcome == "accepted"
        assert await bench.damaged() == []
        await until(lambda: follower.known.shards[0].position.seq == seq + CHUNK_SLOTS)
        await until(lambda: follower.known.view().standing == "verified")
        assert follower.known.shards[0].slot("pdq", 9)[0] == one.rows[9][0]


@pytest.mark.parametrize("at", [60, 62], ids=["state", "form"])
async def test_what_was_accepted_and_is_no_entry_is_passed_over(bench: Bench, at: int) -> None:
    """An export and the counts are those of the others."""
    bench.raw.delete(CHANGES)
    bench.xor(CHUNK, 9 * SLOT_BYTES + at, b"\x0f")
    (one,) = await bench.damaged()
    await repair.accept(bench.store, LOCAL, one)
    lines = [line async for run in commands.export(bench.store, LOCAL, "demo") for line in run]
    assert len(lines) == COUNT - 1
    of = await commands.find_set(bench.store, "demo")
    assert await held.tally(bench.store, of) == {"pdq": {"active": COUNT - 1}}
    gone = one.rows[9][0][32:48].hex()
    assert gone not in {line.entry for line in lines}
    assert (await held.resolve(bench.store, of, [], [gone]))[1] == [gone]


async def test_a_chunk_is_mended_after_a_ruling(bench: Bench) -> None:
    """The new epoch's stream begins with a record without changes, which is no damage."""
    before = bench.bytes()
    await reconcile.accept(bench.store, LOCAL)
    bench.xor(CHUNK, 7 * SLOT_BYTES + 11, b"\xa5")
    told = await bench.mend()
    assert (told.outcome, told.source, told.slots) == ("mended", "one byte", (7,))
    assert bench.bytes() == before


async def test_a_damaged_sum_is_made_anew(bench: Bench) -> None:
    """The bytes are right and their sum is not: accepting mends that, and the total stays."""
    total = (await bench.store.head(0)).total
    bench.xor("{mend:0}:sums:pdq", 5, b"\x40")
    (one,) = await bench.damaged()
    await repair.accept(bench.store, LOCAL, one)
    assert (await bench.damaged(), (await bench.store.head(0)).total) == ([], total)


async def test_a_follower_sees_the_damage_and_the_mending(server: Server) -> None:
    """It alarms, goes on judging by its verified copy, and the alarm ends with the repair."""
    async with scene(server) as here:
        here.raw.setrange("{faults:0}:c:pdq:0", 3 * SLOT_BYTES, b"\xff\x00\xff\x00")
        await found_within("detected", lambda: ("store_damaged", 0) in here.alarms)
        assert "`hashweir sets repair`" in here.follower.alarms.active["store_damaged", 0]
        (one,) = [one async for _, _, one in damage.find(here.store) if one]
        told = await repair.Mender(here.store, (await here.store.read_sets()).sets).mend(one)
        assert (told.outcome, told.source) == ("mended", "change stream")
        await until(lambda: here.follower.alarms.active == {})
        assert await here.found() == ids(POOL[:20])


async def test_a_rewound_store_is_accepted(server: Server, tmp_path: Path) -> None:
    """Degraded until somebody rules; then verified at once, with what the store says."""
    async with scene(server) as here:
        files, older = server.log_file.parent / "appendonlydir", tmp_path / "older"
        server.stop()
        shutil.copytree(files, older)
        server.start()
        await here.write("withdraw", *POOL[:5])
        assert await here.found() == ids(POOL[5:20])
        server.stop()
        shutil.rmtree(files)
        shutil.copytree(older, files)
        server.start()
        await found_within("degraded", lambda: here.standing() == "degraded")
        assert await here.found() == ids(POOL[5:20])
        assert "`hashweir sets reconcile`" in here.follower.alarms.active["store_rewound", 0]
        await here.write("withdraw", *POOL[:2])
        began = asyncio.get_running_loop().time()
        done = await reconcile.accept(here.store, LOCAL)
        assert {one.shard for one in done} == {0, 1, None}
        await until(lambda: here.standing() == "verified")
        print(f"verified {asyncio.get_running_loop().time() - began:.3f} s after the ruling")
        assert await here.found() == ids(POOL[2:20])
        assert here.follower.alarms.active == {}
        await here.write("withdraw", POOL[2])
        assert await here.found() == ids(POOL[3:20])
