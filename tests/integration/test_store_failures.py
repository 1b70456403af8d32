"""The store's server dies, freezes, is not there, or has no replica: what was promised still holds."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import redis

from hashweir.adapters import redis as redis_store
from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.errors import OutcomeUnknown, Refused, Unreachable
from hashweir.ports import Applied, Part
from hashweir.sets import commands
from hashweir.sets.commands import LOCAL
from hashweir.sets.read import Row
from tests.contract.stores import SHARDS, add, entries, in_shard, part, shard_of
from tests.servers.store import RedisServer, ValkeyServer

pytestmark = pytest.mark.store
LIBRARY = Path(redis_store.__file__).with_name("hashweir_1.lua")


@pytest.fixture(params=[ValkeyServer, RedisServer], name="server")
def _server(request: pytest.FixtureRequest) -> Iterator[ValkeyServer | RedisServer]:
    with request.param(append_only=True) as server:
        yield server


async def until_answered(store: RedisStore, repeated: Part) -> Applied:
    """Repeat under the same operation id, as the contract tells a caller to."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return await store.apply(repeated)
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.01)


async def test_kills_in_the_middle_of_operations_double_and_lose_nothing(
    server: ValkeyServer | RedisServer,
) -> None:
    """SIGKILL and restart under load: every operation happened exactly once, whatever the writer was told."""
    store = RedisStore(Access(url=server.url, answer_s=2.0), "weir")
    await store.create(SHARDS)
    await store.open()
    start = await store.head(0)
    parts = [part(f"op-{n}", *map(add, islice(in_shard(0, seed=n), 20))) for n in range(150)]
    restarts = 0

    async def write(mine: list[Part]) -> list[Applied]:
        return [await until_answered(store, p) for p in mine]

    async def kill() -> None:
        nonlocal restarts
        for wanted in (500, 1500):
            while True:
                try:
                    if (await store.head(0)).position.seq >= wanted:
                        break
                except Unreachable:
                    pass
                await asyncio.sleep(0)
            server.kill()
            await asyncio.to_thread(server.start)
            restarts += 1

    one, two, three, _ = await asyncio.gather(write(parts[::3]), write(parts[1::3]), write(parts[2::3]), kill())
    assert restarts == 2
    assert all(set(answer.results) == {"added"} for answer in one + two + three)
    head = await store.head(0)
    assert head.position.epoch == start.position.epoch
    assert head.position.seq == sum(head.counts.values()) == 20 * len(parts)
    changes = await store.read_changes({0: start.position}, 0, 10_000)
    assert [change.position.seq for change in changes] == list(range(1, 20 * len(parts) + 1))
    assert head.replication_id != start.replication_id
    await store.close()


async def test_a_server_that_is_not_there_is_named_in_time() -> None:
    """`open` gives up at its bound, and says where it looked without saying the password."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can be there
        port = s.getsockname()[1]
        store = RedisStore(Access(url=f"redis://me:hush@127.0.0.1:{port}/0", connect_s=0.5), "weir")
        began = time.monotonic()
        with pytest.raises(Unreachable, match=f"127.0.0.1:{port}") as e:
            await store.open()
        assert time.monotonic() - began < 3
        assert e.value.reason == "store_unreachable"
        assert "hush" not in str(e.value)
        await store.close()


async def test_a_server_that_comes_late_is_waited_for(server: ValkeyServer | RedisServer) -> None:
    """A store that starts beside its workers costs them a moment, not a crash."""
    store = RedisStore(Access(url=server.url, connect_s=20), "weir")
    await store.create(SHARDS)
    server.kill()
    opening = asyncio.create_task(store.open())
    await asyncio.to_thread(server.start)
    await opening
    assert store.shards == SHARDS
    await store.close()


async def test_a_frozen_server_is_unreachable_and_later_answers_the_repeat(
    server: ValkeyServer | RedisServer,
) -> None:
    """Reads fail in time; a write whose answer is missing is `unknown`, and happened once when repeated."""
    store = RedisStore(Access(url=server.url, answer_s=0.3), "weir")
    await store.create(SHARDS)
    await store.open()
    await asyncio.gather(*(store.head(0) for _ in range(4)))
    edits = part("op", *map(add, islice(in_shard(0), 3)))
    server.pause()
    try:
        with pytest.raises(Unreachable) as read:
            await store.head(0)
        with pytest.raises(OutcomeUnknown) as write:
            await store.apply(edits)
    finally:
        server.resume()
    assert (read.value.reason, write.value.reason) == ("store_unreachable", "outcome_unknown")
    answer = await until_answered(store, edits)
    assert set(answer.results) == {"added"}
    assert (await store.head(0)).position.seq == 3
    await store.close()


async def test_too_few_replicas_make_the_outcome_unknown() -> None:
    """A write that no replica confirmed is said to be unknown, also when repeated; it is fine once one is back."""
    with ValkeyServer() as server, ValkeyServer(replica_of=server.port) as replica:
        store = RedisStore(Access(url=server.url), "weir", replicas=1, replicas_ms=20_000)
        hasty = RedisStore(Access(url=server.url), "weir", replicas=1, replicas_ms=100)
        await store.create(SHARDS)  # waits until the replica is in step
        await hasty.open()
        known = next(entries())
        edits = part("op", add(known), shard=shard_of(known))
        replica.pause()
        try:
            for _ in range(2):
                with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
                    await hasty.apply(edits)
        finally:
            replica.resume()
        await store.open()
        assert (await store.apply(edits)).repeated
        second = RedisStore(Access(url=replica.url), "weir")
        await second.open()
        here, there = await store.head(edits.shard), await second.head(edits.shard)
        assert (there.role, there.position, there.replication_id) == ("slave", here.position, here.replication_id)
        with pytest.raises(Unreachable, match="read only replica"):
            await second.apply(part("other", add(known), shard=edits.shard))
        for client in (store, hasty, second):
            await client.close()


async def test_a_full_store_takes_what_undoes_and_refuses_what_fills(server: ValkeyServer | RedisServer) -> None:
    """At `maxmemory` without eviction: nothing is forgotten, an import learns why, a withdrawal goes on."""
    store = RedisStore(Access(url=server.url), "weir")
    try:
        await store.create(2)
        await store.open()
        for name in ("wrong", "right"):
            await commands.create(store, LOCAL, name=name, owner="test", origin="own-review")
        rows = [Row(kind="pdq", value=f"{n:064x}") for n in (2**255, 2**254, 2**253)]
        await commands.add(store, LOCAL, "wrong", rows[:2])
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("maxmemory-policy", "noeviction")
            admin.config_set("maxmemory", "1")
        with pytest.raises(Refused, match="memory"):
            await commands.add(store, LOCAL, "right", rows[2:])
        withdrawn = await commands.withdraw(store, LOCAL, "wrong", rows[:1], reason="not what it seemed")
        assert withdrawn.outcomes["withdrawn"] == 1
        assert (await commands.off(store, LOCAL, "wrong")).set.state == "off"
        heads = await store.heads()
        assert sum(sum(one.counts.values()) for one in heads) == 2
        chunks = [await store.read_chunk(number, "pdq", 0) for number in range(2)]
        assert [one.position for one in chunks] == [one.position for one in heads]
    finally:
        await store.close()


async def test_what_was_changed_while_it_was_read_is_read_again(
    server: ValkeyServer | RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of two states are never taken for one: the position is asked for before and after."""
    store = RedisStore(Access(url=server.url), "weir")
    try:
        await store.create(SHARDS)
        await store.open()
        await store.apply(part("op-1", *map(add, islice(in_shard(0, kinds=["pdq"]), 3))))
        exchange, asked = store._link.exchange, []

        async def meanwhile(*commands: Any, **options: Any) -> list[Any]:
            answers = await exchange(*commands, **options)
            asked.append(commands)
            return [*answers[:-1], None] if len(asked) < 3 else answers

        monkeypatch.setattr(store._link, "exchange", meanwhile)
        chunk = await store.read_chunk(0, "pdq", 0)
        assert (len(asked), chunk.position.seq) == (3, 3)
    finally:
        await store.close()


async def test_an_older_library_withdraws_as_well(server: ValkeyServer | RedisServer) -> None:
    """Who upgrades the command line first can undo at once, and with `check --create` in a full store too."""
    store = RedisStore(Access(url=server.url), "weir")
    try:
        await store.create(2)
        await store.open()
        await commands.create(store, LOCAL, name="own", owner="test", origin="own-review")
        row = Row(kind="pdq", value=f"{2**255:064x}")
        await commands.add(store, LOCAL, "own", [row])
        with redis.Redis.from_url(server.url) as admin:
            lines = LIBRARY.read_text(encoding="utf-8").splitlines()
            older = "\n".join(line for line in lines if "hashweir_1_withdraw" not in line)
            admin.function_load(older, replace=True)
        withdrawn = await commands.withdraw(store, LOCAL, "own", [row], reason="not what it seemed")
        assert withdrawn.outcomes["withdrawn"] == 1
    finally:
        await store.close()
