"""A stream inside one process, with Kafka's at-least-once semantics: for the demo, embedded mode and tests.

Partitions, offsets, groups with committed positions, broker timestamps, eager re-assignment, retention. A killed
member behaves as a dead one does: it says nothing, its partitions go to others, who begin at what was committed.
Long because a broker, who reads it and who writes it are one story.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hashweir.errors import Refused, Unreachable
from hashweir.model import Message, Record
from hashweir.ports import AssignmentLost, Clock, Partition, PartitionListener, RangeLost


@dataclass(slots=True)
class _Log:
    """One partition. `start` is the offset of the first record that is still there."""

    records: list[Record] = field(default_factory=list)
    start: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.records)


@dataclass(slots=True)
class _Group:
    """A member whose generation is older than the group's must give up its partitions first."""

    members: list[MemorySource] = field(default_factory=list)
    committed: dict[Partition, int] = field(default_factory=dict)
    generation: int = 0


class MemoryBroker:
    """Topics and groups. `up` False makes every poll, commit and publish fail as with a broker that is gone."""

    def __init__(self, clock: Clock, *, default_partitions: int = 1) -> None:
        """Topics come to be when they are first written or read, with `default_partitions`."""
        self.clock = clock
        self.up = True
        self._default_partitions = default_partitions
        self._topics: dict[str, list[_Log]] = {}
        self._groups: defaultdict[str, _Group] = defaultdict(_Group)
        self._changed = asyncio.Event()

    def create_topic(self, topic: str, partitions: int) -> None:
        """Raises ValueError where the topic exists with another number of partitions."""
        logs = self._topics.setdefault(topic, [_Log() for _ in range(partitions)])
        if len(logs) != partitions:
            raise ValueError(f"topic {topic} has {len(logs)} partitions")

    def partitions(self, topic: str) -> list[Partition]:
        """The partitions of a topic, which is made where it is missing."""
        logs = self._topics.setdefault(topic, [_Log() for _ in range(self._default_partitions)])
        return [(topic, number) for number in range(len(logs))]

    def produce(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes = b"",
        headers: tuple[tuple[str, bytes], ...] = (),
        partition: int | None = None,
    ) -> Record:
        """Append one record; equal keys share a partition."""
        number = zlib.crc32(key) % len(self.partitions(topic)) if partition is None else partition
        log = self._topics[topic][number]
        record = Record(
            topic=topic,
            partition=number,
            offset=log.end,
            timestamp_ms=self.clock.now_ms(),
            value=value,
            headers=headers,
        )
        log.records.append(record)
        self.notify()
        return record

    def read(self, partition: Partition, offset: int, most: int) -> list[Record]:
        """Up to `most` records from an offset on; those before the start are gone."""
        first = max(offset - self._log(partition).start, 0)
        return self._log(partition).records[first : first + most]

    def records(self, topic: str) -> list[Record]:
        """Every record of a topic, partition by partition."""
        return [record for _, number in self.partitions(topic) for record in self._topics[topic][number].records]

    def delete_before(self, partition: Partition, offset: int) -> None:
        """Retention: the records before this offset are gone."""
        log = self._log(partition)
        gone = min(max(offset - log.start, 0), len(log.records))
        del log.records[:gone]
        log.start += gone

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """First offset that is there, and the next to be written."""
        return self._log(partition).start, self._log(partition).end

    def group(self, name: str) -> _Group:
        """A group, which is made where it is missing."""
        return self._groups[name]

    def committed(self, group: str) -> dict[Partition, int]:
        """Committed next-to-read offsets."""
        return dict(self._groups[group].committed)

    def require_up(self) -> None:
        """Raises Unreachable while the broker is down."""
        if not self.up:
            raise Unreachable("stream_unreachable", "the in-process broker is down")

    def notify(self) -> None:
        """Wake everybody who waits for a record or for a change of a group."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Wait for the next change, at most `timeout_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _log(self, partition: Partition) -> _Log:
        return self._topics[partition[0]][partition[1]]


class MemorySource:
    """One member of a group. Assignment changes are told on a task of its own, as Kafka's clients do."""

    def __init__(self, broker: MemoryBroker, group: str, topic: str, *, max_records: int = 100) -> None:
        self._broker = broker
        self._group = broker.group(group)
        self._topic = topic
        self._max_records = max_records
        self._paused: set[Partition] = set()
        self._positions: dict[Partition, int] = {}
        self._halted: set[Partition] = set()
        self._generation = 0
        self._epoch = 0
        self._holding = False
        self._alive = True
        self._fenced = False
        self._turn = 0
        self._listener: PartitionListener | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, listener: PartitionListener) -> None:
        """Join the group. Raises Unreachable while the broker is down."""
        self._broker.require_up()
        self._listener = listener
        self._group.members.append(self)
        self._group.generation += 1
        self._broker.notify()
        self._task = asyncio.create_task(self._follow_group())

    async def poll(self, timeout_s: float) -> list[Record]:
        """The next records, in turn over the partitions; empty after `timeout_s` seconds."""
        if not (records := self._take()):
            await self._broker.wait(timeout_s)
            records = self._take()
        return records

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop delivering from these partitions until `resume`, through re-assignments too."""
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Deliver again."""
        self._paused.difference_update(partitions)
        self._broker.notify()

    async def commit(self, epoch: int, offsets: Mapping[Partition, int]) -> None:
        """Raises AssignmentLost where `epoch` is over, Unreachable while the broker is down."""
        await asyncio.sleep(0)
        self._broker.require_up()
        if epoch != self._epoch or not self._holding or not self._alive:
            raise AssignmentLost(f"epoch {epoch} is over")
        self._group.committed.update(offsets)

    def lag(self) -> dict[Partition, int]:
        """Records behind the end, per assigned partition."""
        return {one: self._broker.bounds(one)[1] - at for one, at in self._positions.items()}

    def waiting_ms(self) -> dict[Partition, int]:
        """Timestamp of the next record to deliver, per assigned partition that has one."""
        next_ones = {one: self._broker.read(one, at, 1) for one, at in self._positions.items()}
        return {one: records[0].timestamp_ms for one, records in next_ones.items() if records}

    async def stop(self) -> None:
        """Hand back all partitions and leave."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._alive:
            await self._give_up()
            self._leave()

    def kill(self) -> None:
        """Die without a word: no revocation, no commit; the group goes on without this member."""
        if self._task is not None:
            self._task.cancel()
        self._leave()

    def fence(self) -> None:
        """As if another member had joined under this one's identity: the next poll raises."""
        self._fenced = True
        self._broker.notify()

    async def _follow_group(self) -> None:
        while True:
            if self._generation != self._group.generation:
                await self._give_up()
                self._generation = self._group.generation
                self._broker.notify()
            # Eager re-assignment: nobody receives a partition while another may still work on it.
            elif not self._holding and all(one._generation == self._generation for one in self._group.members):
                await self._receive()
            else:
                await self._broker.wait(60.0)

    async def _give_up(self) -> None:
        if self._holding and self._listener is not None:
            await self._listener.on_revoked(self._epoch)
        self._holding = False
        self._positions.clear()

    async def _receive(self) -> None:
        members = self._group.members
        mine = self._broker.partitions(self._topic)[members.index(self) :: len(members)]
        self._epoch += 1
        self._halted.clear()
        if self._listener is not None:
            await self._listener.on_assigned(self._epoch, mine)
        if self._generation == self._group.generation:
            committed = self._group.committed
            self._positions = {one: committed.get(one, 0) for one in mine}
        self._holding = True
        self._broker.notify()

    def _take(self) -> list[Record]:
        if self._fenced:
            raise Refused("stream_fenced")
        if self._alive and self._task is not None and self._task.done():
            self._task.result()  # raises what the listener raised
        if not self._alive:
            return []
        self._broker.require_up()
        open_now = [one for one in self._positions if one not in self._paused and one not in self._halted]
        for one in open_now:
            at, first = self._positions[one], self._broker.bounds(one)[0]
            if at < first:
                self._halted.add(one)
                raise RangeLost(one, at, first)
        self._turn += 1
        taken: list[Record] = []
        for step in range(len(open_now)):
            one = open_now[(self._turn + step) % len(open_now)]
            share = -(-(self._max_records - len(taken)) // (len(open_now) - step))
            new = self._broker.read(one, self._positions[one], share)
            if new:
                self._positions[one] = new[-1].offset + 1
                taken += new
        return taken

    def _leave(self) -> None:
        self._alive = False
        self._positions.clear()
        if self in self._group.members:
            self._group.members.remove(self)
            self._group.generation += 1
            self._broker.notify()


class MemorySink:
    """Outgoing records of one process. Logical topic names get the prefix."""

    def __init__(self, broker: MemoryBroker, prefix: str = "") -> None:
        self._broker = broker
        self._prefix = prefix

    async def start(self) -> None:
        """Raises Unreachable while the broker is down."""
        self._broker.require_up()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Append one by one: where the broker goes down midway, some are written and the outcome is unknown."""
        for one in messages:
            await asyncio.sleep(0)
            self._broker.require_up()
            topic = self._prefix + one.topic
            self._broker.produce(topic, one.value, key=one.key, headers=one.headers, partition=one.partition)

    async def stop(self) -> None:
        """Nothing is held back."""
