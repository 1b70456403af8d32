"""The laws of delivery, in virtual time on a memory stream.

Long because every law is short and all are told on the same small world.
"""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from hashweir.errors import HashweirError
from hashweir.pipeline.worker import Limits
from hashweir.ports import Standing
from tests.unit.pipeline.world import TOPIC, World
from tests.virtual_time import VirtualLoop, run


def test_every_upload_has_one_verdict_and_all_is_committed() -> None:
    """A quiet run: one verdict per upload, no repeat, commits at the end of each partition."""

    async def main() -> None:
        world = World(partitions=3)
        for n in range(300):
            world.upload("clear", n % 3)
        member = world.member()
        await world.until(lambda: len(world.verdicts()) == 300)
        assert await member.drain() == 0
        assert world.verdicts() == dict.fromkeys(world.wanted(), 1)
        assert world.broker.committed("group") == {(TOPIC, n): 100 for n in range(3)}
        assert member.value("uploads_total", media="text", outcome="clear") == 300
        assert member.value("end_to_end_seconds_count", media="text") == 300

    run(main())


def test_a_restart_after_a_drain_repeats_nothing() -> None:
    """Everything published before the drain's end is committed, so the successor publishes nothing twice."""

    async def main() -> None:
        world = World(partitions=4)
        rng = random.Random(1)
        for _ in range(20):
            for _ in range(30):
                world.upload(f"slow {rng.random() * 3:.2f}", rng.randrange(4))
            member = world.member()
            await asyncio.sleep(rng.random() * 4)
            assert await member.drain() == 0
        world.member()
        await world.until(lambda: set(world.verdicts()) == world.wanted())
        assert set(world.verdicts().values()) == {1}

    run(main())


def test_what_a_drain_must_leave_comes_again() -> None:
    """An upload that outlasts the drain is not committed, nor is anything behind it in its partition."""

    async def main() -> None:
        world = World(partitions=1)
        world.upload("clear", 0)
        world.upload("stuck", 0)
        world.upload("clear", 0)
        member = world.member()
        await world.until(lambda: len(world.verdicts()) == 2)
        assert await member.drain(5.0) == 1
        assert world.broker.committed("group") == {(TOPIC, 0): 1}
        successor = world.member()
        await world.until(lambda: sum(successor.judge.calls.values()) == 2)
        successor.judge.release.set()
        await world.until(lambda: set(world.verdicts()) == world.wanted())

    run(main())


def test_a_stuck_upload_holds_its_partition_at_the_cap_and_no_other() -> None:
    """Behind a stuck upload at most the span cap (and one poll) is taken; other partitions flow on."""

    async def main() -> None:
        world = World(partitions=2)
        world.upload("stuck", 0)
        for _ in range(3000):
            world.upload("clear", 0)
        others = {world.upload("clear", 1) for _ in range(500)}
        member = world.member()
        await world.until(lambda: others <= set(world.verdicts()) and len(world.verdicts()) >= 2547)
        await asyncio.sleep(30)
        assert len(world.verdicts()) - 500 < 2048 + 50
        assert member.value("paused_partitions", why="span") == 1
        assert world.broker.committed("group") == {(TOPIC, 1): 500}
        member.judge.release.set()
        await world.until(lambda: set(world.verdicts()) == world.wanted())
        await member.drain()

    run(main())


def test_what_is_held_at_once_is_bounded_in_items_and_bytes() -> None:
    """In flight stays under each cap plus one poll, whichever is reached first."""

    async def main(limits: Limits, most: int) -> None:
        world = World(partitions=2)
        for n in range(600):
            world.upload(f"slow 1 {'x' * 1000}", n % 2)
        member = world.member(limits)
        seen = 0
        while len(world.verdicts()) < 600:
            seen = max(seen, len(member.worker._tasks))
            await asyncio.sleep(0.01)
        assert 0 < seen <= most
        await member.drain()

    run(main(Limits(in_flight_items=100), 80 + 50))
    run(main(Limits(in_flight_bytes=50_000), 40 + 50))


@pytest.mark.parametrize("standing", ["empty", "stale", "doubtful"])
def test_no_verdict_while_what_is_known_is_not_verified(standing: Standing) -> None:
    """Uploads wait, those in flight too, until the state is verified; then every one is judged."""

    async def main() -> None:
        world = World()
        for n in range(20):
            world.upload("slow 2", n % 2)
        member = world.member()
        await asyncio.sleep(1)
        world.known.standing = standing
        await asyncio.sleep(0.2)  # the poll under way still delivers
        for n in range(20):
            world.upload("clear", n % 2)
        await asyncio.sleep(300)
        assert not world.verdicts()
        assert sum(member.judge.calls.values()) == 20, "those in flight waited, the rest was not taken"
        assert member.value("paused_partitions", why="standing") == 2
        world.known.standing = "verified"
        await world.until(lambda: set(world.verdicts()) == world.wanted(), 10)
        assert member.value("paused_partitions", why="standing") == 0
        await member.drain()

    run(main())


def test_the_start_waits_for_an_active_set_and_later_times_do_not() -> None:
    """Nothing is judged before the first active set unless that is allowed; switching it off again stops nothing."""

    async def main() -> None:
        world = World()
        world.known.active = False
        world.upload("clear", 0)
        member = world.member()
        await asyncio.sleep(60)
        assert not world.verdicts()
        world.known.active = True
        await world.until(lambda: len(world.verdicts()) == 1, 10)
        world.known.active = False
        world.upload("clear", 0)
        await world.until(lambda: len(world.verdicts()) == 2, 10)
        await member.drain()
        world.upload("clear", 0)
        await asyncio.gather(world.member(allow_empty=True).running, until_then(world, 3))

    async def until_then(world: World, count: int) -> None:
        await world.until(lambda: len(world.verdicts()) == count, 10)
        world.members[-1].worker.stop_polling()

    run(main())


def test_a_broker_that_goes_away_pauses_everything_and_comes_back_by_itself() -> None:
    """While the broker is down nothing is lost and nothing given up; afterwards all goes on without help."""

    async def main() -> None:
        world = World()
        for n in range(100):
            world.upload("slow 1", n % 2)
        member = world.member()
        await asyncio.sleep(0.5)
        world.broker.up = False
        await asyncio.sleep(120)
        assert not world.verdicts()
        assert member.value("paused_partitions", why="source") == 2
        world.broker.up = True
        await world.until(lambda: set(world.verdicts()) == world.wanted(), 30)
        await world.until(lambda: member.value("paused_partitions", why="source") == 0, 30)
        await member.drain()
        assert not world.ids("dead-letters")

    run(main())


def test_a_fault_of_ours_ends_at_its_upload() -> None:
    """An error that passes is tried again; one that stays becomes an `unscanned` verdict and a dead letter."""

    async def main() -> None:
        world = World(partitions=1)
        world.upload("flaky", 0)
        bad = world.upload("raise", 0)
        world.upload("clear", 0)
        member = world.member()
        await world.until(lambda: world.broker.committed("group") == {(TOPIC, 0): 3})
        assert set(world.verdicts()) == world.wanted()
        assert member.judge.refused == ["internal_error"]
        assert world.ids("dead-letters") == [bad]
        assert member.value("dead_letters_total", reason="internal_error") == 1
        assert member.value("unscanned_total", reason="internal_error", **{"class": "fault"}) == 1
        await member.drain()

    run(main())


def test_where_not_even_a_refusal_can_be_made_the_partition_stops() -> None:
    """Nothing is committed past such an upload; the other partition goes on."""

    async def main() -> None:
        world = World(partitions=2)
        world.upload("raise", 0)
        world.upload("clear", 1)
        member = world.member()
        member.judge.broken_refusal = True
        await world.until(lambda: member.value("paused_partitions", why="brake") == 1, 120)
        await member.drain()
        assert world.broker.committed("group") == {(TOPIC, 1): 1}

    run(main())


def test_the_brake_stops_a_partition_before_it_is_drained_into_dead_letters() -> None:
    """After a bad deploy at most 200 dead letters are written; those held come again after a restart."""

    async def main() -> None:
        world = World(partitions=2)
        for _ in range(1000):
            world.upload("garbage", 0)
        good = {world.upload("clear", 1) for _ in range(100)}
        member = world.member()
        await world.until(lambda: member.value("paused_partitions", why="brake") == 1)
        await asyncio.sleep(60)
        assert len(world.ids("dead-letters")) <= 200
        assert good <= set(world.verdicts())
        await member.drain()
        assert world.broker.committed("group")[TOPIC, 0] < 200

    run(main())


def test_lost_records_halt_their_partition_and_are_counted() -> None:
    """Retention that overtook the group is never skipped in silence."""

    async def main() -> None:
        world = World(partitions=2)
        for n in range(20):
            world.upload("clear", n % 2)
        world.broker.delete_before((TOPIC, 0), 4)
        member = world.member()
        await world.until(lambda: len(world.verdicts()) == 10)
        await asyncio.sleep(5)
        assert len(world.verdicts()) == 10
        assert member.value("lost_records_total", topic=TOPIC, partition="0") == 4
        assert member.value("paused_partitions", why="lost_range") == 1
        await member.drain()
        assert world.broker.committed("group") == {(TOPIC, 1): 10}

    run(main())


def test_a_stream_that_is_silent_though_behind_ends_the_process() -> None:
    """Assigned, lag, not paused, no record for a minute: only a new process helps. Paused, it is no news."""

    async def main() -> None:
        world = World(partitions=1)
        member = world.member()
        await world.until(lambda: member.worker.assigned)
        world.known.standing = "doubtful"
        await asyncio.sleep(1)
        member.source._halted.add((TOPIC, 0))  # the client delivers nothing more and does not say so
        world.upload("clear", 0)
        await asyncio.sleep(120)
        assert not member.running.done()
        world.known.standing = "verified"
        began = asyncio.get_running_loop().time()
        with pytest.raises(HashweirError, match="behind") as caught:
            await member.running
        assert caught.value.reason == "stream_stuck"
        assert 59 <= asyncio.get_running_loop().time() - began < 65

    run(main())


def test_a_stolen_identity_ends_the_process() -> None:
    """Two workers under one instance id would take turns for ever."""

    async def main() -> None:
        world = World()
        member = world.member()
        await world.until(lambda: member.worker.assigned)
        member.source.fence()
        with pytest.raises(HashweirError) as caught:
            await member.running
        assert caught.value.reason == "stream_fenced"

    run(main())


def test_a_worker_that_was_itself_suspended_does_not_blame_the_stream() -> None:
    """Minutes that this process did not run are not the stream's silence; a minute of waking silence is."""

    async def main() -> None:
        world = World(partitions=1)
        member = world.member()
        await world.until(lambda: member.worker.assigned)
        member.source._halted.add((TOPIC, 0))
        world.upload("clear", 0)
        await asyncio.sleep(5)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.virtual.now += 1000
        await asyncio.sleep(30)
        assert not member.running.done()
        await asyncio.sleep(30)
        assert isinstance(member.running.exception(), HashweirError)

    run(main())


def test_what_outlasts_its_assignment_is_not_published_by_the_former_owner() -> None:
    """After the bounded drain the upload belongs to the next assignment alone: one verdict, not two."""

    async def main() -> None:
        world = World(partitions=1)
        world.upload("slow 8", 0)
        member = world.member()
        await asyncio.sleep(3)
        world.member()
        await world.until(lambda: bool(world.broker.committed("group")))
        await asyncio.sleep(30)
        assert sum(member.judge.calls.values()) == 2
        assert list(world.verdicts().values()) == [1]

    run(main())


def test_a_commit_that_comes_too_late_costs_nothing_but_the_repeat() -> None:
    """A refused commit is counted; the worker takes nothing more of that assignment and goes on with the next."""

    async def main() -> None:
        world = World(partitions=1)
        member = world.member()
        await world.until(lambda: member.worker.assigned)
        world.upload("clear", 0)
        member.source._epoch += 1  # the broker has moved on, and the worker was not told yet
        await world.until(lambda: member.value("commit_failures_total") == 1)
        member.source._epoch -= 1
        for _ in range(5):
            world.upload("clear", 0)
        await asyncio.sleep(5)
        assert len(world.verdicts()) == 1
        assert not world.broker.committed("group")
        other = world.member()
        await world.until(lambda: world.broker.committed("group") == {(TOPIC, 0): 6})
        assert not member.running.done()
        await asyncio.gather(member.drain(), other.drain())

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_lost_whatever_happens(seed: int) -> None:
    """Kills, joins, drains, outages, doubt, slow and bad uploads in any order: every upload gets its verdict.

    The source checks at each commit that nothing below it lacks a verdict; repeats have equal ids by construction.
    """

    async def main() -> None:
        rng = random.Random(seed)
        world = World(partitions=rng.randint(1, 5))
        # Faults stay below the 5 % that would trip the brake.
        kinds = ["clear"] * 60 + ["slow 0.5"] * 15 + ["slow 8", "slow 8", "flaky", "raise", "garbage", "fault"]
        limits = Limits(in_flight_items=rng.choice([10, 100]), revoke_drain_s=rng.choice([0.0, 1.0, 10.0]))
        world.member(limits)
        for _ in range(60):
            for _ in range(rng.randint(0, 10)):
                world.upload(rng.choice(kinds), rng.randrange(len(world.broker.partitions(TOPIC))))
            await asyncio.sleep(rng.choice([0.0, 0.05, 0.3, 2.0]))
            alive = [one for one in world.members if one.alive]
            match rng.randrange(8):
                case 0 if alive:
                    rng.choice(alive).kill()
                case 1 if alive:
                    await rng.choice(alive).drain(rng.choice([0.0, 5.0, 19.0]))
                case 2 | 3 if len(alive) < 3 and world.broker.up:
                    world.member(limits)
                case 4:
                    world.broker.up = not world.broker.up
                case 5:
                    world.known.standing = rng.choice(["doubtful", "stale", "verified", "degraded"])
                case _:
                    world.broker.up, world.known.standing = True, "verified"
        world.broker.up, world.known.standing = True, "verified"
        last = world.member(limits)
        await world.until(lambda: set(world.verdicts()) == world.wanted())
        for one in world.members:
            if one is not last and one.alive:
                await one.drain()
        ends = {one: world.broker.bounds(one)[1] for one in world.broker.partitions(TOPIC)}
        wanted = {one: end for one, end in ends.items() if end}
        await world.until(lambda: world.broker.committed("group") == wanted)
        assert await last.drain() == 0

    run(main())


def test_how_long_the_oldest_record_waits_is_told_whether_it_was_taken_or_not() -> None:
    """In flight it is that record's own time; not yet taken, the moment since which there is lag; done, 0."""

    async def main() -> None:
        world = World(partitions=1)
        member = world.member()

        def oldest() -> float:
            return member.value("oldest_unfinished_timestamp_seconds", topic=TOPIC, partition="0")

        def now() -> float:
            return world.broker.clock.now_ms() / 1000

        await asyncio.sleep(100)
        assert oldest() == 0
        began = now()
        world.upload("stuck", 0)
        await asyncio.sleep(300)
        world.upload("stuck", 0)
        await asyncio.sleep(10)
        assert oldest() == pytest.approx(began, abs=0.2)
        member.judge.release.set()
        await asyncio.sleep(10)
        assert oldest() == 0
        world.known.standing = "stale"
        await asyncio.sleep(100)
        paused_at = now()
        world.upload("clear", 0)
        await asyncio.sleep(500)
        assert member.value("lag_records", topic=TOPIC, partition="0") == 1
        assert oldest() == pytest.approx(paused_at, abs=1.5)
        await member.drain()

    run(main())


@pytest.mark.parametrize("known", [True, False])
def test_a_rebalance_makes_nothing_younger(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a paused partition holds is as old as before, whether or not the source knows the next record's time."""

    async def main() -> None:
        world = World(partitions=2)
        world.known.standing = "stale"
        member = world.member()
        if not known:
            monkeypatch.setattr(member.source, "waiting_ms", dict)
        await world.until(lambda: member.worker.assigned)
        began = world.broker.clock.now_ms() / 1000
        world.upload("clear", 0)
        await asyncio.sleep(3600)
        other = world.member()
        await world.until(lambda: member.value("rebalances_total") == 2 and other.worker.assigned)
        for holder, partition in ((member, "0"), (other, "1")):
            wanted = began if partition == "0" else 0
            await asyncio.sleep(2)
            oldest = holder.value("oldest_unfinished_timestamp_seconds", topic=TOPIC, partition=partition)
            assert oldest == pytest.approx(wanted, abs=1.5)
        await asyncio.gather(member.drain(), other.drain())

    run(main())


def test_who_takes_over_what_waits_knows_how_old_it_is() -> None:
    """A new worker that may not judge yet tells the age of the records, not that of itself."""

    async def main() -> None:
        world = World(partitions=1)
        world.known.standing = "stale"
        began = world.broker.clock.now_ms() / 1000
        world.upload("clear", 0)
        await asyncio.sleep(3 * 86_400)
        member = world.member()
        await asyncio.sleep(3)
        assert member.value("paused_partitions", why="standing") == 1
        oldest = member.value("oldest_unfinished_timestamp_seconds", topic=TOPIC, partition="0")
        assert oldest == pytest.approx(began, abs=0.1)
        await member.drain()

    run(main())


def test_what_another_worker_had_meanwhile_is_not_as_old_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Age is kept from one assignment to the next only: in between, others may have done the work."""

    async def main() -> None:
        world = World(partitions=2)
        member = world.member()
        monkeypatch.setattr(member.source, "waiting_ms", dict)
        await world.until(lambda: member.worker.assigned)
        world.known.standing = "stale"
        await asyncio.sleep(1)
        world.upload("clear", 1)
        await asyncio.sleep(3600)
        other = world.member()
        await world.until(lambda: member.value("partitions_assigned") == other.value("partitions_assigned") == 1)
        world.known.standing = "verified"
        await world.until(lambda: len(world.verdicts()) == 1)
        world.known.standing = "stale"
        await asyncio.sleep(1)
        world.upload("clear", 1)
        now = world.broker.clock.now_ms() / 1000
        await other.drain()
        await world.until(lambda: member.value("partitions_assigned") == 2)
        await asyncio.sleep(2)
        oldest = member.value("oldest_unfinished_timestamp_seconds", topic=TOPIC, partition="1")
        assert oldest == pytest.approx(now, abs=5)
        await member.drain()

    run(main())


def test_the_last_word_on_age_stays_while_the_assignment_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that has given its partitions up says nothing of them: that is not the same as no lag."""

    async def main() -> None:
        world = World(partitions=1)
        world.known.standing = "stale"
        member = world.member()
        world.upload("clear", 0)
        await asyncio.sleep(100)
        labels = {"topic": TOPIC, "partition": "0"}
        before = member.value("oldest_unfinished_timestamp_seconds", **labels)
        monkeypatch.setattr(member.source, "lag", dict)
        await asyncio.sleep(5)
        assert member.value("oldest_unfinished_timestamp_seconds", **labels) == before > 0
        assert member.value("lag_records", **labels) == 1
        await member.drain()

    run(main())


def test_a_lost_range_is_counted_once_however_often_it_is_told() -> None:
    """Each assignment tells it anew; only what it has grown by is new."""

    async def main() -> None:
        world = World(partitions=1)
        for _ in range(20):
            world.upload("clear", 0)
        world.broker.delete_before((TOPIC, 0), 4)
        member = world.member()

        def lost() -> float:
            return member.value("lost_records_total", topic=TOPIC, partition="0")

        async def rebalance() -> None:
            before = member.value("rebalances_total")
            other = world.member()
            await world.until(lambda: member.value("rebalances_total") > before)
            await other.drain()
            await world.until(lambda: member.value("paused_partitions", why="lost_range") == 1)

        await world.until(lambda: lost() == 4)
        await rebalance()
        assert lost() == 4
        world.broker.delete_before((TOPIC, 0), 10)
        await rebalance()
        assert lost() == 10
        await member.drain()

    run(main())


def test_a_record_without_a_time_is_not_as_old_as_the_epoch() -> None:
    """Old producers send none; their uploads must not count as decades late."""

    async def main() -> None:
        world = World(partitions=1)
        world.upload("clear", 0)
        log = world.broker._log((TOPIC, 0)).records
        log[0] = msgspec.structs.replace(log[0], timestamp_ms=0)
        member = world.member()
        await world.until(lambda: member.value("end_to_end_seconds_count", media="text") == 1)
        assert member.value("end_to_end_seconds_sum", media="text") < 60
        await member.drain()

    run(main())
