"""What stands in the store and can't be read here: a key that was overwritten, or what a newer version wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from hashweir.errors import Refused
from hashweir.model import Batch, Set
from tests.contract.following import KNOWN, following, found_ids, until
from tests.integration.test_follow_faults import POOL, Server, _server, connected, ids, scene

__all__ = ["_server"]
pytestmark = pytest.mark.store


class NewerSet(Set, frozen=True, kw_only=True):
    """A set with a word that this version does not know."""

    nuance: str = "of importance"


async def test_a_set_of_a_newer_version(server: Server) -> None:
    """It is named, and stays as it was read last; entries go on; once it can be read all is verified."""
    async with scene(server) as here:
        newer = NewerSet(**msgspec.structs.asdict(KNOWN) | {"state": "off"})
        with pytest.raises(Refused) as refused:
            await here.store.put_set("newer", newer, 1)
        assert refused.value.reason == "store_refused"
        assert '"name":"known"' in str(refused.value)
        assert "nuance" in str(refused.value)
        await until(lambda: ("store_refused", -1) in here.follower.alarms.active)
        await here.write("withdraw", POOL[0])
        await until(lambda: found_ids(here.follower.known.view(), POOL) == ids(POOL[1:20]))
        assert here.follower.known.view().sets["known"].state == "active"
        await here.store.put_set("older", KNOWN, 2)
        assert await here.found() == ids(POOL[1:20])
        assert (here.standing(), here.follower.alarms.active) == ("verified", {})


def other_type(raw: Any, key: str) -> None:
    raw.delete(key)
    raw.rpush(key, "nothing that we wrote")


def newer_batch(raw: Any, key: str) -> None:
    raw.hset(key, POOL[0].batch, b'{"origin":"own-review","nuance":"of importance"}')


@pytest.mark.parametrize(
    ("key", "harm"),
    [
        ("{faults:0}:head", lambda raw, key: raw.hset(key, "seq", "many")),
        ("{faults:0}:head", lambda raw, key: raw.hset(key, "n:pdq", "many")),
        ("{faults:0}:c:pdq:0", other_type),
        ("{faults:0}:sums:pdq", other_type),
        ("{faults:0}:sums:pdq", lambda raw, key: raw.append(key, b"odd")),
        ("{faults:sets}:head", lambda raw, key: raw.hset(key, "seq", "many")),
        ("{faults:sets}:head", lambda raw, key: raw.hdel(key, "seq")),
        ("{faults:sets}:sets", other_type),
        ("{faults:sets}:sets", lambda raw, key: raw.hset(key, "known", b"no set")),
        ("{faults:sets}:batches", newer_batch),
    ],
    ids=[
        "head",
        "count",
        "chunk",
        "sums",
        "odd sums",
        "sets' head",
        "no sets' position",
        "sets",
        "a set",
        "a batch",
    ],
)
async def test_it_is_waited_for(server: Server, key: str, harm: Callable[[Any, str], None]) -> None:
    """Who begins meanwhile says why, and follows once it can be read; who followed before never ends."""
    async with scene(server) as here:
        await here.store.put_batch(POOL[0].batch, Batch(origin="own-review"))
        right = here.raw.dump(key)
        harm(here.raw, key)
        late = connected(server)
        troubles = list[str]()
        try:
            async with following(late, on_trouble=troubles.append) as other:
                await until(lambda: troubles.count("store_refused") > 3)
                assert set(troubles) == {"store_refused"}
                assert not other.ready.is_set()
                here.raw.restore(key, 0, right, replace=True)
                await until(lambda: other.known.view().standing == "verified")
                assert found_ids(other.known.view(), POOL) == ids(POOL[:20])
        finally:
            await late.close()
        await here.write("withdraw", POOL[0])
        assert await here.found() == ids(POOL[1:20])
        await until(lambda: here.standing() == "verified" and here.follower.alarms.active == {})
