"""What every stream must do: memory here, Kafka beside it. A law in each test's docstring.

A bench makes sources and sinks of one broker with a fresh topic of three partitions. Another implementation joins by
one more entry in `BENCHES` and keeps the same promises.
Long because both benches stand beside the laws that they are held to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from hashweir.adapters.kafka_link import Access
from hashweir.adapters.kafka_position import Timing
from hashweir.adapters.kafka_sink import KafkaSink
from hashweir.adapters.kafka_source import KafkaSource
from hashweir.adapters.memory_stream import MemoryBroker, MemorySink, MemorySource
from hashweir.model import Message, Record
from hashweir.ports import AssignmentLost, Partition, PartitionListener, RangeLost, Sink, Source
from tests.kafka_world import KafkaWorld
from tests.servers.kafka import KafkaBroker
from tests.virtual_time import EPOCH_MS

PARTITIONS = 3
DEADLINE_S = 60.0


class Bench(Protocol):
    """One broker with an input topic of three partitions and an output topic `out`."""

    topic: str

    def source(self) -> Source:
        """A new member of the one group, not started. It joins where nothing is committed at offset 0."""

    def sink(self) -> Sink:
        """A new sink, not started."""

    async def produce(self, values: Sequence[bytes], partition: int) -> None:
        """Append to the input topic."""

    async def committed(self) -> Mapping[Partition, int]:
        """What the group has committed, as the broker says."""

    async def written(self) -> list[Record]:
        """All records of topic `out`."""

    async def delete_before(self, partition: int, offset: int) -> None:
        """Retention takes the records before this offset."""

    async def kill(self, source: Source) -> None:
        """End a member as a crash would, and wait until the broker knows it is gone."""


class _Clock:
    def now_ms(self) -> int:
        return EPOCH_MS

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class MemoryBench:
    topic = "uploads"

    def __init__(self) -> None:
        self.broker = MemoryBroker(_Clock(), default_partitions=PARTITIONS)
        self.broker.create_topic(self.topic, PARTITIONS)

    def source(self) -> Source:
        return MemorySource(self.broker, "group", self.topic)

    def sink(self) -> Sink:
        return MemorySink(self.broker)

    async def produce(self, values: Sequence[bytes], partition: int) -> None:
        for value in values:
            self.broker.produce(self.topic, value, partition=partition)

    async def committed(self) -> Mapping[Partition, int]:
        return self.broker.committed("group")

    async def written(self) -> list[Record]:
        return self.broker.records("out")

    async def delete_before(self, partition: int, offset: int) -> None:
        self.broker.delete_before((self.topic, partition), offset)

    async def kill(self, source: Source) -> None:
        assert isinstance(source, MemorySource)
        source.kill()


class KafkaBench:
    def __init__(self, world: KafkaWorld, topic: str) -> None:
        self.topic = topic
        self._world = world
        self._access = Access(bootstrap=world.bootstrap)
        self._made: list[Source | Sink] = []

    def source(self) -> Source:
        # Dynamic members: two static ones would have to be told apart by the tests, and 6 s is the broker's floor.
        timing = Timing(session_s=6.0, heartbeat_s=0.3, assign_s=4.0, metadata_s=0.5, watch_s=0.2)
        made = KafkaSource(self._access, group=self._world.group, topic=self.topic, timing=timing)
        self._made.append(made)
        return made

    def sink(self) -> Sink:
        made = KafkaSink(self._access, prefix=self._world.prefix, topics=["out"])
        self._made.append(made)
        return made

    async def produce(self, values: Sequence[bytes], partition: int) -> None:
        await self._world.produce(self.topic, values, partition)

    async def committed(self) -> Mapping[Partition, int]:
        return await self._world.committed()

    async def written(self) -> list[Record]:
        return await self._world.records(f"{self._world.prefix}out")

    async def delete_before(self, partition: int, offset: int) -> None:
        await self._world.delete_before(self.topic, partition, offset)

    async def kill(self, source: Source) -> None:
        # Nobody is told and nothing is committed; only that it says goodbye, or each test waited out a session.
        assert isinstance(source, KafkaSource)
        source._listener = None
        await source.stop()

    async def close(self) -> None:
        for one in self._made:
            await one.stop()


@asynccontextmanager
async def _memory(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    yield MemoryBench()


@asynccontextmanager
async def _kafka(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    broker: KafkaBroker = request.getfixturevalue("broker")
    async with KafkaWorld(broker.bootstrap) as world:
        await world.create("out")
        bench = KafkaBench(world, await world.create("uploads", PARTITIONS))
        try:
            yield bench
        finally:
            await bench.close()


BENCHES: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Bench]]] = {
    "memory": _memory,
    "kafka": _kafka,
}
MARKS = {"kafka": pytest.mark.broker}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in BENCHES])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with BENCHES[request.param](request) as made:
        yield made


class Notes(PartitionListener):
    """Writes down what it was told."""

    def __init__(self) -> None:
        self.epoch = 0
        self.partitions: list[Partition] = []
        self.told: list[tuple[str, int]] = []

    async def on_assigned(self, epoch: int, partitions: Sequence[Partition]) -> None:
        self.told.append(("assigned", epoch))
        self.epoch, self.partitions = epoch, list(partitions)

    async def on_revoked(self, epoch: int) -> None:
        self.told.append(("revoked", epoch))
        self.partitions = []


async def collect(source: Source, until: Callable[[list[Record]], bool]) -> list[Record]:
    """Poll until a condition holds over everything received."""
    records: list[Record] = []
    async with asyncio.timeout(DEADLINE_S):
        while not until(records):
            records += await source.poll(0.05)
    return records


async def joined(source: Source, notes: Notes, partitions: int) -> None:
    """Poll until this member holds so many partitions."""
    await collect(source, lambda _: len(notes.partitions) == partitions)


async def test_every_record_comes_once_in_partition_order_with_the_brokers_time(bench: Bench) -> None:
    """Within one assignment each record is delivered once, in order of offset within its partition."""
    for partition in range(PARTITIONS):
        await bench.produce([b"%d-%d" % (partition, n) for n in range(50)], partition)
    source, notes = bench.source(), Notes()
    await source.start(notes)
    records = await collect(source, lambda got: len(got) >= 150)
    for partition in range(PARTITIONS):
        mine = [record for record in records if record.partition == partition]
        assert [record.value for record in mine] == [b"%d-%d" % (partition, n) for n in range(50)]
        assert [record.offset for record in mine] == sorted({record.offset for record in mine})
    assert all(record.topic == bench.topic and record.timestamp_ms > 0 for record in records)
    assert notes.told[0] == ("assigned", notes.epoch)
    await source.stop()
    assert notes.told[-1] == ("revoked", notes.epoch)


async def test_paused_partitions_deliver_nothing_and_the_others_go_on(bench: Bench) -> None:
    """Pausing one partition holds that one alone; resuming delivers all that was held."""
    source, notes = bench.source(), Notes()
    await source.start(notes)
    await joined(source, notes, PARTITIONS)
    source.pause([(bench.topic, 0)])
    for partition in range(PARTITIONS):
        await bench.produce([b"x"] * 5, partition)
    records = await collect(source, lambda got: len(got) >= 10)
    assert {record.partition for record in records} == {1, 2}
    assert await source.poll(0.05) == []
    source.resume([(bench.topic, 0), (bench.topic, 99)])
    assert {record.partition for record in await collect(source, lambda got: len(got) >= 5)} == {0}
    await source.stop()


async def test_a_pause_outlives_the_assignment(bench: Bench) -> None:
    """Who pauses a partition and gets it again gets nothing of it until it resumes."""
    one, two = bench.source(), bench.source()
    notes, others = Notes(), Notes()
    await one.start(notes)
    await joined(one, notes, PARTITIONS)
    one.pause([(bench.topic, 1)])
    epoch = notes.epoch
    await two.start(others)
    async with asyncio.timeout(DEADLINE_S):
        while not (others.partitions and notes.epoch > epoch):
            await asyncio.gather(one.poll(0.05), two.poll(0.05))
    await two.stop()
    await joined(one, notes, PARTITIONS)
    for partition in range(PARTITIONS):
        await bench.produce([b"x"] * 5, partition)
    assert {record.partition for record in await collect(one, lambda got: len(got) >= 10)} == {0, 2}
    one.resume([(bench.topic, 1)])
    assert {record.partition for record in await collect(one, lambda got: len(got) >= 5)} == {1}
    await one.stop()


async def test_a_successor_begins_at_what_was_committed(bench: Bench) -> None:
    """Uncommitted records come again after a crash, committed ones do not."""
    await bench.produce([b"%d" % n for n in range(10)], 0)
    first, notes = bench.source(), Notes()
    await first.start(notes)
    await collect(first, lambda got: len(got) >= 10)
    await first.commit(notes.epoch, {(bench.topic, 0): 4})
    assert (await bench.committed())[bench.topic, 0] == 4
    await bench.kill(first)
    second = bench.source()
    await second.start(Notes())
    records = await collect(second, lambda got: len(got) >= 6)
    assert [record.value for record in records] == [b"%d" % n for n in range(4, 10)]
    await second.stop()


async def test_a_second_member_takes_a_share_and_old_epochs_commit_nothing(bench: Bench) -> None:
    """After a re-assignment no partition has two owners, and a commit of an ended epoch is refused."""
    one, two = bench.source(), bench.source()
    notes_one, notes_two = Notes(), Notes()
    await one.start(notes_one)
    await joined(one, notes_one, PARTITIONS)
    old = notes_one.epoch
    await two.start(notes_two)
    async with asyncio.timeout(DEADLINE_S):
        while not (notes_one.partitions and notes_two.partitions and notes_one.epoch > old):
            await asyncio.gather(one.poll(0.05), two.poll(0.05))
    assert not set(notes_one.partitions) & set(notes_two.partitions)
    assert len(notes_one.partitions) + len(notes_two.partitions) == PARTITIONS
    assert notes_one.told[:3] == [("assigned", old), ("revoked", old), ("assigned", old + 1)]
    with pytest.raises(AssignmentLost):
        await one.commit(old, {(bench.topic, 0): 1})
    assert (await bench.committed()).get((bench.topic, 0), 0) == 0
    await one.stop()
    await joined(two, notes_two, PARTITIONS)
    await two.stop()


async def test_the_last_commit_in_on_revoked_counts(bench: Bench) -> None:
    """While `on_revoked` runs, the epoch may still commit."""

    class CommitsLast(Notes):
        async def on_revoked(self, epoch: int) -> None:
            await super().on_revoked(epoch)
            await source.commit(epoch, {(bench.topic, 1): 2})

    await bench.produce([b"a", b"b"], 1)
    source = bench.source()
    await source.start(CommitsLast())
    await collect(source, lambda got: len(got) >= 2)
    await source.stop()
    assert (await bench.committed())[bench.topic, 1] == 2


async def test_records_that_are_gone_are_told_and_not_skipped(bench: Bench) -> None:
    """Where retention overtook the group, the range is raised once, that partition halts, the others go on."""
    await bench.produce([b"x"] * 10, 0)
    await bench.produce([b"y"] * 3, 1)
    first, notes = bench.source(), Notes()
    await first.start(notes)
    await collect(first, lambda got: len(got) >= 13)
    await first.commit(notes.epoch, {(bench.topic, 0): 2, (bench.topic, 1): 0})
    await first.stop()
    await bench.delete_before(0, 7)
    second = bench.source()
    await second.start(Notes())
    lost: list[RangeLost] = []
    records: list[Record] = []
    async with asyncio.timeout(DEADLINE_S):
        while not (lost and len(records) >= 3):
            try:
                records += await second.poll(0.05)
            except RangeLost as error:
                lost.append(error)
    records += await second.poll(0.05)
    assert [(one.partition, one.first, one.after_last) for one in lost] == [((bench.topic, 0), 2, 7)]
    assert [record.value for record in records] == [b"y"] * 3
    await second.stop()


async def test_lag_is_what_is_still_to_come(bench: Bench) -> None:
    """Lag is counted per assigned partition and falls to 0 once all is delivered."""
    source, notes = bench.source(), Notes()
    await source.start(notes)
    await joined(source, notes, PARTITIONS)
    await bench.produce([b"x"] * 5, 2)
    await collect(source, lambda got: len(got) >= 5)
    async with asyncio.timeout(DEADLINE_S):
        while source.lag() != {(bench.topic, number): 0 for number in range(PARTITIONS)}:
            await source.poll(0.05)
    await source.stop()


async def test_the_time_of_what_waits_in_a_paused_partition_is_known(bench: Bench) -> None:
    """From its assignment on, of its first record, which is delivered once and in order when the pause ends."""
    await bench.produce([b"0", b"1", b"2"], 0)
    source, notes = bench.source(), Notes()
    source.pause([(bench.topic, number) for number in range(PARTITIONS)])
    await source.start(notes)
    async with asyncio.timeout(DEADLINE_S):
        while not source.waiting_ms():
            assert await source.poll(0.05) == []
    waiting = source.waiting_ms()
    assert waiting.keys() == {(bench.topic, 0)}
    assert source.lag()[bench.topic, 0] == 3
    source.resume([(bench.topic, 0)])
    records = await collect(source, lambda got: len(got) >= 3)
    assert [record.value for record in records] == [b"0", b"1", b"2"]
    assert records[0].timestamp_ms == waiting[bench.topic, 0] > 0
    await source.stop()


async def test_published_messages_are_there_when_publish_returns(bench: Bench) -> None:
    """An ack means written, with key, value and headers; equal keys keep their order."""
    sink = bench.sink()
    await sink.start()
    messages = [Message(topic="out", key=b"k", value=b"%d" % n, headers=(("ce_id", b"%d" % n),)) for n in range(20)]
    await sink.publish(messages)
    written = await bench.written()
    assert [record.value for record in written] == [message.value for message in messages]
    assert [record.headers for record in written] == [message.headers for message in messages]
    await sink.stop()
