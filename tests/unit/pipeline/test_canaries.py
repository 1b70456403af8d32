"""The laws of canaries, in virtual time on a memory stream: they see what uploads see, and disturb nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from hashweir.canary import CANARY_SOURCE
from hashweir.errors import Unreachable
from hashweir.metrics import CANARY
from hashweir.model import Message, Record
from tests.unit.pipeline.world import TOPIC, Member, World
from tests.virtual_time import run


class Dead:
    """A sink that never takes anything."""

    async def start(self) -> None:
        raise Unreachable("stream_unreachable", "for the test")

    async def publish(self, messages: Sequence[Message]) -> None:
        raise AssertionError("it never started")

    async def stop(self) -> None: ...


def canaries(world: World) -> list[Record]:
    return [one for one in world.broker.records(TOPIC) if dict(one.headers)["ce_source"] == CANARY_SOURCE.encode()]


def turns(member: Member) -> dict[str, float]:
    counts = {result: member.value("canary_uploads_total", result=result) for result in CANARY}
    return {result: count for result, count in counts.items() if count}


def world_with_canary(partitions: int = 2) -> World:
    world = World(partitions)
    world.known.canary = True
    return world


def test_one_per_partition_and_period_is_sent_found_and_counted_apart() -> None:
    """Verdicts only; the traffic's own metrics and topics know nothing of them."""

    async def main() -> None:
        world = world_with_canary(partitions=3)
        world.upload("clear", 0)
        member = world.member(canary_s=10)
        await asyncio.sleep(65)
        assert turns(member) == {"found": 18}
        assert [len([one for one in canaries(world) if one.partition == n]) for n in range(3)] == [6, 6, 6]
        assert member.value("canary_seconds_count") == 18
        assert member.value("uploads_total", media="text", outcome="clear") == 1
        assert sum(member.value("uploads_total", media="text", outcome=one) for one in ("match", "unscanned")) == 0
        assert member.value("end_to_end_seconds_count", media="text") == 1
        assert member.value("stage_duration_seconds_count", stage="decode") == 1
        assert member.value("stage_duration_seconds_count", stage="ingest") == 1
        assert len(world.verdicts()) == 19
        assert world.ids("matches") == world.ids("dead-letters") == []
        await member.drain()
        assert sum(world.broker.committed("group").values()) == 19

    run(main())


def test_without_the_set_none_is_sent_and_each_turn_says_so() -> None:
    """A worker that may only read the store can't make it: the operator is told."""

    async def main() -> None:
        world = World()
        member = world.member(canary_s=10)
        await asyncio.sleep(35)
        assert not canaries(world)
        assert turns(member) == {"absent": 6}
        world.known.canary = True
        await asyncio.sleep(10)
        assert turns(member) == {"absent": 6, "found": 2}

    run(main())


def test_a_partition_that_stands_still_holds_one_canary_and_counts_the_silence() -> None:
    """However long it stands; then the old one is judged, and the next ones are found."""

    async def main() -> None:
        world = world_with_canary()
        member = world.member(canary_s=10)
        await asyncio.sleep(5)
        world.known.standing = "stale"
        await asyncio.sleep(1000)
        assert len(canaries(world)) == 2
        assert turns(member) == {"late": 2 * 99}
        world.known.standing = "verified"
        await asyncio.sleep(30)
        assert turns(member) == {"late": 2 * 99, "found": 2 * 3}, "those that were late are not found as well"
        assert member.value("canary_seconds_count") == 2 * 4

    run(main())


def test_what_another_worker_judged_meanwhile_is_not_waited_for() -> None:
    """A partition that goes and comes back begins anew, or it would be late for ever."""

    async def main() -> None:
        world = world_with_canary()
        first = world.member(canary_s=10)
        first.judge.canary_stuck = True
        await asyncio.sleep(11)
        first.judge.canary_stuck = False
        second = world.member(canary_s=1000)
        await world.until(lambda: len(world.verdicts()) == 2)
        await second.drain()
        await asyncio.sleep(20)
        late = turns(first).get("late", 0)
        await asyncio.sleep(50)
        assert turns(first).get("late", 0) == late
        assert turns(first)["found"] >= 2 * 5

    run(main())


def test_the_canarys_set_is_none_that_a_worker_waits_for() -> None:
    """Before the first set of the platform is active, uploads wait: else all would be answered by nothing."""

    async def main() -> None:
        world = world_with_canary()
        world.known.active = False
        world.upload("clear", 0)
        world.member(canary_s=10)
        await asyncio.sleep(60)
        assert not world.verdicts()
        world.known.active = True
        await world.until(lambda: world.wanted() <= set(world.verdicts()))

    run(main())


def test_a_canary_that_is_not_found_is_missed() -> None:
    """The verdict came, and says nothing of it: the search is at fault, or the scan."""

    async def main() -> None:
        world = world_with_canary()
        member = world.member(canary_s=10)
        member.judge.canary_fault = "scan_died"
        await asyncio.sleep(15)
        assert turns(member) == {"missed": 2}

    run(main())


def test_where_they_cannot_be_sent_uploads_go_on() -> None:
    """Missing rights on the uploads topic, or a broker that is away: one count, and nothing else."""

    async def main() -> None:
        world = world_with_canary()
        member = world.member(canary_s=10, canary_sink=Dead())
        for n in range(50):
            world.upload("clear", n % 2)
        await asyncio.sleep(35)
        assert turns(member) == {"unsent": 6}
        assert set(world.verdicts()) == world.wanted()
        assert not member.running.done()

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, "scan_died"])
def test_canaries_neither_trip_the_brake_nor_hold_it_off(fault: str | None) -> None:
    """200 dead letters in a row stop a partition, with good canaries between them; bad canaries alone never do."""

    async def main() -> None:
        world = world_with_canary(partitions=1)
        member = world.member(canary_s=1)
        member.judge.canary_fault = fault
        await asyncio.sleep(500)
        assert member.value("paused_partitions", why="brake") == 0
        for _ in range(199):
            world.upload("garbage", 0)
            await asyncio.sleep(2.1)
        assert member.value("paused_partitions", why="brake") == 0
        world.upload("garbage", 0)
        world.upload("clear", 0)
        await world.until(lambda: member.value("paused_partitions", why="brake") == 1)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_or_passed_while_workers_come_and_go(seed: int) -> None:
    """The law of every commit holds with canaries among the uploads, and those that survive sing on."""

    async def main() -> None:
        world, rng = world_with_canary(partitions=4), random.Random(seed)
        for _ in range(8):
            for _ in range(40):
                world.upload(f"slow {rng.random() * 2:.2f}", rng.randrange(4))
            alive = [one for one in world.members if one.alive]
            if len(alive) > 1 and rng.random() < 0.7:
                one = rng.choice(alive)
                if rng.random() < 0.5:
                    one.kill()
                else:
                    await one.drain()
            else:
                world.member(canary_s=rng.choice([0.5, 1, 3]))
            await asyncio.sleep(rng.random() * 10)
        last = world.member(canary_s=1)
        await world.until(lambda: world.wanted() <= set(world.verdicts()))
        await world.until(lambda: turns(last).get("found", 0) >= 8)
        late = turns(last).get("late", 0)
        await asyncio.sleep(20)
        assert turns(last).get("late", 0) == late
        assert world.ids("matches") == []

    run(main())
