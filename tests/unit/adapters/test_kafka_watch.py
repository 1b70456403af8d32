"""The watch over the broker survives what the client raises, and one that never answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError

from hashweir.adapters.kafka_link import Access
from hashweir.adapters.kafka_source import KafkaSource
from tests.virtual_time import run

TP = TopicPartition("uploads", 0)


class Client:
    """Knows the end of a partition, and its position unless it is in the middle of a rebalance."""

    def __init__(self) -> None:
        self.end = 0
        self.trouble = ""

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, self.end)

    async def position(self, tp: TopicPartition) -> int:
        if self.trouble == "raises":
            raise IllegalStateError(f"Partition {tp} is not assigned")
        if self.trouble == "hangs":
            await asyncio.Event().wait()
        return 0


@pytest.mark.parametrize("trouble", ["raises", "hangs"])
def test_a_position_that_is_not_told_does_not_end_the_watch(trouble: str) -> None:
    """It goes on afterwards, and calls no broker unreachable that answers."""

    async def main() -> None:
        source, client = KafkaSource(Access(bootstrap="localhost:1"), group="g", topic="uploads"), Client()
        source._consumer = client
        source._at.begin({TP: 0}, {TP: 0})
        source._ready = True
        watching = asyncio.create_task(source._watch())
        client.trouble = trouble
        await asyncio.sleep(60)
        client.trouble, client.end = "", 7
        await asyncio.sleep(60)
        assert source.lag() == {("uploads", 0): 7}
        assert source._down is None
        assert not watching.done()

    run(main())
