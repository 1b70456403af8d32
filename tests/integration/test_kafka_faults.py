"""Kafka and its client at their worst: what was promised holds, what is lost is named, what is stuck says so.

Long because each fault is a story of its own, told on the same two readers and the same broker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hashweir.adapters.kafka_admin import KafkaAdmin
from hashweir.adapters.kafka_link import Access, within
from hashweir.adapters.kafka_position import Timing
from hashweir.adapters.kafka_sink import KafkaSink
from hashweir.adapters.kafka_source import KafkaSource
from hashweir.errors import HashweirError, Unreachable
from hashweir.model import Message, Record
from hashweir.ports import Partition, RangeLost
from tests.integration.kafka_member import BRISK, OUTPUTS, KafkaMember, expected, make_topics, member, verdicts
from tests.kafka_world import KafkaWorld, until
from tests.servers.kafka import KafkaBroker

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def frail_broker() -> Iterator[KafkaBroker]:
    """A broker to be killed and frozen."""
    with KafkaBroker() as running:
        yield running


@pytest.fixture
async def frail(frail_broker: KafkaBroker) -> AsyncIterator[KafkaWorld]:
    async with KafkaWorld(frail_broker.bootstrap) as world:
        yield world


class Listener:
    def __init__(self) -> None:
        self.epoch = 0
        self.partitions: list[Partition] = []

    async def on_assigned(self, epoch: int, partitions: Sequence[Partition]) -> None:
        self.epoch, self.partitions = epoch, list(partitions)

    async def on_revoked(self, epoch: int) -> None:
        self.partitions = []


class Reader:
    """One source with what it gave."""

    def __init__(self, world: KafkaWorld, topic: str, *, first_position: str = "earliest", timing: Timing = BRISK):
        self.listener = Listener()
        self.records: list[Record] = []
        self.lost: list[RangeLost] = []
        self.source = KafkaSource(
            Access(bootstrap=world.bootstrap, connect_s=5.0, answer_s=1.0),
            group=world.group,
            topic=topic,
            first_position="latest" if first_position == "latest" else "earliest",
            timing=timing,
        )

    async def __aenter__(self) -> Reader:
        await self.source.start(self.listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.source.stop()

    async def read(self, what: str, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}; lost {self.lost}"
            try:
                self.records += await self.source.poll(0.05)
            except RangeLost as lost:
                self.lost.append(lost)

    def values(self, partition: int) -> list[bytes]:
        return [one.value for one in self.records if one.partition == partition]


def numbered(first: int, last: int) -> list[bytes | None]:
    return [b"%d" % n for n in range(first, last)]


def lost_ranges(reader: Reader) -> list[tuple[int, int, int]]:
    return [(one.partition[1], one.first, one.after_last) for one in reader.lost]


# ── the broker ──


@pytest.mark.slow
async def test_a_worker_outlives_its_broker(frail_broker: KafkaBroker, frail: KafkaWorld) -> None:
    """Killed under load and started again: paused and alarmed meanwhile, then on by itself, nothing lost."""
    topic = await make_topics(frail, 3)
    async with member(frail, "steady") as one:
        for partition in range(3):
            await frail.produce(topic, numbered(0, 500), partition)
        await until("it works", lambda: one.value("end_to_end_seconds_count", media="text") > 0)
        frail_broker.kill()
        await until("it pauses", lambda: one.value("paused_partitions", why="source") == 3)
        assert {"stream.unreachable", "stream.poll_failed", "stream.paused"} <= set(one.heard.events)
        await asyncio.to_thread(frail_broker.start)
        for partition in range(3):
            await frail.produce(topic, numbered(500, 600), partition)
        wanted = expected(await frail.records(topic))
        assert len(wanted) == 1_800

        async def answered() -> bool:
            return (await verdicts(frail)).keys() >= wanted

        await until("every upload has its verdict", answered, 60)
        await until("it is no longer paused", lambda: one.value("paused_partitions", why="source") == 0)
        assert "stream.reconnected" in one.heard.events
    assert (await verdicts(frail)).keys() == wanted
    assert await frail.committed() == {(topic, partition): 600 for partition in range(3)}


async def test_a_frozen_broker_is_told_in_time_and_a_new_producer_follows(
    frail_broker: KafkaBroker, frail: KafkaWorld
) -> None:
    """Every call has its own bound where the broker's connections stay open and nothing answers."""
    topic = await make_topics(frail, 1)
    sink = KafkaSink(Access(bootstrap=frail.bootstrap), prefix=frail.prefix, topics=OUTPUTS, publish_s=1.0)
    await sink.start()
    first = sink._producer
    async with Reader(frail, topic, timing=Timing(**{**_fields(BRISK), "commit_s": 1.0})) as reader:
        await reader.read("it is assigned", lambda: bool(reader.listener.partitions))
        frail_broker.pause()
        try:
            message = Message(topic="verdicts", key=b"k", value=b"v")
            for call in (
                sink.publish([message]),
                reader.source.commit(reader.listener.epoch, {(topic, 0): 0}),
                KafkaSink(Access(bootstrap=frail.bootstrap, connect_s=1.0)).start(),
            ):
                began = time.monotonic()
                with pytest.raises(Unreachable, match=frail.bootstrap) as raised:
                    await call
                assert raised.value.reason == "stream_unreachable"
                assert time.monotonic() - began < 5.0
            with pytest.raises(Unreachable):
                await reader.read("never", lambda: False)
        finally:
            frail_broker.resume()
        await frail.produce(topic, [b"after"], 0)

        async def published() -> bool:
            try:
                await sink.publish([message])
            except Unreachable:
                return False
            return True

        await until("it publishes again", published)
        assert sink._producer is not first
        await until("it reads again", lambda: _reads(reader))
    await sink.stop()


async def _reads(reader: Reader) -> bool:
    try:
        await reader.read("", lambda: bool(reader.records), 1.0)
    except (Unreachable, AssertionError):
        return False
    return True


def _fields(timing: Timing) -> dict[str, float]:
    return {name: getattr(timing, name) for name in timing.__slots__}


async def test_stopping_is_bounded_while_the_broker_is_frozen(frail_broker: KafkaBroker, frail: KafkaWorld) -> None:
    """A client whose own stop would wait for an answer is left behind."""
    topic = await make_topics(frail, 1)
    reader = Reader(frail, topic, timing=Timing(**{**_fields(BRISK), "stop_s": 1.0}))
    sink = KafkaSink(Access(bootstrap=frail.bootstrap), prefix=frail.prefix, topics=OUTPUTS, stop_s=1.0)
    await sink.start()
    await reader.source.start(reader.listener)
    await reader.read("it is assigned", lambda: bool(reader.listener.partitions))
    frail_broker.pause()
    try:
        sending = asyncio.create_task(sink.publish([Message(topic="verdicts", key=b"k", value=b"v")]))
        await asyncio.sleep(0)
        began = time.monotonic()
        await sink.stop()
        await reader.source.stop()
        assert time.monotonic() - began < 6.0
        assert reader.listener.partitions == []
        sending.cancel()
        await asyncio.wait([sending])
    finally:
        frail_broker.resume()


async def test_nobody_there_at_the_start_is_said_with_the_address_and_in_time(kafka: KafkaWorld) -> None:
    """Source, sink and admin wait as long as configured, no longer, and say for whom."""
    nobody = Access(bootstrap="127.0.0.1:1", connect_s=1.0)
    starts: list[Callable[[], Awaitable[None]]] = [
        lambda: KafkaSource(nobody, group="g", topic="t").start(Listener()),
        KafkaSink(nobody).start,
        KafkaAdmin(nobody).start,
    ]
    for start in starts:
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1: no connection within 1 s.*") as raised:
            await start()
        assert raised.value.reason == "stream_unreachable"
        assert 0.5 < time.monotonic() - began < 3.0


async def test_missing_topics_end_the_start(kafka: KafkaWorld) -> None:
    """They are named, with the command that makes them; nothing makes them on the way."""
    access = Access(bootstrap=kafka.bootstrap)
    await kafka.create("verdicts")
    starts: list[Callable[[], Awaitable[None]]] = [
        lambda: KafkaSource(access, group="g", topic=f"{kafka.prefix}uploads").start(Listener()),
        KafkaSink(access, prefix=kafka.prefix).start,
    ]
    for start in starts:
        with pytest.raises(HashweirError, match="hashweir check --create") as raised:
            await start()
        assert raised.value.reason == "stream_topic_missing"
        assert f"{kafka.prefix}verdicts" not in str(raised.value)


# ── the group ──


@pytest.mark.slow
async def test_two_workers_under_one_static_id_end_loudly(kafka: KafkaWorld) -> None:
    """They take the id from each other and neither ever commits: one of them sees it, and ends."""
    topic = await make_topics(kafka, 2)
    members = [KafkaMember(kafka, "same"), KafkaMember(kafka, "same")]
    try:
        for one in members:
            await one.start()
        running = [one.running for one in members if one.running is not None]
        deadline = time.monotonic() + 60
        while not any(task.done() for task in running):
            assert time.monotonic() < deadline, "neither of two workers under one id has ended"
            await kafka.produce(topic, numbered(0, 20), 0)
            await asyncio.sleep(0.05)
    finally:
        # The other one may see it too, while it drains.
        await asyncio.gather(*(one.stop() for one in members), return_exceptions=True)
    errors = [error for task in running if (error := task.exception()) is not None]
    assert errors
    for error in errors:
        assert isinstance(error, HashweirError)
        assert error.reason == "stream_fenced"
        assert "same" in str(error)


async def test_a_new_group_begins_where_it_is_told_and_added_partitions_at_their_beginning(kafka: KafkaWorld) -> None:
    """`latest` skips what is old for a new group only; a partition that is added later is read whole."""
    topic = await make_topics(kafka, 1)
    await kafka.produce(topic, numbered(0, 10), 0)
    async with Reader(kafka, topic, first_position="latest") as reader:
        await reader.read("it is assigned", lambda: len(reader.listener.partitions) == 1)
        assert await kafka.committed() == {(topic, 0): 10}
        await kafka.add_partitions(topic, 3)
        await kafka.produce(topic, numbered(0, 50), 1)
        await kafka.produce(topic, numbered(10, 20), 0)
        await reader.read("all comes", lambda: len(reader.values(1)) >= 50 and len(reader.values(0)) >= 10)
        # Nothing was committed of partition 0 when the new ones came, so it may have come twice.
        assert set(reader.values(0)) == set(numbered(10, 20))
        assert reader.values(1) == numbered(0, 50)
        assert (await kafka.committed())[topic, 2] == 0


async def test_an_assignment_step_that_fails_ends_the_worker(kafka: KafkaWorld) -> None:
    """aiokafka would log it and go on without positions."""
    topic = await make_topics(kafka, 1)
    async with Reader(kafka, topic, timing=Timing(**{**_fields(BRISK), "assign_s": 0.0001})) as reader:
        with pytest.raises(HashweirError, match="assignment step") as raised:
            await reader.read("never", lambda: False)
        assert raised.value.reason == "stream_stuck"


# ── the log ──


async def test_what_is_deleted_under_a_reader_is_named_and_other_partitions_go_on(kafka: KafkaWorld) -> None:
    """The exact range, once per assignment; nothing after it is read until a person decides."""
    topic = await make_topics(kafka, 2)
    async with Reader(kafka, topic) as reader:
        await kafka.produce(topic, numbered(0, 5), 0)
        await reader.read("the first come", lambda: len(reader.values(0)) == 5)
        reader.source.pause([(topic, 0)])
        # More than one fetch holds: the one that is under way may still bring some.
        await kafka.produce(topic, [b"x" * 10_000] * 500, 0)
        await kafka.delete_before(topic, 0, 450)
        reader.source.resume([(topic, 0)])
        await kafka.produce(topic, numbered(0, 20), 1)
        await reader.read("it is told", lambda: bool(reader.lost) and len(reader.values(1)) == 20)
        # The worker pauses and resumes as it likes; that does not bring a halted partition back.
        reader.source.pause([(topic, 0)])
        reader.source.resume([(topic, 0)])
        await kafka.produce(topic, numbered(20, 40), 1)
        await reader.read("the other goes on", lambda: len(reader.values(1)) == 40)
        read = len(reader.values(0))
        assert 5 <= read < 450
        await reader.read("the lag is seen", lambda: reader.source.lag() == {(topic, 0): 505 - read, (topic, 1): 0})
        await reader.source.commit(reader.listener.epoch, {(topic, 0): read, (topic, 1): 40})
    assert lost_ranges(reader) == [(0, read, 450)]
    async with Reader(kafka, topic) as after:
        await after.read("it is told again", lambda: bool(after.lost))
        assert lost_ranges(after) == [(0, read, 450)]


async def test_a_log_that_ends_before_the_committed_position_is_named(kafka: KafkaWorld) -> None:
    """A topic made anew, or cut at its end: the group's position points at nothing."""
    topic = await make_topics(kafka, 1)
    await kafka.produce(topic, numbered(0, 10), 0)
    async with Reader(kafka, topic) as reader:
        await reader.read("all comes", lambda: len(reader.records) == 10)
        await reader.source.commit(reader.listener.epoch, {(topic, 0): 10})
    frozen = await kafka.committed()
    await kafka.delete(topic)
    await kafka.create("uploads", 1)
    await kafka.produce(topic, numbered(0, 3), 0)
    # Where the broker forgets a group's positions with the topic, it is a first start.
    if await kafka.committed() == frozen:
        async with Reader(kafka, topic) as after:
            await after.read("it is told", lambda: bool(after.lost))
            assert lost_ranges(after) == [(0, 3, 10)]
            assert after.records == []
    else:
        async with Reader(kafka, topic) as after:
            await after.read("all is read", lambda: len(after.records) == 3)


async def test_a_record_that_rots_on_the_brokers_disk_halts_its_partition_only(
    frail_broker: KafkaBroker, frail: KafkaWorld
) -> None:
    """aiokafka would read it again for ever, and drop what it took of other partitions in the same call."""
    topic = await make_topics(frail, 2)
    for n in range(6):
        await frail.produce(topic, [b"zero-%d-flip" % n], 0)  # one batch each
    await frail.produce(topic, numbered(0, 300), 1)
    (log,) = (frail_broker.log_file.parent / "data").glob(f"{topic}-0/*.log")
    _flip(log, b"zero-4-flip")
    async with Reader(frail, topic) as reader:
        await reader.read("all that can be read", lambda: bool(reader.lost) and len(reader.values(1)) == 300)
        await frail.produce(topic, numbered(300, 400), 1)
        await reader.read("the other goes on", lambda: len(reader.values(1)) == 400)
    assert lost_ranges(reader) == [(0, 4, 5)]
    assert reader.values(0) == [b"zero-%d-flip" % n for n in range(4)]
    assert reader.values(1) == numbered(0, 400)


async def test_a_record_that_rots_in_a_paused_partition_disturbs_nobody_until_its_turn(
    frail_broker: KafkaBroker, frail: KafkaWorld
) -> None:
    """Its time is looked for and not found; the others go on, and when the pause ends it is told as lost."""
    topic = await make_topics(frail, 2)
    await frail.produce(topic, [b"zero-flip"], 0)
    await frail.produce(topic, [b"good"], 0)
    await frail.produce(topic, numbered(0, 300), 1)
    (log,) = (frail_broker.log_file.parent / "data").glob(f"{topic}-0/*.log")
    _flip(log, b"zero-flip")
    reader = Reader(frail, topic)
    reader.source.pause([(topic, 0)])
    async with reader:
        await reader.read("all of the other", lambda: len(reader.values(1)) == 300)
        await reader.read("it was looked at", lambda: bool(reader.source._unseen))
        await frail.produce(topic, numbered(300, 400), 1)
        await reader.read("the other goes on", lambda: len(reader.values(1)) == 400)
        assert (reader.lost, reader.source.waiting_ms()) == ([], {})
        looks = _Looks(reader.source._consumer)
        await reader.read("its end was asked for twice more", lambda: looks.count >= 3)
        reader.source.resume([(topic, 0)])
        await reader.read("it is told", lambda: bool(reader.lost))
    assert lost_ranges(reader) == [(0, 0, 1)]
    assert reader.values(1) == numbered(0, 400)


class _Looks:
    """Counts how often the ends of the partitions are asked for."""

    def __init__(self, consumer: Any) -> None:
        self.count, self._ask = 0, consumer.end_offsets
        consumer.end_offsets = self._counted

    async def _counted(self, tps: Sequence[Any]) -> Any:
        self.count += 1
        return await self._ask(tps)


def _flip(log: Path, where: bytes) -> None:
    content = log.read_bytes()
    at = content.index(where)
    with log.open("r+b") as file:
        file.seek(at)
        file.write(bytes([content[at] ^ 1]))


async def test_records_without_headers_or_value_get_a_verdict(kafka: KafkaWorld) -> None:
    """A tombstone, a header without a value and a bare record are uploads like others, not the end of a worker."""
    topic = await make_topics(kafka, 1)
    await kafka.produce(topic, [None, b"", b"bare"], 0)
    await kafka.produce(topic, [b"text"], 0, headers=[("content-type", b"text/plain"), ("x", None)])  # type: ignore[list-item]
    async with member(kafka) as one:
        wanted = expected(await kafka.records(topic))

        async def answered() -> bool:
            return (await verdicts(kafka)).keys() == wanted

        await until("each has a verdict", answered)
        assert one.value("lag_records", topic=topic, partition="0") == 0
    assert await kafka.committed() == {(topic, 0): 4}


# ── the client ──


async def test_a_producer_that_lost_its_place_is_replaced(kafka: KafkaWorld) -> None:
    """After a sequence number went missing every send of it fails; the next publish has a new one."""
    await make_topics(kafka, 1)
    sink = KafkaSink(Access(bootstrap=kafka.bootstrap), prefix=kafka.prefix, topics=OUTPUTS)
    await sink.start()
    message = Message(topic="verdicts", key=b"k", value=b"v")
    await sink.publish([message])
    numbers = sink._producer._txn_manager._sequence_numbers
    for partition in numbers:
        numbers[partition] += 7  # as a batch does that expires while its partition has no leader
    with pytest.raises(Unreachable, match="OutOfOrderSequence"):
        await sink.publish([message])
    await sink.publish([message])
    await sink.stop()
    assert len(await kafka.records(f"{kafka.prefix}verdicts")) == 2


async def test_a_message_that_no_topic_takes_is_not_an_outage(kafka: KafkaWorld) -> None:
    """Publishing it again would never end."""
    await make_topics(kafka, 1)
    sink = KafkaSink(Access(bootstrap=kafka.bootstrap), prefix=kafka.prefix, topics=OUTPUTS, largest_bytes=10_000)
    await sink.start()
    with pytest.raises(HashweirError) as raised:
        await sink.publish([Message(topic="verdicts", key=b"k", value=b"v" * 20_000)])
    assert raised.value.reason == "internal_error"
    await sink.publish([Message(topic="verdicts", key=b"k", value=b"v")])
    await sink.stop()


async def test_the_clients_log_holds_no_payload_at_any_level(
    kafka: KafkaWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """On debug aiokafka writes keys, values and passwords."""
    await make_topics(kafka, 1)
    names = [name for name in logging.root.manager.loggerDict if name.startswith("aiokafka")]
    with caplog.at_level(logging.DEBUG):
        for name in ["aiokafka", *names]:
            caplog.set_level(logging.DEBUG, name)
        sink = KafkaSink(Access(bootstrap=kafka.bootstrap), prefix=kafka.prefix, topics=OUTPUTS)
        await sink.start()
        await sink.publish([Message(topic="verdicts", key=b"secret-key", value=b"secret-value")])
        await sink.stop()
    assert "secret" not in caplog.text


async def test_a_thawed_process_believes_its_sockets_before_its_timers() -> None:
    """After a freeze every timer is due at once: an answer that is already there still counts."""
    loop = asyncio.get_running_loop()

    async def answer() -> str:
        here, there = await asyncio.open_connection(*server.sockets[0].getsockname())
        loop.call_soon(time.sleep, 0.5)  # the freeze, longer than the limit
        line = await here.readline()
        there.close()
        return line.decode()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        assert await within(0.3, answer()) == "here\n"
    with pytest.raises(TimeoutError):
        await within(0.05, asyncio.sleep(5))
