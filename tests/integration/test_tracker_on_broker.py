"""The tracker and aiokafka on a real broker: whatever happens to the members, every upload gets an output.

This is the proof that the delivery rules hold before anything is built on them; the figures it prints are kept in
`service/decisions/0001-kafka-delivery-on-a-real-broker.md`.
"""

import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.integration.tracker_scenario import MemberProcess, Scenario, scenario
from tests.servers.kafka import KafkaBroker

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(150)]

KILLS = 10
KILL_EVERY = 2.0
FREEZE_SECONDS = 60.0


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    with KafkaBroker() as running:
        yield running


async def finish(run: Scenario, what: str) -> int:
    """All answered, members drained, nothing left uncommitted; gives the number of repeated outputs."""
    await run.until("every upload has an output", run.all_answered, 40)
    await run.stop_members()
    await run.read_outputs()
    assert set(run.outputs) == set(run.sent)
    assert await run.committed() == await run.ends()
    repeats = run.outputs.total() - len(run.outputs)
    failures = {name: member.failures for name, member in run.members.items()}
    print(f"{what}: sent {len(run.sent)}, lost 0, repeated {repeats}, restarts by failure {failures}")
    return repeats


def has(member: MemberProcess, kind: str, at_least: int = 1) -> bool:
    return len(member.events(kind)) >= at_least


def passed(moment: float) -> bool:
    return time.monotonic() > moment


async def test_no_upload_is_lost_when_a_member_is_killed_every_two_seconds(broker: KafkaBroker, tmp_path: Path) -> None:
    """SIGKILL at any moment loses nothing, and repeats at most what had not been committed."""
    async with scenario(broker.bootstrap, "kills", tmp_path, partitions=6) as run:
        steady, victim = run.member("steady"), run.member("victim")
        rate = 400
        async with run.feed(rate):
            await run.until("both work", lambda: has(steady, "assigned") and has(victim, "assigned"), 30)
            for kill in range(KILLS):
                due, seen = time.monotonic() + KILL_EVERY, len(victim.events("assigned"))
                await run.until("time to kill", partial(passed, due), 10)
                victim.kill()
                victim.start()
                await run.until(f"back after kill {kill}", partial(has, victim, "assigned", seen + 1), 15)
        # A kill repeats one commit interval and what was in flight; a second of the feed is ample.
        assert await finish(run, f"{KILLS} kills") <= KILLS * rate


async def test_no_upload_is_lost_when_a_member_freezes_for_longer_than_its_session(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    """A frozen member loses its partitions, comes back with stale work, and commits nothing that is not its own.

    Meanwhile partitions are added, and the survivor takes them up from their beginning.
    """
    async with scenario(broker.bootstrap, "freeze", tmp_path, partitions=4) as run:
        # Its sends outlive the freeze, or it would just ask for a new process when it thaws.
        steady, frozen = run.member("steady"), run.member("frozen", send_seconds=FREEZE_SECONDS + 30)
        async with run.feed(200):
            await run.until("both work", lambda: has(steady, "assigned") and has(frozen, "assigned"), 30)
            thaw_at = time.monotonic() + FREEZE_SECONDS
            frozen.signal(signal.SIGSTOP)
            everything = sorted(await run.ends())
            await run.until("takeover", lambda: steady.events("assigned")[-1]["partitions"] == everything, 30)
            await run.add_partitions(6)
            await run.until("new ones", lambda: len(steady.events("assigned")[-1]["partitions"]) == 6, 30)
            await run.until("end of the freeze", partial(passed, thaw_at), FREEZE_SECONDS)
            seen = len(frozen.events("assigned"))
            frozen.signal(signal.SIGCONT)
            await run.until("the frozen one works again", lambda: has(frozen, "assigned", seen + 1), 40)
        assert frozen.failures == 0
        assert {event["cause"] for event in frozen.events("commit_refused")} <= {"UnknownMemberIdError"}
        first = [event["partition"] for event in steady.events("first_position") if event["partition"] >= 4]
        assert sorted(first) == [4, 5]
        await finish(run, f"freeze of {FREEZE_SECONDS:.0f} s")


async def test_a_group_without_offsets_starts_at_its_explicit_first_position(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    """No committed offset means the beginning, never the end: a new group, and one whose offsets were deleted."""
    async with scenario(broker.bootstrap, "forgotten", tmp_path, partitions=3) as run:
        await run.send(300)
        member = run.member("only")
        await run.until("every upload has an output", run.all_answered, 40)
        await run.stop_members()
        assert {event["offset"] for event in member.events("first_position")} == {0}
        await run.until("offsets are deleted", lambda: run.forget_offsets(3), 30)
        assert await run.committed() == {}
        await run.send(50)
        member.start()
        assert await finish(run, "offsets deleted") == 300


async def test_a_log_cut_below_the_committed_position_halts_the_partition(broker: KafkaBroker, tmp_path: Path) -> None:
    """What the log has lost is named by its exact range; the partition is not skipped ahead, others go on."""
    async with scenario(broker.bootstrap, "cut", tmp_path, partitions=2) as run:
        await run.send(100, partition=0)
        await run.send(100, partition=1)
        member = run.member("only")
        await run.until("every upload has an output", run.all_answered, 40)
        await run.stop_members()
        before = await run.committed()
        await run.send(50, partition=0)
        lost = {name for name in run.sent if name not in run.outputs}
        await run.truncate(0, before[0] + 20)
        await run.send(50, partition=1)
        member.start()
        await run.until("the partition halts", lambda: has(member, "halted"), 30)
        for name in lost:
            del run.sent[name]
        await run.until("the other partition goes on", run.all_answered, 30)
        await run.stop_members()
        (halt,) = member.events("halted")
        cut = {"position": before[0], "log_start": before[0] + 20, "log_end": before[0] + 50}
        assert {key: halt[key] for key in cut} == cut
        assert not lost & run.outputs.keys()
        assert await run.committed() == {0: before[0], 1: before[1] + 50}


async def test_a_log_cut_under_a_running_member_halts_the_partition(broker: KafkaBroker, tmp_path: Path) -> None:
    """The same while it runs: the ids without an output are those of the named range and what follows it."""
    async with scenario(broker.bootstrap, "undercut", tmp_path, partitions=2) as run:
        await run.send(100, partition=0)
        member = run.member("only")
        await run.until("every upload has an output", run.all_answered, 40)
        member.signal(signal.SIGSTOP)
        names = set(run.sent)
        await run.send(5_000, partition=0)
        await run.send(50, partition=1)
        await run.truncate(0, 5_050)
        member.signal(signal.SIGCONT)
        await run.until("the partition halts", lambda: has(member, "halted"), 30)
        late = [name for name in run.sent if name not in names and run.sent[name] == 0]
        (halt,) = member.events("halted")
        # A fetch that was answered before the cut may still have been read: those have outputs.
        assert 100 <= halt["position"] < halt["log_start"] == 5_050
        missing = set(late[halt["position"] - 100 :])
        for name in missing:
            del run.sent[name]
        await run.until("the other partition goes on", run.all_answered, 30)
        await run.stop_members()
        assert not missing & run.outputs.keys()
        assert (await run.committed())[0] == halt["position"]


async def test_two_processes_under_one_static_id_say_so(broker: KafkaBroker, tmp_path: Path) -> None:
    """Neither could ever commit while each takes the id from the other: both end loudly instead of repeating."""
    async with scenario(broker.bootstrap, "twins", tmp_path, partitions=2) as run:
        one = run.member("one", instance="same")
        async with run.feed(100):
            await run.until("the first works", partial(has, one, "assigned"), 30)
            two = run.member("two", instance="same")
            await run.until("one of them ends", lambda: has(one, "failed") or has(two, "failed"), 30)
        reasons = [event["reason"] for event in one.events("failed") + two.events("failed")]
        assert all(reason.startswith("identity taken") for reason in reasons)
        causes = {event["cause"] for event in one.events("commit_refused") + two.events("commit_refused")}
        assert causes == {"UnknownMemberIdError"}
        one.kill()
        two.kill()
        run.members.clear()
        heir = run.member("heir", instance="same")
        # The twins may have answered all: without this the heir could be told to stop before it listens.
        await run.until("the heir works", partial(has, heir, "assigned"), 30)
        await finish(run, "twins")
