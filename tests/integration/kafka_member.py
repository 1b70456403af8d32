"""A whole worker on a real broker, with a judge that answers `clear` at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from structlog.typing import EventDict

from hashweir.adapters.kafka_link import Access
from hashweir.adapters.kafka_position import Timing
from hashweir.adapters.kafka_sink import KafkaSink
from hashweir.adapters.kafka_source import KafkaSource
from hashweir.logs import Logger
from hashweir.metrics import Metrics
from hashweir.model import Judged, Record, Upload
from hashweir.pipeline.decide import verdict_id
from hashweir.pipeline.deliver import Delivery, ViewGate
from hashweir.pipeline.emit import Emitter
from hashweir.pipeline.worker import Limits, Worker
from tests.kafka_world import KafkaWorld
from tests.unit.pipeline.world import Knowledge, judged

OUTPUTS = ("verdicts", "matches", "dead-letters")
BRISK = Timing(session_s=6.0, heartbeat_s=0.5, assign_s=4.0, metadata_s=0.5, watch_s=0.2)


class Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class Clears:
    async def match(self, upload: Upload) -> Judged:
        return judged(upload)

    async def refuse(self, upload: Upload, reason: str) -> Judged:
        return judged(upload, reason)


class KafkaMember:
    """One worker with its own source and sink, in the group of its world."""

    def __init__(
        self, world: KafkaWorld, instance_id: str = "", *, limits: Limits | None = None, timing: Timing = BRISK
    ) -> None:
        self.heard = Heard()
        access = Access(bootstrap=world.bootstrap, connect_s=5.0, answer_s=1.0)
        self.source = KafkaSource(
            access,
            group=world.group,
            topic=f"{world.prefix}uploads",
            instance_id=instance_id,
            timing=timing,
            log=self.heard.log,
        )
        self.sink = KafkaSink(access, prefix=world.prefix, topics=OUTPUTS, publish_s=5.0, log=self.heard.log)
        self.metrics = Metrics()
        clock, log, gate = Clock(), self.heard.log, ViewGate(Knowledge())
        delivery = Delivery(
            judge=Clears(),
            emitter=Emitter(worker="test", versions={}),
            sink=self.sink,
            clock=clock,
            metrics=self.metrics,
            log=log,
            default_source="test",
        )
        limits = limits or Limits(tick_s=0.2, revoke_drain_s=1.0, commit_wait_s=2.0)
        self.worker = Worker(
            source=self.source, delivery=delivery, gate=gate, clock=clock, metrics=self.metrics, log=log, limits=limits
        )
        self.running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.sink.start()
        self.running = asyncio.create_task(self.worker.run())

    async def stop(self) -> None:
        """Drain, as the lifecycle does; a worker that has failed, or fails while it drains, is still closed."""
        try:
            if self.running is not None and not self.running.done():
                self.worker.stop_polling()
                await self.running
                await self.worker.finish(5.0)
        finally:
            await self.sink.stop()
            await self.worker.commit_rest(3.0)
            await self.source.stop()

    def value(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"hashweir_{name}", labels) or 0.0


@asynccontextmanager
async def member(
    world: KafkaWorld, instance_id: str = "", *, limits: Limits | None = None, timing: Timing = BRISK
) -> AsyncIterator[KafkaMember]:
    """A member that runs while the block lasts."""
    one = KafkaMember(world, instance_id, limits=limits, timing=timing)
    try:
        await one.start()
        yield one
    finally:
        await one.stop()


async def make_topics(world: KafkaWorld, partitions: int) -> str:
    """The input topic, whose name is given, and all outputs."""
    for topic in OUTPUTS:
        await world.create(topic)
    return await world.create("uploads", partitions)


class Heard:
    """A log that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.log: Logger = structlog.wrap_logger(
            structlog.PrintLogger(), processors=[self._keep], wrapper_class=structlog.make_filtering_bound_logger(0)
        )

    def _keep(self, _: object, __: str, event: EventDict) -> EventDict:
        self.events.append(str(event["event"]))
        raise structlog.DropEvent


def expected(records: Sequence[Record]) -> set[str]:
    """The verdict id of each record without ids of its own."""
    return {verdict_id("test", f"{one.topic}-{one.partition}-{one.offset}") for one in records}


async def verdicts(world: KafkaWorld) -> Counter[str]:
    """How often each verdict was written."""
    written = await world.records(f"{world.prefix}verdicts")
    return Counter(dict(one.headers)["ce_id"].decode() for one in written)
