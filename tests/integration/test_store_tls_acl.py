"""A server that lets in by TLS and ACL only: what a reader and a writer need, no more."""

from __future__ import annotations

import gc
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.errors import Refused, Unreachable
from hashweir.model import Batch, Set
from tests.contract.stores import add, in_shard, part
from tests.servers.store import RedisServer

pytestmark = pytest.mark.store

KEYS = "~{weir:*"
READ = "+hget +hmget +hvals +get +getrange +xread +time +info +ping +multi +exec +fcall_ro"
WRITE = "+fcall +wait +set +setrange +hset +hsetnx +hdel +hgetall +hincrby +exists +del +xadd +xtrim"
"""Functions run with their caller's rights, so a writer needs what `hashweir_1.lua` calls."""
USERS = [
    f"reader on >read-secret %R{KEYS} {READ}",
    f"writer on >write-secret {KEYS} {READ} {WRITE}",
    f"admin on >admin-secret {KEYS} {READ} {WRITE} +function|load",
    "other on >other-secret ~other:* +@all",
]


@pytest.fixture(scope="module", name="access")
def _access() -> Iterator[Access]:
    with RedisServer(secure=True, users=USERS) as server:
        yield Access(url=server.url, ca_file=str(server.ca_file), connect_s=1.0, answer_s=5.0)


def store(access: Access, user: str, password: str) -> RedisStore:
    return RedisStore(replace(access, username=user, password=password), "weir")


async def test_a_reader_follows_and_cannot_write(access: Access) -> None:
    """Its rights are reading, on the keys of its prefix; the writer's are those that the functions use."""
    admin = store(access, "admin", "admin-secret")
    writer, reader = store(access, "writer", "write-secret"), store(access, "reader", "read-secret")
    try:
        await admin.create(2)
        await writer.open()
        await reader.open()
        start = {n: head.position for n, head in enumerate(await reader.heads())}
        sets = (await reader.read_sets()).position
        known = list(islice(in_shard(0), 200))  # enough for the buckets to be split
        await writer.apply(part("op", *map(add, known)))
        await writer.put_batch("aa" * 8, Batch(origin="own-review"))
        await writer.put_set("set", Set(name="known", owner="team", origin="own-review"), 0)

        chunk = await reader.read_chunk(0, known[0].kind, 0)
        await writer.mend_chunk(0, known[0].kind, 0, chunk, (chunk.slots, chunk.sides))
        assert len(await reader.read_changes(start, 1000, 1000)) == 200
        assert await reader.wait_sets(sets, 1000)
        assert len((await reader.read_sets()).sets) == 1
        assert (await reader.read_chunk(0, "pdq", 0)).sum == (await reader.sums(0, "pdq"))[0]
        assert len(await reader.digests(0, "pdq", 0, 1)) == 1
        assert await reader.find(0, [known[0].id]) == {known[0].id: (known[0].kind, 0)}
        assert await reader.read_batches(["aa" * 8])
        assert await reader.read_names(0, [known[0].item]) is not None

        for attempt in (
            reader.apply(part("more", *map(add, islice(in_shard(0, seed=2), 3)))),
            reader.put_set("set2", Set(name="more", owner="team", origin="own-review"), 0),
            reader.create(2),
            writer.create(2),
        ):
            with pytest.raises(Refused) as e:
                await attempt
            assert e.value.reason == "store_refused"
        assert (await reader.head(0)).position.seq == 200
    finally:
        for client in (admin, writer, reader):
            await client.close()


@pytest.mark.parametrize(("user", "password"), [("reader", "wrong"), ("nobody", "guess"), ("other", "other-secret")])
async def test_strangers_are_refused(access: Access, user: str, password: str) -> None:
    """A wrong password, an unknown user and one with other keys: refused at once, not waited for."""
    client = store(access, user, password)
    with pytest.raises(Refused) as e:
        await client.open()
    assert e.value.reason == "store_refused"
    assert password not in str(e.value)
    await client.close()


async def test_a_server_with_a_strange_certificate_is_not_talked_to(access: Access) -> None:
    """Without the authority's certificate there is no connection, and no way to switch that off."""
    client = RedisStore(replace(access, ca_file=ssl.get_default_verify_paths().cafile, password="x"), "weir")
    with pytest.raises(Unreachable, match="certificate verify failed"):
        await client.open()
    await client.close()
    # asyncio sometimes leaves the socket of a failed handshake to the collector; then no later test should meet it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
