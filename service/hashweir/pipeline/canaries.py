"""Puts a canary on each assigned partition once per period, and counts what becomes of it.

One at most is under way per partition, so that a partition that stands still does not fill with them. Sent over a
sink of its own: where the uploads topic can't be written, verdicts must not suffer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hashweir.canary import CANARY_SET, CANARY_SOURCE, CANARY_TYPE, picture
from hashweir.errors import HashweirError
from hashweir.logs import Logger
from hashweir.metrics import Metrics
from hashweir.model import Judged, Message, Record
from hashweir.ports import Clock, Known, Partition, Sink


@dataclass(slots=True)
class _Sent:
    id: str
    late: bool = False


class Canaries:
    """The canaries of one worker. Each turn of each partition is counted once, by its result."""

    def __init__(
        self,
        *,
        assignment: Callable[[], tuple[int, Sequence[Partition]]],
        sink: Sink,
        known: Known,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        worker: str,
        period_s: float,
        topic: str = "uploads",
    ) -> None:
        """`sink` is for canaries alone and not started yet; `worker` becomes part of their ids.

        `topic` is the logical name of the one that this worker reads.
        """
        self._assignment, self._sink, self._known = assignment, sink, known
        self._clock, self._metrics, self._log = clock, metrics, log
        self._worker, self._period_s, self._topic = worker, period_s, topic
        self._started = False
        self._starting = asyncio.Lock()
        self._failing = ""
        self._epoch = 0
        self._under_way: dict[Partition, _Sent] = {}
        metrics.canary_period.set(period_s)

    async def run(self) -> None:
        """A turn per period, until cancelled. Whatever goes wrong with a canary, the worker goes on."""
        try:
            while True:
                await asyncio.sleep(self._period_s)
                await self._turn()
        finally:
            await self._sink.stop()

    def judged(self, record: Record, judged: Judged) -> None:
        """The verdict on a canary was acked. Those of another worker or assignment are nobody's any more."""
        partition = (record.topic, record.partition)
        sent = self._under_way.get(partition)
        if sent is None or sent.id != judged.verdict.upload:
            return
        del self._under_way[partition]
        if not sent.late:
            self._count("found" if any(hit.set == CANARY_SET for hit in judged.verdict.hits) else "missed")
        self._metrics.canary_seconds.observe(max(0.0, (self._clock.now_ms() - record.timestamp_ms) / 1000))

    async def _turn(self) -> None:
        epoch, partitions = self._assignment()
        if epoch != self._epoch:
            # What was under way may have been judged elsewhere meanwhile.
            self._epoch = epoch
            self._under_way.clear()
        view = self._known.view()
        if view.standing == "empty":
            return
        known = CANARY_SET in view.sets and view.sets[CANARY_SET].state == "active"
        due = []
        for one in partitions:
            if sent := self._under_way.get(one):
                sent.late = True
                self._count("late")
            elif known:
                due.append(one)
            else:
                self._count("absent")
        if due:
            await asyncio.gather(*map(self._send, due))
        elif partitions and not known:
            self._say("set_not_found")

    async def _send(self, partition: Partition) -> None:
        token = secrets.token_hex(8)
        sent = _Sent(f"canary-{self._worker}-{token}")
        headers = (
            ("ce_specversion", b"1.0"),
            ("ce_id", sent.id.encode()),
            ("ce_source", CANARY_SOURCE.encode()),
            ("ce_type", b"hashweir.canary.v1"),
            ("content-type", CANARY_TYPE.encode()),
        )
        message = Message(
            topic=self._topic,
            key=sent.id.encode(),
            value=picture(token),
            headers=headers,
            partition=partition[1],
        )
        self._under_way[partition] = sent  # its verdict may come before the ack of its record
        try:
            await self._start_sink()
            await self._sink.publish([message])
        except Exception as error:  # noqa: BLE001 - a canary must never end the worker
            if self._under_way.get(partition) is sent:
                del self._under_way[partition]
                self._count("unsent")
            self._say(error.reason if isinstance(error, HashweirError) else "internal_error", error)
        else:
            self._failing = ""

    async def _start_sink(self) -> None:
        async with self._starting:
            if not self._started:
                await self._sink.start()
                self._started = True

    def _count(self, result: str) -> None:
        self._metrics.canary_uploads.labels(result).inc()

    def _say(self, reason: str, error: Exception | None = None) -> None:
        """Once per kind of trouble, not once per period."""
        if reason != self._failing:
            self._failing = reason
            self._log.warning("canary.unsent", reason=reason, error=error)
