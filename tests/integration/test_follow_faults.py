"""Faults that only a real server has: a stream cut behind a follower's back, an older append-only file, flipped bytes.

Each is found within 5 s; nothing is usable from detection until verified; no withdrawn entry comes back.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import redis

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.model import Entry
from hashweir.ports import Edit
from hashweir.shards.follow import Follower
from hashweir.shards.layout import SLOT_BYTES
from tests.contract.following import KNOWN, Between, caught_up, following, found_ids, until
from tests.contract.stores import in_shard, part
from tests.servers.store import RedisServer, ValkeyServer

pytestmark = pytest.mark.store

FOUND_WITHIN_S = 5.0
POOL = list(islice(in_shard(0, 9, kinds=["pdq"]), 30))
Server = RedisServer | ValkeyServer


@pytest.fixture(params=[ValkeyServer, RedisServer], ids=["valkey", "redis"], name="server")
def _server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with request.param(append_only=True) as server:
        yield server


class Scene:
    """A store with one set, a follower behind a gate, and a connection for doing harm."""

    def __init__(self, server: Server, store: RedisStore, number: int, alarms: list[tuple[str, int]]) -> None:
        self.server, self.store, self.number, self.alarms = server, store, number, alarms
        self.between = Between(connected(server))
        self.follower: Follower
        self.raw: Any = redis.Redis(port=server.port)
        self.operations = 0

    async def write(self, verb: str, *entries: Entry) -> None:
        """Add or withdraw entries of shard 0."""
        self.operations += 1
        edits = [Edit(verb="add" if verb == "add" else "withdraw", entry=e, set_number=self.number) for e in entries]
        await self.store.apply(part(f"{verb} {self.operations}", *edits))

    async def found(self) -> set[str]:
        """Ids that a usable and current view gives."""
        return found_ids(await caught_up(self.follower, self.store), POOL)

    def standing(self) -> str:
        return self.follower.known.view().standing


def connected(server: Server) -> RedisStore:
    """A client with short waits."""
    return RedisStore(Access(url=server.url, answer_s=1.0), "faults")


@asynccontextmanager
async def scene(server: Server) -> AsyncIterator[Scene]:
    """Twenty active entries, followed and verified."""
    async with AsyncExitStack() as stack:
        store = connected(server)
        stack.push_async_callback(store.close)
        await store.create(2)
        await store.open()
        stored = await store.put_set("first", KNOWN, 0)
        alarms: list[tuple[str, int]] = []
        here = Scene(server, store, stored.number, alarms)
        stack.callback(here.raw.close)
        stack.push_async_callback(here.between.store.close)
        await here.write("add", *POOL[:20])
        here.follower = await stack.enter_async_context(
            following(here.between, ask_s=1.0, on_alarm=lambda reason, shard, _: alarms.append((reason, shard)))
        )
        assert await here.found() == ids(POOL[:20])
        here.between.standings.clear()
        yield here


def ids(entries: list[Entry]) -> set[str]:
    """Ids of entries."""
    return {entry.id for entry in entries}


async def found_within(what: str, condition: Callable[[], object]) -> None:
    """The fault is found in time; `pytest -rP` shows the time."""
    took = await until(condition, FOUND_WITHIN_S)
    print(f"{what} after {took:.3f} s")


async def test_a_stream_trimmed_behind_the_followers_back(server: Server) -> None:
    """The sequence is dense, so what was trimmed away is missed, and the chunks have it."""
    async with scene(server) as here:
        await here.between.hold()
        await here.write("withdraw", *POOL[:5])
        await here.write("add", *POOL[20:25])
        here.raw.xtrim("{faults:0}:changes", maxlen=0)
        here.between.gate.set()
        await found_within("detected", lambda: here.between.standings)
        assert await here.found() == ids(POOL[5:25])
        assert set(here.between.standings) == {"doubtful"}
        assert (here.standing(), here.alarms) == ("verified", [])


async def test_a_record_that_is_not_what_was_written(server: Server) -> None:
    """The head's total does not fit, and the chunk that was read again does."""
    async with scene(server) as here:
        await here.between.hold()
        await here.write("add", POOL[20])
        stream = "{faults:0}:changes"
        ((last, fields),) = here.raw.xrevrange(stream, count=1)
        record = bytearray(fields[b"c"])
        record[20] ^= 0x40
        here.raw.delete(stream)
        here.raw.xadd(stream, {"c": bytes(record)}, id=last)
        here.between.gate.set()
        await found_within("detected", lambda: here.between.standings)
        assert await here.found() == ids(POOL[:21])
        assert set(here.between.standings) == {"doubtful"}
        assert (here.standing(), here.alarms) == ("verified", [])


@pytest.mark.parametrize("forward", [False, True], ids=["behind", "ahead again"])
async def test_an_older_append_only_file(server: Server, forward: bool, tmp_path: Path) -> None:
    """The server comes back with an older state; in one case it is written to before the follower sees it."""
    async with scene(server) as here:
        files = server.log_file.parent / "appendonlydir"
        older = tmp_path / "older"
        server.stop()
        shutil.copytree(files, older)
        server.start()
        await here.write("withdraw", *POOL[:5])
        await here.write("add", *POOL[20:22])
        assert await here.found() == ids(POOL[5:22])
        here.between.standings.clear()
        await here.between.hold()
        server.stop()
        shutil.rmtree(files)
        shutil.copytree(older, files)
        server.start()
        if forward:
            await here.write("add", *POOL[22:])
        here.between.gate.set()
        await found_within("detected", lambda: here.standing() in ("doubtful", "degraded"))
        await found_within("verified", lambda: here.standing() == "degraded")
        kept = ids(POOL[5:20]) | (ids(POOL[22:]) if forward else set())
        assert await here.found() == kept
        assert set(here.between.standings) == {"doubtful"}
        assert ("store_rewound", 0) in here.alarms
        await here.write("withdraw", POOL[0])
        await here.write("add", POOL[0])
        assert await here.found() == kept | {POOL[0].id}
        assert here.standing() == "degraded"


async def test_a_restart_without_loss_is_verified_again(server: Server) -> None:
    """Another replication id with the same history: no alarm, and the server's absence was lived through."""
    async with scene(server) as here:
        server.stop()
        await until(lambda: here.follower.trouble is not None)
        assert here.standing() == "verified"
        server.start()
        await here.write("withdraw", *POOL[:2])
        assert await here.found() == ids(POOL[2:20])
        assert (here.standing(), here.alarms) == ("verified", [])


async def test_a_chunk_that_was_overwritten(server: Server) -> None:
    """Who has verified it keeps its copy and says so; who has not gets no view at all."""
    async with scene(server) as here:
        chunk, at = "{faults:0}:c:pdq:0", 3 * SLOT_BYTES
        right = here.raw.getrange(chunk, at, at + 3)
        here.raw.setrange(chunk, at, b"\xff\x00\xff\x00")
        await found_within("detected", lambda: ("store_damaged", 0) in here.alarms)
        assert await here.found() == ids(POOL[:20])
        assert here.standing() == "verified"
        late = connected(server)
        async with following(late) as other:
            await until(lambda: ("store_damaged", 0) in other.alarms.active)
            assert not other.ready.is_set()
            assert other.known.view().standing in ("empty", "doubtful")
            here.raw.setrange(chunk, at, right)
            await asyncio.wait_for(other.ready.wait(), FOUND_WITHIN_S)
            assert found_ids(other.known.view(), POOL) == ids(POOL[:20])
        await late.close()
        await until(lambda: here.follower.alarms.active == {})


async def test_a_store_that_was_emptied(server: Server) -> None:
    """Nothing usable while it is gone; made anew, it has a new epoch, and what it says counts."""
    async with scene(server) as here:
        here.raw.flushall()
        await found_within("detected", lambda: here.standing() == "doubtful")
        assert ("store_rewound", 0) in here.alarms
        await here.store.create(2)
        stored = await here.store.put_set("again", KNOWN, 0)
        here.number = stored.number
        await here.write("add", *POOL[10:15])
        assert await here.found() == ids(POOL[10:15])
        assert here.standing() == "verified"


async def test_a_frozen_server_is_waited_for(server: Server) -> None:
    """No answer is no doubt: the last verified state stays, and the follower goes on by itself."""
    async with scene(server) as here:
        server.pause()
        try:
            await until(lambda: here.follower.trouble is not None, 10)
            assert here.standing() == "verified"
        finally:
            server.resume()
        await here.write("withdraw", POOL[0])
        assert await here.found() == ids(POOL[1:20])


async def test_a_change_that_no_writer_wrote(server: Server) -> None:
    """Rubbish in the stream ends nobody's following: no verdict while it stands there, all is well without it."""
    async with scene(server) as here:
        head = await here.store.head(0)
        id_ = f"{head.position.epoch}-{head.position.seq + 1}"
        here.raw.xadd("{faults:0}:changes", {"c": b"rubbish"}, id=id_)
        await found_within("detected", lambda: here.standing() == "doubtful")
        here.raw.xdel("{faults:0}:changes", id_)
        await found_within("verified", lambda: here.standing() == "verified")
        assert await here.found() == ids(POOL[:20])
