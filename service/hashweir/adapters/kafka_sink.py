"""Outgoing records to Kafka: done when every replica in sync has them, otherwise nobody knows.

No transactions: aiokafka's commit ignores a batch that the broker refused, and its fencing predates KIP-447. Derived
ids make repeats harmless instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from hashweir.adapters.kafka_link import Access, connect, ended, topic_missing, unreachable, within
from hashweir.errors import HashweirError, Unreachable
from hashweir.logs import Logger, quiet
from hashweir.model import Message

OUTPUTS = ("verdicts", "matches", "dead-letters")
_PATIENCE_S: Final = 0.02
"""How long messages wait for the acks of those before them; a broker on the same network takes a few milliseconds."""
_PARTITIONER: Final = DefaultPartitioner()
_Publish = tuple[Sequence[Message], asyncio.Future[None]]
_Batch = tuple[Any, set[int]]
"""A batch of the client's, and the places in the wave of those who have messages in it."""


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
        pace_s: float = 0.0,
        log: Logger | None = None,
    ) -> None:
        """`topics` are all logical names that are ever published to; `publish_s` bounds one `publish`.

        `largest_bytes` is what the topics take (`max.message.bytes`). Messages go at once where none went in the last
        `pace_s` seconds, and otherwise together when those have passed. Connects to nothing.
        """
        self._access, self._prefix = access, prefix
        self._topics = [prefix + topic for topic in topics]
        self._publish_s, self._stop_s = publish_s, stop_s
        self._largest_bytes = largest_bytes
        self._pace_s = pace_s
        self._log = log or quiet()
        self._producer: Any = None
        self._connecting: asyncio.Task[Any] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._out = False
        self._waiting: list[_Publish] = []
        self._sending: asyncio.Task[None] | None = None
        self._waves: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect and look at every topic.

        Raises Unreachable(stream_unreachable) after `connect_s`, naming the address;
        HashweirError(stream_topic_missing); ConfigError.
        """
        self._producer = await self._connect(self._access.connect_s)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker acked every message; those of one key and topic keep their order.

        What is published in one turn of the loop, or while earlier messages wait for their acks, or within `pace_s`
        of them, goes together.

        Raises Unreachable(stream_unreachable) where an ack is missing after `publish_s`: some may be written, publish
        all again. Raises HashweirError(internal_error) for a message that no topic takes.
        """
        for one in messages:
            size = DefaultRecordBatchBuilder.estimate_size_in_bytes(one.key, one.value, list(one.headers))
            if size > self._largest_bytes:
                raise HashweirError("internal_error", f"a message of {size} bytes is more than its topic takes")
        acked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, acked))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_waiting())
        await acked

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

    async def _send_waiting(self) -> None:
        """Send what waits, until nothing does: the next when the last is acked, or slow, and not before its time."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                wave, self._waiting = self._waiting, []
                next_at = loop.time() + self._pace_s
                task = asyncio.create_task(self._wave([one for one in wave if not one[1].done()]))
                self._waves.add(task)
                task.add_done_callback(self._waves.discard)
                # A broker that is slow must not hold up what is for the others.
                await asyncio.wait([task], timeout=_PATIENCE_S)
                if (early_s := next_at - loop.time()) > 0:
                    await asyncio.sleep(early_s)
        finally:
            self._sending = None

    async def _wave(self, wave: Sequence[_Publish]) -> None:
        """Send these, and tell each of them what became of it."""
        errors: dict[int, BaseException] = {}
        try:
            producer = self._producer or await self._reconnect()
            try:
                errors = await self._send(producer, [messages for messages, _ in wave])
            except (KafkaError, TimeoutError) as error:
                errors = dict.fromkeys(range(len(wave)), error)
            errors = {number: self._explained(producer, error) for number, error in errors.items()}
        except Exception as error:  # noqa: BLE001 - told to all, or they would wait for ever
            errors = dict.fromkeys(range(len(wave)), error)
        for number, (_, acked) in enumerate(wave):
            if acked.done():
                continue
            if number in errors:
                acked.set_exception(errors[number])
            else:
                acked.set_result(None)
        if self._out and len(errors) < len(wave):
            self._out = False
            self._log.warning("stream.reconnected", address=self._access.bootstrap)

    async def _send(self, producer: Any, wave: Sequence[Sequence[Message]]) -> dict[int, BaseException]:
        """Send messages and wait for the acks, partition by partition at once; the errors by place in the wave."""
        async with asyncio.timeout(self._publish_s):  # partitions are known, and nothing is waited for
            batches = await self._batches(producer, wave)
        sending = {asyncio.create_task(_in_order(producer, *at, held)): held for at, held in batches.items()}
        await ended(self._publish_s, sending)
        errors: dict[int, BaseException] = {}
        for task, held in sending.items():
            # Cancelled from inside, when a client is closed under it.
            error = task.exception() if task.done() and not task.cancelled() else TimeoutError()
            task.cancel()
            if error is not None:
                errors |= dict.fromkeys(itertools.chain(*(numbers for _, numbers in held)), error)
        return errors

    async def _batches(self, producer: Any, wave: Sequence[Sequence[Message]]) -> dict[tuple[str, int], list[_Batch]]:
        """The batches of each topic and partition, in order."""
        batches: dict[tuple[str, int], list[_Batch]] = {}
        known: dict[str, list[int]] = {}
        for number, messages in enumerate(wave):
            for one in messages:
                topic = self._prefix + one.topic
                partition = one.partition
                if partition is None:
                    if topic not in known:
                        known[topic] = sorted(await producer.partitions_for(topic))
                    partition = _PARTITIONER(one.key, known[topic], known[topic])
                held = batches.setdefault((topic, partition), [])
                fields = {"timestamp": None, "key": one.key, "value": one.value, "headers": list(one.headers)}
                if not held or held[-1][0].append(**fields) is None:
                    held.append((producer.create_batch(), set()))
                    if held[-1][0].append(**fields) is None:  # the first one may be of any size
                        raise MessageSizeTooLargeError
                held[-1][1].add(number)
        return batches

    def _explained(self, producer: Any, error: BaseException) -> BaseException:
        """What whoever publishes is told; a producer that failed is replaced."""
        if isinstance(error, MessageSizeTooLargeError):
            return HashweirError("internal_error", "a batch is more than its topic takes")
        if not isinstance(error, KafkaError | TimeoutError):
            return error
        why = f"no ack within {self._publish_s:g} s" if isinstance(error, TimeoutError) else type(error).__name__
        self._retire(producer, why)
        return unreachable(self._access, f"{why}; what was sent may be written")

    async def _connect(self, seconds: float) -> Any:
        producer = AIOKafkaProducer(
            **self._access.options(),
            # Off by default, and acks=1: an ack would then mean that one broker has it in memory.
            enable_idempotence=True,
            acks="all",
            # Checked by the client for each message; its default is less than the topics take.
            max_request_size=self._largest_bytes,
            max_batch_size=256 * 1024,
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


async def _in_order(producer: Any, topic: str, partition: int, batches: Sequence[_Batch]) -> None:
    """Send the batches of one partition, each when the one before is acked."""
    for batch, _ in batches:
        batch.close()  # or it would linger, for more that will not come
        await (await producer.send_batch(batch, topic, partition=partition))
