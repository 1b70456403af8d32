"""What tests do to a real broker beside the code under test: topics of their own, records in and out, retention."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete

from hashweir.adapters.kafka_position import record_of
from hashweir.model import Record
from hashweir.ports import Partition

_worlds = itertools.count(1)
Headers = Sequence[tuple[str, bytes]]


class KafkaWorld:
    """One namespace on a broker: no two worlds share a topic or a group. An asynchronous context manager."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.prefix = f"world{next(_worlds)}."
        self.group = f"{self.prefix}group"
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, enable_idempotence=True, metadata_max_age_ms=500, max_request_size=4_000_000
        )

    async def __aenter__(self) -> Self:
        await self._admin.start()
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()
        await self._admin.close()

    async def create(self, topic: str, partitions: int = 1) -> str:
        """Make a topic and wait until the broker knows it; its full name."""
        name = self.prefix + topic
        answer = await self._admin.create_topics([NewTopic(name, partitions, 1)])
        assert [code for _, code, *_ in answer.topic_errors] == [0]
        await self._producer.partitions_for(name)
        return name

    async def delete(self, topic: str) -> None:
        """Delete a topic with its records."""
        await self._admin.delete_topics([topic])
        await until("the topic is gone", lambda: self._gone(topic))

    async def _gone(self, topic: str) -> bool:
        return topic not in await self._admin.list_topics()

    async def add_partitions(self, topic: str, total: int) -> None:
        """Grow a topic, and wait until the producer here sees it."""
        await self._admin.create_partitions({topic: NewPartitions(total)})
        await until("partitions are seen", lambda: self._sees(topic, total))

    async def _sees(self, topic: str, total: int) -> bool:
        return len(await self._producer.partitions_for(topic)) == total

    async def produce(
        self, topic: str, values: Sequence[bytes | None], partition: int, *, key: bytes = b"k", headers: Headers = ()
    ) -> None:
        """Append records and wait for all acks."""
        sent = [
            await self._producer.send(topic, value, key=key, partition=partition, headers=list(headers))
            for value in values
        ]
        await asyncio.gather(*sent)

    async def committed(self, group: str = "") -> dict[Partition, int]:
        """What the group has committed, as the broker says."""
        offsets = await self._admin.list_consumer_group_offsets(group or self.group)
        return {(tp.topic, tp.partition): meta.offset for tp, meta in offsets.items() if meta.offset >= 0}

    async def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Remove what lies below this offset, as retention would."""
        tp = TopicPartition(topic, partition)
        assert await self._admin.delete_records({tp: RecordsToDelete(offset)}) == {tp: offset}

    async def records(self, topic: str) -> list[Record]:
        """Every record that the topic holds at this moment."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            tps = [TopicPartition(topic, number) for number in await self._producer.partitions_for(topic)]
            consumer.assign(tps)
            ends = await consumer.end_offsets(tps)
            found: list[Record] = []
            async with asyncio.timeout(30):
                for tp in tps:
                    while await consumer.position(tp) < ends[tp]:
                        for records in (await consumer.getmany(timeout_ms=100)).values():
                            found += map(record_of, records)
            return found
        finally:
            await consumer.stop()


async def until(what: str, holds: Callable[[], bool | Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait for a condition; where it does not come true in time, fail and say which."""
    deadline = time.monotonic() + seconds
    while True:
        answer = holds()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.02)
