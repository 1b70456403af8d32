"""Followers of a part of the shards: together they find what a follower of all finds, and none ever says clear."""

from __future__ import annotations

import asyncio
import random

import pytest

from hashweir.errors import ConfigError
from hashweir.model import Entry, Fingerprint, Upload, Verdict
from hashweir.pipeline.decide import decide
from hashweir.pipeline.lookup import lookup
from hashweir.pipeline.match import given
from hashweir.ports import View
from hashweir.shards.follow import Follower
from hashweir.shards.subset import parse
from tests.contract.following import SetClock, caught_up, following, found_ids
from tests.contract.stores import SHARDS, Deployments, shard_of
from tests.contract.test_known import POOL, begun

SEED = 15


def judged(entry: Entry, view: View) -> Verdict:
    """The verdict on an upload that is this entry's media."""
    fingerprint = Fingerprint(
        kind=entry.kind, form=entry.form, recipe="a/b/1", value=entry.value, quality=100, length=entry.length
    )
    media_type = "text/plain" if entry.kind in ("tlsh", "text") else "image/png"
    upload = Upload(source="s", id=entry.id, media_type=media_type, fingerprints=(fingerprint,))
    scan = given(upload)
    return decide(upload, scan, lookup(view, scan.fingerprints), view)


async def test_parts_find_together_what_the_whole_finds(fresh: Deployments) -> None:
    """After any changes each part finds its own entries, says match or unscanned, and names what is missing."""
    rng = random.Random(SEED)
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        async with (
            following(await deployment.connect()) as all_of_it,
            following(await deployment.connect(), only=parse(f"0/{SHARDS}")) as first,
            following(await deployment.connect(), only=parse(f"1/{SHARDS}")) as second,
        ):
            for _ in range(6):
                some = rng.sample(POOL, rng.randint(1, 12))
                await (writer.add(*some) if rng.random() < 0.7 else writer.withdraw(*some))
                whole = await caught_up(all_of_it, store)
                parts = [await caught_up(one, store) for one in (first, second)]
                assert len({view.position for view in (whole, *parts)}) == 3
                assert [view.missing for view in (whole, *parts)] == ["", f"1/{SHARDS}", f"0/{SHARDS}"]
                for number, view in enumerate(parts):
                    mine = {entry.id for entry in POOL if shard_of(entry) == number}
                    assert found_ids(view, POOL) == writer.active & mine
                for entry in POOL:
                    said = [judged(entry, view) for view in parts]
                    assert {one.outcome for one in said} <= {"match", "unscanned"}
                    assert all(one.reason in (None, "shards_missing") for one in said)
                    assert [one.notes for one in said] == [(f"shards_missing:{view.missing}",) for view in parts]
                    together = any(one.outcome == "match" for one in said)
                    assert together == (judged(entry, whole).outcome == "match")
            assert [one.shard for one in second.stats()] == [1]


async def test_changes_elsewhere_do_not_move_a_part(fresh: Deployments) -> None:
    """A position covers the shards that are followed: what is written to others leaves it as it is."""
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        async with following(await deployment.connect(), only=parse(f"0/{SHARDS}")) as follower:
            before = await caught_up(follower, store)
            await writer.add(*(entry for entry in POOL if shard_of(entry) == 1))
            assert (await caught_up(follower, store)).position == before.position
            await writer.add(*(entry for entry in POOL if shard_of(entry) == 0))
            assert (await caught_up(follower, store)).position != before.position


async def test_another_number_of_shards_ends_the_follower(fresh: Deployments) -> None:
    """It can't be waited for, so it is told at once."""
    async with fresh() as deployment:
        store = await deployment.connect()
        with pytest.raises(ConfigError) as refused:
            await asyncio.wait_for(Follower(store, SetClock(), only=parse("0-3/16")).run(), 5)
        assert refused.value.reason == "shards_mismatch"
