"""The long lane: what takes minutes is handed on by reference, and nothing is lost or judged as another upload."""

from __future__ import annotations

import asyncio
import random

import pytest

from hashweir.model import Record, Upload
from hashweir.pipeline import ingest
from hashweir.pipeline.deliver import takes_long
from hashweir.pipeline.emit import FIRST_SEEN, LONG_TOPIC, Emitter
from tests.unit.pipeline.world import TOPIC, World
from tests.virtual_time import run

HEADERS = (
    ("content-type", ingest.UPLOAD_JSON.encode()),
    ("ce_account", b"a1"),
    ("ce_surface", b"post"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
)
VALUE = b'{"uri": "file:///srv/a.mp4", "media_type": "video/mp4", "size": 5}'


@pytest.mark.parametrize(
    "headers", [(), (("ce_id", b"u1"), ("ce_source", b"s1")), (("ce_id", b"\xff"), ("CE_ID", b"u2"), ("ce_x", b"\xff"))]
)
def test_a_relayed_upload_is_the_same_upload(headers: tuple[tuple[str, bytes], ...]) -> None:
    """Whatever its envelope lacked or had too much of: the second record is read as the first was."""
    record = Record(topic=TOPIC, partition=3, offset=7, timestamp_ms=11, value=VALUE, headers=HEADERS + headers)
    upload = ingest.read(record, "default", 999)
    message = Emitter(worker="w", versions={}).relayed(upload, record)
    assert message.topic == LONG_TOPIC
    again = Record(
        topic=LONG_TOPIC, partition=0, offset=0, timestamp_ms=99, value=message.value, headers=message.headers
    )
    assert ingest.read(again, "another default", 999) == upload
    assert dict(message.headers)[FIRST_SEEN] == b"11"


def test_only_videos_by_reference_take_long() -> None:
    def upload(uri: str | None, media_type: str | None) -> Upload:
        return Upload(source="s", id="1", uri=uri, media_type=media_type)

    assert takes_long(upload("file:///a", "video/mp4"))
    assert not any(
        takes_long(upload(*one))
        for one in (("file:///a", "image/png"), ("file:///a", None), (None, "video/mp4"), (None, None))
    )


def test_videos_are_judged_in_their_own_lane_and_pictures_do_not_wait() -> None:
    """A relayed upload has one verdict, which says its lane; the main lane is committed past it meanwhile."""

    async def main() -> None:
        world = World(relays=True)
        names = [world.video(n % 2, named=n > 3) for n in range(8)]
        for n in range(20):
            world.upload("clear", n % 2)
        member = world.member()
        await world.until(lambda: len(world.verdicts()) == 20)
        assert await member.drain() == 0
        assert world.broker.committed("group") == {(TOPIC, 0): 14, (TOPIC, 1): 14}
        assert sorted(world.ids(LONG_TOPIC)) == sorted(names)
        assert member.value("relayed_total") == 8
        long = world.member(long=True)
        await world.until(lambda: set(world.verdicts()) == world.wanted())
        assert set(world.verdicts().values()) == {1}
        lanes = [dict(record.headers)["lane"] for record in world.broker.records("verdicts")]
        assert (lanes.count(b"main"), lanes.count(b"long")) == (20, 8)
        assert (long.value("relayed_total"), long.value("end_to_end_seconds_count", media="text")) == (0, 8)

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_members_of_both_lanes_die_and_nothing_is_lost(seed: int) -> None:
    """Kills and outages of the broker: no commit passes an upload that was neither judged nor handed on (the sources
    watch it), and in the end each has its verdict."""

    async def main() -> None:
        world, rng = World(relays=True), random.Random(seed)
        lanes = {long: [world.member(long=long)] for long in (False, True)}
        for _ in range(25):
            for _ in range(8):
                world.video(rng.randrange(2))
                world.upload(f"slow {rng.random():.2f}", rng.randrange(2))
            world.broker.up = rng.random() > 0.2
            await asyncio.sleep(rng.random() * 3)
            world.broker.up = True
            for long, members in lanes.items():
                if rng.random() < 0.4:
                    members.pop().kill()
                    members.append(world.member(long=long))
            await asyncio.sleep(0.1)  # whoever joins finds the broker up
        await world.until(lambda: set(world.verdicts()) == world.wanted())

    run(main())


def test_without_the_key_a_video_is_judged_in_place() -> None:
    async def main() -> None:
        world = World()
        world.video(0)
        world.member()
        await world.until(lambda: set(world.verdicts()) == world.wanted())
        assert world.ids(LONG_TOPIC) == []

    run(main())
