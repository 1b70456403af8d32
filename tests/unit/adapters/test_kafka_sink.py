"""What is published together: one batch per partition, and each learns of its own acks only."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder

from hashweir.adapters.kafka_link import Access
from hashweir.adapters.kafka_sink import KafkaSink
from hashweir.errors import HashweirError, Unreachable
from hashweir.model import Message


class Client:
    """Acks what goes to other partitions than `stuck`, when it is let."""

    def __init__(self) -> None:
        self.stuck = -1
        self.let = asyncio.Event()
        self.let.set()
        self.batches: list[tuple[str, int, int]] = []
        self.client = self._sender = self
        self.sender_task = None

    async def partitions_for(self, topic: str) -> set[int]:
        return {0, 1, 2}

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(256 * 1024, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[None]:
        assert batch.closed()
        if partition == self.stuck:
            await asyncio.Event().wait()  # as one does behind a batch that is never sent
        self.batches.append((topic, partition, batch.record_count()))
        return asyncio.ensure_future(self._ack())

    async def _ack(self) -> None:
        await self.let.wait()

    async def stop(self) -> None: ...

    async def close(self) -> None: ...


def made(client: Client, **options: Any) -> KafkaSink:
    sink = KafkaSink(Access(bootstrap="localhost:1"), **options)
    sink._producer = client
    return sink


def message(partition: int = 1, value: bytes = b"v") -> Message:
    return Message(topic="verdicts", key=b"k", value=value, headers=(("a", b"b"),), partition=partition)


async def test_what_is_published_meanwhile_goes_together() -> None:
    """One batch per partition; the next one when the first is acked."""
    client = Client()
    client.let.clear()
    sink = made(client)
    published = [asyncio.create_task(sink.publish([message(number % 2)])) for number in range(10)]
    async with asyncio.timeout(10):
        while len(client.batches) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert sorted(client.batches) == [("verdicts", 0, 5), ("verdicts", 1, 5)]
        assert not any(one.done() for one in published)
        client.let.set()
        await asyncio.gather(*published)
        await sink.publish([message(), message()])
    assert client.batches[2:] == [("verdicts", 1, 2)]


async def test_what_follows_fast_goes_together() -> None:
    """The first at once; what comes within the pace after it in one batch, when that has passed."""
    client = Client()
    sink = made(client, pace_s=0.05)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        began = loop.time()
        await sink.publish([message()])
        for _ in range(3):  # each in a turn of its own
            await asyncio.sleep(0)
        later = [asyncio.create_task(sink.publish([message()])) for _ in range(4)]
        await asyncio.gather(*later)
    assert [count for _, _, count in client.batches] == [1, 4]
    assert loop.time() - began >= 0.05


async def test_a_partition_that_is_stuck_fails_its_own() -> None:
    """Those of other partitions are acked, in the same wave and in later ones."""
    client = Client()
    client.stuck = 0
    sink = made(client, publish_s=0.2)
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(
            *(sink.publish([message(number)]) for number in (0, 1, 2)),
            sink.publish([message(1), message(0)]),
            return_exceptions=True,
        )
        assert [type(one) for one in outcomes] == [Unreachable, type(None), type(None), Unreachable]
        sink._producer = client
        late = asyncio.create_task(sink.publish([message(0)]))
        await asyncio.sleep(0)
        await sink.publish([message(2)])
        with pytest.raises(Unreachable):
            await late


async def test_large_messages() -> None:
    """One that no topic takes fails alone; one that is longer than a batch is a batch of its own."""
    client = Client()
    sink = made(client, largest_bytes=1_000_000)
    outcomes = await asyncio.gather(
        sink.publish([message(value=bytes(2_000_000))]),
        sink.publish([message(value=bytes(600_000))]),
        sink.publish([message()]),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], HashweirError)
    assert [*outcomes[1:]] == [None, None]
    assert [count for _, _, count in client.batches] == [1, 1]
