"""Silent damage among 100,000 entries: found and mended within a round, without reading everything again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.model import Kind
from hashweir.ports import Chunk
from hashweir.shards.follow import Follower
from hashweir.shards.layout import CHUNK_SLOTS, COMMON, SLOT_BYTES
from tests.contract.following import Between, flip, following, until
from tests.filled import PREFIX, fill
from tests.servers.store import RedisServer, ValkeyServer

pytestmark = pytest.mark.store

ENTRIES = 100_000
ROUND_S = 5.0
FOUND_WITHIN_S = 10.0
Server = RedisServer | ValkeyServer


@pytest.fixture(params=[ValkeyServer, RedisServer], ids=["valkey", "redis"], name="server")
def _server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with request.param() as server:
        yield server


class Counting(Between):
    """Knows how many chunks were read, and compared."""

    reads = 0
    compared = 0

    async def digests(self, shard: int, kind: Kind, first: int, count: int) -> list[bytes]:
        self.compared += count
        return await self.store.digests(shard, kind, first, count)

    async def read_chunk(self, shard: int, kind: Kind, number: int) -> Chunk:
        self.reads += 1
        return await super().read_chunk(shard, kind, number)


class Scene:
    """A follower of a large store, and a connection for doing harm."""

    def __init__(self, server: Server, near: bool) -> None:
        self.store = RedisStore(Access(url=server.url), PREFIX, near=near)
        self.between = Counting(self.store)
        self.raw: Any = redis.Redis(port=server.port)
        self.alarms: list[tuple[str, int]] = []
        self.follower: Follower

    def value(self, shard: int, slot: int) -> bytes:
        """The value that the store has in a slot."""
        raw: bytes = self.raw.getrange(f"{{{PREFIX}:{shard}}}:c:pdq:0", slot * SLOT_BYTES, slot * SLOT_BYTES + 31)
        return raw

    def ids(self, value: bytes) -> list[str]:
        """Entries at distance 0, as the newest view has them."""
        return [one.entry.id for one in self.follower.known.view().search("pdq", "canonical", [value], 0)]


@asynccontextmanager
async def scene(server: Server, near: bool = True) -> AsyncIterator[Scene]:
    """Everything is verified, and reads are counted from here on. One of the servers digests its chunks itself."""
    await fill(server.url, ENTRIES, named=False)
    async with AsyncExitStack() as stack:
        here = Scene(server, near and isinstance(server, ValkeyServer))
        stack.callback(here.raw.close)
        stack.push_async_callback(here.store.close)
        here.follower = await stack.enter_async_context(
            following(
                here.between,
                ask_s=1.0,
                scrub_round_s=ROUND_S,
                on_alarm=lambda reason, shard, _: here.alarms.append((reason, shard)),
            )
        )
        await until(lambda: here.follower.ready.is_set(), 30)
        here.between.reads = 0
        yield here


@pytest.mark.parametrize(
    ("where", "late"), [("entry", False), ("set", True), ("state", True), ("row", False), ("row", True)]
)
async def test_a_byte_of_the_copy(server: Server, where: str, late: bool) -> None:
    """It is found, one chunk is read, and the copy is right again: the entry is found, under its id, once.

    Before any chunk was digested, or `late`, when all were.
    """
    async with scene(server) as here:
        chunks = sum(-(-shard.count("pdq") // CHUNK_SLOTS) for shard in here.follower.known.shards)
        if late:
            await until(lambda: here.between.compared > chunks, 2 * ROUND_S)
        shard, slot = here.follower.known.shards[3], 77
        value = here.value(3, slot)
        before, table = here.ids(value), here.follower.known.tables.by_key["pdq", 0]
        assert len(before) == 1
        if where == "row":
            shard.refs("pdq")[slot] ^= 1 << 20  # leads nowhere
        else:
            flip(shard, "pdq", slot, {"entry": COMMON.entry, "set": COMMON.set, "state": COMMON.state}[where])
        assert not shard.snapshot("pdq", 0).intact()
        took = await until(lambda: ("copy_damaged", 3) in here.alarms, FOUND_WITHIN_S)
        print(f"detected after {took:.1f} s")
        assert shard.snapshot("pdq", 0).intact()
        # The table is made anew, for damage may lie where no chunk shows it.
        await until(lambda: here.follower.known.tables.by_key["pdq", 0] is not table, FOUND_WITHIN_S)
        await until(lambda: here.ids(value) == before, FOUND_WITHIN_S)
        assert here.follower.known.view().holds("known") == {"pdq"}
        assert here.follower.known.view().standing == "verified"
        # What repeats is kept once, so that a byte may be that of a whole block of 4,096 records: up to six chunks.
        assert here.between.reads <= 6
        assert {reason for reason, _ in here.alarms} == {"copy_damaged"}


async def test_a_byte_of_the_store(server: Server) -> None:
    """It raises the alarm, the verified copy is kept, and the alarm ends with the damage."""
    async with scene(server) as here:
        value, chunk, at = here.value(5, 9), f"{{{PREFIX}:5}}:c:pdq:2", 40 * SLOT_BYTES + 50
        before, right = here.ids(value), here.raw.getrange(chunk, at, at)
        here.raw.setrange(chunk, at, bytes([right[0] ^ 0xFF]))
        took = await until(lambda: ("store_damaged", 5) in here.alarms, FOUND_WITHIN_S)
        print(f"detected after {took:.1f} s")
        assert here.ids(value) == before
        assert here.follower.known.view().standing == "verified"
        assert here.follower.known.shards[5].snapshot("pdq", 2).intact()
        here.raw.setrange(chunk, at, right)
        await until(lambda: here.follower.alarms.active == {}, FOUND_WITHIN_S)
        assert here.between.reads <= 5
        assert here.alarms == [("store_damaged", 5)]


async def test_a_chunk_that_is_gone_from_the_store(server: Server) -> None:
    """A whole string is lost: the alarm, and nothing of the copy is given up."""
    async with scene(server) as here:
        value = here.value(2, 9)
        before = here.ids(value)
        here.raw.delete(f"{{{PREFIX}:2}}:s:pdq:0")
        await until(lambda: ("store_damaged", 2) in here.alarms, FOUND_WITHIN_S)
        assert here.ids(value) == before
        assert here.follower.known.view().standing == "verified"


async def test_a_server_that_lost_its_functions(server: Server) -> None:
    """Nothing can be compared, which is an alarm of its own and no reason to doubt what was verified."""
    async with scene(server, near=False) as here:
        here.raw.execute_command("FUNCTION", "FLUSH")
        await until(lambda: "store_refused" in {reason for reason, _ in here.follower.alarms.active}, FOUND_WITHIN_S)
        assert here.follower.known.view().standing == "verified"
        await here.store.create(16)
        await until(lambda: here.follower.alarms.active == {}, FOUND_WITHIN_S)
