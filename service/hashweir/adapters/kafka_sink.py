"""Outgoing records to Kafka: done when every replica in sync has them, otherwise nobody knows.

No transactions: aiokafka's commit ignores a batch that the broker refused, and its fencing predates KIP-447. Derived
ids make repeats harmless instead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from hashweir.adapters.kafka_link import Access, connect, topic_missing, unreachable, within
from hashweir.errors import HashweirError, Unreachable
from hashweir.logs import Logger, quiet
from hashweir.model import Message

OUTPUTS = ("verdicts", "matches", "dead-letters")


class KafkaSink:
    """An idempotent producer that is replaced whenever a send of it failed or timed out.

    Two defects make that necessary: an idempotent batch never expires while its leader is known, so a send can wait
    for ever; and one that expires without a leader has used up a sequence number, so that every later send of that
    producer is refused as out of order.
    """

    def __init__(
        self,
        access: Access,
        *,
        prefix: str = "",
        topics: Sequence[str] = OUTPUTS,
        publish_s: float = 15.0,
        stop_s: float = 5.0,
        largest_bytes: int = 2 * 1024 * 1024,
        log: Logger | None = None,
    ) -> None:
        """`topics` are all logical names that are ever published to; `publish_s` bounds one `publish`.

        `largest_bytes` is what the topics take (`max.message.bytes`). Connects to nothing.
        """
        self._access, self._prefix = access, prefix
        self._topics = [prefix + topic for topic in topics]
        self._publish_s, self._stop_s = publish_s, stop_s
        self._largest_bytes = largest_bytes
        self._log = log or quiet()
        self._producer: Any = None
        self._connecting: asyncio.Task[Any] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._out = False

    async def start(self) -> None:
        """Connect and look at every topic.

        Raises Unreachable(stream_unreachable) after `connect_s`, naming the address;
        HashweirError(stream_topic_missing); ConfigError.
        """
        self._producer = await self._connect(self._access.connect_s)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker acked every message; those of one key and topic keep their order.

        Raises Unreachable(stream_unreachable) where an ack is missing after `publish_s`: some may be written, publish
        all again. Raises HashweirError(internal_error) for a message that no topic takes.
        """
        producer = self._producer or await self._reconnect()
        try:
            await within(self._publish_s, self._send(producer, messages))
        except MessageSizeTooLargeError:
            sizes = max(len(message.value) for message in messages)
            raise HashweirError("internal_error", f"a message of {sizes} bytes is more than its topic takes") from None
        except (KafkaError, TimeoutError) as error:
            why = f"no ack within {self._publish_s:g} s" if isinstance(error, TimeoutError) else type(error).__name__
            self._retire(producer, why)
            raise unreachable(self._access, f"{why}; what was sent may be written") from None
        if self._out:
            self._out = False
            self._log.warning("stream.reconnected", address=self._access.bootstrap)

    async def stop(self) -> None:
        """Flush and close within `stop_s`. Never raises."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._close(producer)
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=self._stop_s)

    async def _send(self, producer: Any, messages: Sequence[Message]) -> None:
        acks: list[asyncio.Future[Any]] = []
        try:
            for one in messages:
                topic, headers = self._prefix + one.topic, list(one.headers)
                acks.append(
                    await producer.send(topic, one.value, key=one.key, headers=headers, partition=one.partition)
                )
        finally:
            # `send` returns when the record stands in a buffer of this process; the ack is what counts.
            await asyncio.gather(*acks)

    async def _connect(self, seconds: float) -> Any:
        producer = AIOKafkaProducer(
            **self._access.options(),
            # Off by default, and acks=1: an ack would then mean that one broker has it in memory.
            enable_idempotence=True,
            acks="all",
            # Checked by the client for each message; its default is less than the topics take.
            max_request_size=self._largest_bytes,
            max_batch_size=256 * 1024,
            # The delivery tasks of one poll end together; a moment's wait puts their verdicts into one batch.
            linger_ms=2,
            metadata_max_age_ms=15_000,
        )
        try:
            await connect(self._access, producer.start)
            try:
                await within(seconds, self._look_at_topics(producer))
            except (KafkaError, TimeoutError) as error:
                raise unreachable(self._access, f"topics: {type(error).__name__}") from None
        except BaseException:
            await self._close(producer)
            raise
        return producer

    async def _look_at_topics(self, producer: Any) -> None:
        # Asked for all topics, because asking for one by name may make it, with the broker's defaults.
        there = (await producer.client.fetch_all_metadata()).topics()
        if missing := [topic for topic in self._topics if topic not in there]:
            raise topic_missing(missing)
        for topic in self._topics:
            # Or the first send in an outage fails for want of metadata, although nothing was sent.
            await producer.partitions_for(topic)

    async def _reconnect(self) -> Any:
        """The producer that follows a retired one. Whoever publishes meanwhile waits for the same attempt."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(self._publish_s))
            self._connecting.add_done_callback(self._connected)
        task = self._connecting
        await asyncio.wait([task])
        if task.cancelled():
            raise unreachable(self._access, "stopped")
        return task.result()

    def _connected(self, task: asyncio.Task[Any]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._producer = task.result()

    def _retire(self, producer: Any, why: str) -> None:
        # Many sends fail together, and the first has replaced the producer of all.
        if self._producer is not producer:
            return
        self._producer = None
        if not self._out:
            self._out = True
            error = Unreachable("stream_unreachable", why)
            self._log.error("stream.unreachable", address=self._access.bootstrap, reason=error.reason, error=error)
        task = asyncio.create_task(self._close(producer, flush=False))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close(self, producer: Any, *, flush: bool = True) -> None:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            # aiokafka's stop waits until everything is sent, which in an outage is for ever.
            await within(self._stop_s if flush else 0.1, producer.stop())
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            await within(self._stop_s, producer.client.close())
        # A stop that was cut short leaves its sender running, with batches that would be sent some day. Public API
        # has no other way to end it; what it holds has been reported as unknown.
        sender = producer._sender.sender_task
        if sender is not None and not sender.done():
            sender.cancel()
            await asyncio.wait([sender], timeout=1.0)
