"""The open-loop driver and the measurer: uploads at their scheduled times, verdicts as the broker stamps them.

A latency runs from the time at which an upload was due, not from when it could be sent: a driver that is held up does
not hide what it held up (coordinated omission). It ends at the broker's time of appending the verdict
(LogAppendTime), so a slow reader here does not lengthen it. Both clocks are this machine's, in milliseconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka._types import HeadersType

from loadtests.generate import Material, Piece, draw, numbered
from loadtests.scenario import Phase, Scenario
from tests.system.oracle import item_id
from tests.system.rig import PARTITIONS, Rig

STILL_SECONDS = 30.0
"""No verdict for so long, and what is missing counts as lost."""
LINGER_MS = 10
"""So long the first record of a batch waits for more, and so long all records go to one partition."""
READ_SECONDS = 0.1
"""So often verdicts are looked for; the broker says when they came."""


@dataclass(slots=True)
class Sent:
    """One upload and what became of it. Times are Unix milliseconds."""

    due_ms: float
    phase: int
    piece: Piece
    size: int
    late_ms: float = 0.0
    refused: bool = False
    verdict_ms: int | None = None
    outcome: str = ""
    reason: str | None = None
    hits: tuple[str, ...] = ()
    """Ids of the items that the first verdict found."""
    copies: int = 0

    @property
    def missed(self) -> bool:
        """A planted copy that has a verdict, which does not say of what it is a copy."""
        original = self.piece.original
        if original is None or self.verdict_ms is None:
            return False
        return self.outcome != "match" or item_id(original.set, original.item) not in self.hits


class _Hit(msgspec.Struct):
    item: str


class _Verdict(msgspec.Struct):
    upload: str
    outcome: str
    checked: dict[str, str] = {}
    reason: str | None = None
    hits: tuple[_Hit, ...] = ()


@dataclass
class Driver:
    """Sends the phases of a scenario and reads every verdict. Use as an async context manager."""

    rig: Rig
    scenario: Scenario
    material: Material
    sent: list[Sent] = field(default_factory=list)
    judged: int = 0
    strange: int = 0
    """Verdicts on uploads that nobody sent."""
    _partition: int = 0
    _batch_ends_ms: float = 0.0

    async def __aenter__(self) -> Driver:
        await _stamp_by_broker(self.rig)
        self._topic = f"{self.rig.prefix}uploads"
        # A client in C: what the driver takes of the machine is missing to the service that it measures.
        self._producer = Producer(
            {
                "bootstrap.servers": self.rig.bootstrap,
                "acks": 1,
                "linger.ms": LINGER_MS,
                "batch.size": 2**20,
                "message.max.bytes": 2**21,
                # What can't be delivered by then is refused.
                "message.timeout.ms": 40_000,
                "socket.nagle.disable": True,
            }
        )
        # It would ask for the topic's leaders only when the first upload is due.
        await asyncio.to_thread(self._producer.list_topics, self._topic, STILL_SECONDS)
        # When a verdict is read does not count, so many are read at once: one by one they cost broker and driver more
        # than the uploads do.
        self._consumer = Consumer(
            {
                "bootstrap.servers": self.rig.bootstrap,
                "group.id": f"{self.rig.prefix}driver",
                "enable.auto.commit": False,
                "fetch.min.bytes": 256 * 1024,
                "fetch.wait.max.ms": 200,
            }
        )
        topic = f"{self.rig.prefix}verdicts"
        self._consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(PARTITIONS)])
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await asyncio.to_thread(self._consumer.close)
        await asyncio.to_thread(self._producer.flush)
        await asyncio.to_thread(self._producer.close)

    @property
    def backlog(self) -> int:
        """Uploads sent and not judged."""
        return len(self.sent) - self.judged

    async def phase(self, number: int, phase: Phase, per_second: float) -> None:
        """Send one phase at this rate; arrivals are a Poisson process, and wait for nothing but `most_backlog`."""
        chance = random.Random(f"arrivals-{self.scenario.seed}-{number}")
        rate = per_second + phase.also_per_second
        extra = phase.also_per_second / rate
        usual = draw(self.material, self.scenario.mix, self.scenario.planted, f"{self.scenario.seed}-{number}")
        also = draw(self.material, self.scenario.also or self.scenario.mix, 1.0, f"also-{self.scenario.seed}-{number}")
        began, began_ms, at = time.perf_counter(), time.time() * 1000, 0.0
        while (at := at + chance.expovariate(rate)) < phase.seconds:
            ahead = began + at - time.perf_counter()
            if ahead > 0.0005 or len(self.sent) % 32 == 0:
                await asyncio.sleep(max(0.0, ahead))
            if phase.most_backlog and self.backlog >= phase.most_backlog:
                await self._fewer_than(phase.most_backlog, began + phase.seconds)
                at = time.perf_counter() - began
            piece = next(also if extra and chance.random() < extra else usual)
            await self._send(piece, number, began_ms + at * 1000)

    async def _fewer_than(self, backlog: int, until: float) -> None:
        """Wait for verdicts, until this time of the performance counter at most."""
        while self.backlog >= backlog and time.perf_counter() < until:  # noqa: ASYNC110 - counted by another task
            await asyncio.sleep(0.005)

    async def drained(self) -> None:
        """Wait until every upload has its verdict, or nothing came for 30 s."""
        before, since = -1, time.monotonic()
        while self.backlog > 0 and time.monotonic() - since < STILL_SECONDS:
            if self.judged != before:
                before, since = self.judged, time.monotonic()
            await asyncio.sleep(0.05)

    def partition(self, due_ms: float) -> int:
        """Where an upload goes: all that are due while a batch waits into one partition, the next batch into the next.

        Kafka's own partitioner keeps to one as well, by bytes instead of time. Call it in the order of due times.
        """
        if due_ms >= self._batch_ends_ms:
            self._partition, self._batch_ends_ms = (self._partition + 1) % PARTITIONS, due_ms + LINGER_MS
        return self._partition

    async def _send(self, piece: Piece, phase: int, due_ms: float) -> None:
        number = len(self.sent)
        value = numbered(piece, number)
        one = Sent(due_ms, phase, piece, len(value))
        self.sent.append(one)
        partition = self.partition(due_ms)
        headers: HeadersType = [("ce_id", b"%d" % number), ("ce_source", b"load"), ("content-type", piece.media_type)]

        def delivered(error: KafkaError | None, _message: Message) -> None:
            one.refused = error is not None

        while True:
            try:
                # The record's timestamp is when the upload was due, so that the service's own latency starts there too.
                self._producer.produce(
                    self._topic,
                    value,
                    headers=headers,
                    partition=partition,
                    timestamp=int(due_ms),
                    on_delivery=delivered,
                )
                break
            except BufferError:  # as much waits as may
                await asyncio.sleep(0.01)
                self._producer.poll(0)
        one.late_ms = time.time() * 1000 - due_ms
        self._producer.poll(0)

    async def _read(self) -> None:
        decoder = msgspec.json.Decoder(_Verdict)
        while True:
            await asyncio.sleep(READ_SECONDS)
            self._producer.poll(0)
            for record in self._consumer.consume(10_000, timeout=0):
                if record.error() is None:
                    self._note(decoder.decode(record.value() or b""), record.timestamp()[1])

    def _note(self, verdict: _Verdict, at_ms: int) -> None:
        if not verdict.upload.isdigit() or int(verdict.upload) >= len(self.sent):
            self.strange += 1
            return
        one = self.sent[int(verdict.upload)]
        one.copies += 1
        if one.copies == 1:
            one.verdict_ms, one.outcome, self.judged = at_ms, verdict.outcome, self.judged + 1
            if one.piece.planted:
                one.hits = tuple(hit.item for hit in verdict.hits)
            if verdict.outcome == "unscanned":
                bad = [word for word in verdict.checked.values() if word != "ok"]
                one.reason = verdict.reason or (bad[0] if bad else "unknown")


def spread(material: Material, mix: dict[str, float], planted: float, count: int) -> Iterator[Piece]:
    """The first `count` pieces of a mix: what the bare scan processes are given."""
    drawn = draw(material, mix, planted, "bare")
    return (next(drawn) for _ in range(count))


async def _stamp_by_broker(rig: Rig) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=rig.bootstrap)
    await admin.start()
    try:
        setting = {"message.timestamp.type": "LogAppendTime"}
        topic = ConfigResource(ConfigResourceType.TOPIC, f"{rig.prefix}verdicts", configs=setting)
        await admin.alter_configs([topic])
    finally:
        await admin.close()
