"""The server function itself, asked in ways that no honest client asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count, islice

import pytest

from hashweir.adapters.edits import PackedEdit, edits_of, pack_part
from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access, Link
from hashweir.errors import Refused
from hashweir.model import Entry
from hashweir.ports import Position
from tests.contract.stores import SHARDS, add, in_shard, part
from tests.servers.store import RedisServer, ValkeyServer

pytestmark = pytest.mark.store
_prefixes = count()


class Bench:
    """A store and a bare line to its server."""

    def __init__(self, url: str) -> None:
        self.prefix = f"weir{next(_prefixes)}"
        self.store = RedisStore(Access(url=url), self.prefix, stream_length=100)
        self.link = Link(Access(url=url))

    def key(self, name: str) -> str:
        return f"{{{self.prefix}:0}}:{name}"

    async def call(self, operation: str, *edits: bytes) -> list[object]:
        """Each edit is 2 bytes of verb and kind, a slot and a side record."""
        keys = [self.key(name) for name in ("head", "changes", f"op:{operation}")]
        columns = [b"".join(edit[cut] for edit in edits) for cut in (slice(2), slice(2, 66), slice(66, None))]
        (answer,) = await self.link.exchange(("FCALL", "hashweir_1_apply", 3, *keys, 100, 60_000, "me", *columns))
        assert isinstance(answer, list)
        return answer

    async def keys(self) -> set[bytes]:
        (found,) = await self.link.exchange(("KEYS", f"*{self.prefix}:0*"))
        return set(found)


@pytest.fixture(scope="module", params=[ValkeyServer, RedisServer], name="url")
def _url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.param() as server:
        yield server.url


@pytest.fixture(name="bench")
async def _bench(url: str) -> AsyncIterator[Bench]:
    bench = Bench(url)
    await bench.store.create(SHARDS)
    await bench.store.open()
    yield bench
    await bench.store.close()
    await bench.link.close()


def packed(entry: Entry) -> PackedEdit:
    return edits_of(pack_part(part("op", add(entry)), SHARDS))[0]


def wire(entry: Entry) -> bytes:
    part_of_one = pack_part(part("op", add(entry)), SHARDS)
    return part_of_one.verbs + part_of_one.slots + part_of_one.sides


def gone(entry: bytes) -> bytes:
    """A withdrawal of a pdq entry: its id, where a slot holds it."""
    return b"W\x01" + bytes(32) + entry + bytes(16 + 40)


BAD = [
    b"A",
    b"A\x01",
    b"X\x01" + bytes(104),
    b"A\x09" + bytes(104),
    b"A\x00" + bytes(104),
    b"W\x06" + bytes(104),
    b"A\x01" + bytes(103),
    b"A\x01" + bytes(105),
    b"W\x01" + bytes(15),
    b"A\x01" + bytes(60) + b"\x03" + bytes(43),  # added as retired
    b"A\x02" + bytes(62) + b"\x09" + bytes(41),  # a state that does not exist
]


@pytest.mark.parametrize("bad", BAD)
async def test_one_bad_edit_and_nothing_is_written(bench: Bench, bad: bytes) -> None:
    """Good edits before a bad one leave no key behind."""
    before = await bench.keys()
    good = [wire(entry) for entry in islice(in_shard(0), 3)]
    with pytest.raises(Refused, match=r"change 4|a change is") as e:
        await bench.call("op", *good, bad)
    assert e.value.reason == "bad_field"
    assert await bench.keys() == before


async def test_ids_that_begin_alike_stay_apart(bench: Bench) -> None:
    """Dedupe keeps 6 bytes of an id; entries that share them are still two, also after their bucket was split."""
    first = next(in_shard(0, kinds=["pdq"]))
    edit = packed(first)
    twins = [edit.entry[:6] + bytes([n]) * 10 for n in (1, 2)]
    for n, id_ in enumerate(twins):
        slot = edit.slot[:32] + id_ + edit.slot[48:]
        answer = await bench.call(f"op-{n}", b"A\x01" + slot + edit.side)
        assert answer[3] == b"A"
    filling = list(islice(in_shard(0, seed=2, kinds=["pdq"]), 500))
    for at in range(0, 500, 250):
        await bench.store.apply(part(f"fill-{at}", *map(add, filling[at : at + 250])))
    ids = [id_.hex() for id_ in twins]
    assert await bench.store.find(0, ids) == {ids[0]: ("pdq", 0), ids[1]: ("pdq", 1)}
    assert (await bench.call("w", gone(twins[1])))[3] == b"W"
    assert (await bench.call("w0", gone(edit.entry)))[3] == b"N"
    assert len(await bench.store.find(0, [e.id for e in filling])) == 500


async def test_buckets_stay_compact(bench: Bench) -> None:
    """However a shard grows, every dedupe bucket is a listpack and holds some 64 fields on average."""
    many = list(islice(in_shard(0, kinds=["sha256"]), 5000))
    for at in range(0, 5000, 250):
        await bench.store.apply(part(f"op-{at}", *map(add, many[at : at + 250])))
    buckets = [key for key in await bench.keys() if b":d:" in key]
    assert len(buckets) == -(-5000 // 64)
    encodings = await bench.link.exchange(*(("OBJECT", "ENCODING", key) for key in buckets))
    assert set(encodings) == {b"listpack"}
    assert sum(await bench.link.exchange(*(("HLEN", key) for key in buckets))) == 5000


async def test_a_trimmed_stream_shows_as_a_gap(bench: Bench) -> None:
    """The stream keeps about its length; who comes late sees a first sequence that does not follow their own."""
    start = (await bench.store.head(0)).position
    many = list(islice(in_shard(0), 1000))
    for at in range(0, 1000, 250):
        await bench.store.apply(part(f"op-{at}", *map(add, many[at : at + 250])))
    changes = await bench.store.read_changes({0: start}, 0, 10_000)
    assert changes[0].position.seq > start.seq + 1
    assert changes[-1].position == Position(start.epoch, 1000)
    assert len(changes) < 400


async def test_a_large_shard_keeps_a_sixteenth_of_its_entries_as_changes(bench: Bench) -> None:
    """Who follows an import into it is overtaken no sooner than that."""
    many = list(islice(in_shard(0), 4000))
    for at in range(0, 4000, 50):
        await bench.store.apply(part(f"op-{at}", *map(add, many[at : at + 50])))
    start = (await bench.store.head(0)).position
    behind = Position(start.epoch, start.seq - 250)
    changes = await bench.store.read_changes({0: behind}, 0, 10_000)
    assert [change.position.seq for change in changes] == list(range(behind.seq + 1, start.seq + 1))


async def test_another_layout_is_left_alone(bench: Bench) -> None:
    """A program of layout 1 neither reads nor writes what another version made."""
    entry = next(in_shard(0))
    await bench.link.exchange(("HSET", bench.key("head"), "layout", "2"))
    for attempt in (bench.store.head(0), bench.store.heads(), bench.store.apply(part("op", add(entry)))):
        with pytest.raises(Refused) as e:
            await attempt
        assert e.value.reason == "store_layout"


async def test_answers_and_streams_are_bounded(bench: Bench) -> None:
    """Operation answers expire, as told."""
    await bench.call("op", wire(next(in_shard(0))))
    (left,) = await bench.link.exchange(("PTTL", bench.key("op:op")))
    assert 0 < left <= 60_000
