"""A store on this machine: by a unix socket too, and its chunks are digested here as long as they may be read."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.errors import Refused
from hashweir.shards.layout import digest
from tests.contract.stores import add, in_shard, part
from tests.servers.store import ValkeyServer

pytestmark = pytest.mark.store


@pytest.mark.parametrize(("rights", "functions"), [("+@all", 0), ("+@all -get", 1)], ids=["may read chunks", "may not"])
async def test_digests_over_a_unix_socket(tmp_path: Path, rights: str, functions: int) -> None:
    """The server's function is called only where chunks can't be read, and then the first attempt is the last one."""
    path = tmp_path / "s"
    users = ["writer on >secret ~* +@all", f"reader on >secret ~* {rights}"]
    with ValkeyServer(settings=["--unixsocket", str(path)], users=users) as server:
        writer = RedisStore(Access(url=server.url, username="writer", password="secret"), "weir")
        reader = RedisStore(Access(url=f"unix://{path}", username="reader", password="secret"), "weir")
        try:
            await writer.create(2)
            await writer.open()
            await writer.apply(part("op", *map(add, islice(in_shard(0), 50))))
            await reader.open()
            kind = next(in_shard(0)).kind
            chunk = await writer.read_chunk(0, kind, 0)
            for _ in range(3):
                assert await reader.digests(0, kind, 0, 9) == [digest(chunk.slots, chunk.sides)]
            (stats,) = await writer._link.exchange(("INFO", "commandstats"))
            assert (b"cmdstat_fcall_ro" in stats) == bool(functions)
            (line,) = (one for one in stats.splitlines() if one.startswith(b"cmdstat_get:"))
            assert b"rejected_calls=%d," % (2 * 9 * functions) in line
        finally:
            await writer.close()
            await reader.close()


@pytest.mark.parametrize("name", ["head", "c:pdq:0"])
async def test_a_key_that_holds_something_else_is_refused(valkey_server: ValkeyServer, name: str) -> None:
    """As where the server digests: with a reason, and chunks are read again once it is mended."""
    store = RedisStore(Access(url=valkey_server.url), f"near-{name.replace(':', '-')}")
    try:
        await store.create(2)
        await store.open()
        await store.apply(part("op", *map(add, islice(in_shard(0), 50))))
        key = store._key(0, name)
        await store._link.exchange(("RENAME", key, f"{key}:aside"), ("RPUSH", key, "no chunk"))
        with pytest.raises(Refused):
            await store.digests(0, "pdq", 0, 1)
        assert store._near.works
        await store._link.exchange(("RENAME", f"{key}:aside", key))
        assert len(await store.digests(0, "pdq", 0, 1)) == 1
    finally:
        await store.close()
