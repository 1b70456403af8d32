"""What every store promises of sets, batches and its own creation."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hashweir.errors import InputError, Refused
from hashweir.model import Batch, Set, SetState
from hashweir.ports import Position
from tests.contract.stores import SHARDS, Deployments, add, entries, part, shard_of

EXAMPLES = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def a_set(name: str = "known", state: SetState = "shadow") -> Set:
    return Set(name=name, owner="team", origin="own-review", state=state)


steps = st.lists(
    st.tuples(
        st.sampled_from(["one", "two", "three"]),
        st.sampled_from(["create", "right", "stale"]),
        st.sampled_from(["shadow", "active", "off"]),
        st.booleans(),
    ),
    max_size=12,
)


@given(steps=steps)
@EXAMPLES
async def test_sets_are_a_dict_with_versions(fresh: Deployments, steps: list[tuple[str, str, SetState, bool]]) -> None:
    """Versions are the dense sequence of changes, numbers those of first appearance; conflicts change nothing."""
    async with fresh() as deployment:
        store = await deployment.connect()
        start = (await store.read_sets()).position
        known: dict[str, Set] = {}
        seq = 0
        for number, (name, how, state, repeat) in enumerate(steps):
            now, wanted = known.get(name), a_set(name, state)
            expected = {"create": 0, "right": now.version if now else 5, "stale": 999}[how]
            reason = (
                None
                if (now is None) == (expected == 0) and (now is None or now.version == expected)
                else "set_exists"
                if expected == 0
                else "set_not_found"
                if now is None
                else "set_changed"
            )
            if reason:
                with pytest.raises(Refused) as e:
                    await store.put_set(f"op-{number}", wanted, expected)
                assert e.value.reason == reason
                continue
            seq += 1
            stored = replace(wanted, number=now.number if now else len(known) + 1, version=seq)
            assert await store.put_set(f"op-{number}", wanted, expected) == stored
            known[name] = stored
            if repeat:
                other = await deployment.connect()
                assert await other.put_set(f"op-{number}", wanted, expected) == stored
        state_now = await store.read_sets()
        assert state_now.position == Position(start.epoch, seq)
        assert state_now.sets == tuple(sorted(known.values(), key=lambda s: s.number))
        assert state_now.time_ms > 0


async def test_an_operation_id_stands_for_one_change_of_a_set(fresh: Deployments) -> None:
    """The same id with another policy is refused."""
    async with fresh() as deployment:
        store = await deployment.connect()
        await store.put_set("op", a_set(), 0)
        with pytest.raises(Refused, match="another change"):
            await store.put_set("op", a_set(state="off"), 0)
        assert (await store.read_sets()).sets[0].state == "shadow"


async def test_of_two_who_change_a_set_one_is_told_to_read_again(fresh: Deployments) -> None:
    """Nobody overwrites what they have not seen."""
    async with fresh() as deployment:
        one, two = await deployment.connect(), await deployment.connect()
        version = (await one.put_set("create", a_set(), 0)).version
        results = await asyncio.gather(
            one.put_set("one", a_set(state="active"), version),
            two.put_set("two", a_set(state="off"), version),
            return_exceptions=True,
        )
        refused = [r for r in results if isinstance(r, Refused)]
        assert [r.reason for r in refused] == ["set_changed"]
        assert (await one.read_sets()).position.seq == 2


async def test_a_reader_of_sets_is_woken_by_a_change(fresh: Deployments) -> None:
    """Waiting ends with the change, at once where it happened already, and without one at its time."""
    async with fresh() as deployment:
        reader, writer = await deployment.connect(), await deployment.connect()
        before = (await reader.read_sets()).position
        assert not await reader.wait_sets(before, 1)
        assert not await reader.wait_sets(before, 0)
        waiting = asyncio.create_task(reader.wait_sets(before, 30_000))
        await writer.put_set("op", a_set(), 0)
        assert await waiting
        assert await reader.wait_sets(before, 30_000)
        assert await reader.wait_sets(Position(before.epoch - 1, 99), 30_000)


async def test_batches_are_kept_once(fresh: Deployments) -> None:
    """The first record of an id stays; unknown ids are left out."""
    async with fresh() as deployment:
        store = await deployment.connect()
        batch = Batch(origin="vetted-exchange", labels=("flag",), note="from März", principal="analyst")
        for _ in range(2):
            await store.put_batch("aa" * 8, batch)
        assert await store.read_batches(["aa" * 8, "bb" * 8]) == {"aa" * 8: batch}
        assert await store.read_batches([]) == {}


async def test_a_store_is_created_once(fresh: Deployments) -> None:
    """Before creation nothing answers; a second creation changes nothing; the number of shards stays."""
    async with fresh() as deployment:
        store = await deployment.connect(create=False)
        for early in (store.open(), store.read_sets()):
            with pytest.raises(Refused) as e:
                await early
            assert e.value.reason == "store_not_created"
        with pytest.raises(InputError):
            await store.create(0)
        assert await store.create(SHARDS)
        heads = await store.heads()
        assert not await store.create(SHARDS + 3)
        other = await deployment.connect(create=False)
        await other.open()
        assert other.shards == SHARDS
        assert [head.position for head in await other.heads()] == [head.position for head in heads]
        assert len({head.position.epoch for head in heads}) == SHARDS
        assert {(head.layout, head.total, head.role) for head in heads} == {(1, 0, "master")}
        assert len({(head.time_ms, head.replication_id) for head in heads}) == 1
        assert not {head.position.seq for head in heads} - {0}


async def test_creation_at_once_by_two_makes_one_store(fresh: Deployments) -> None:
    """Both end with the same shards."""
    async with fresh() as deployment:
        one, two = await deployment.connect(create=False), await deployment.connect(create=False)
        await asyncio.gather(one.create(2), two.create(5))
        await asyncio.gather(one.open(), two.open())
        assert one.shards == two.shards
        assert [h.position for h in await one.heads()] == [h.position for h in await two.heads()]
        entry = next(entries())
        here = part("op", add(entry), shard=shard_of(entry, one.shards))
        assert (await one.apply(here)).results == (await two.apply(here)).results == ("added",)
