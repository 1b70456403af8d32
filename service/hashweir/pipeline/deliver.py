"""One upload, from its record to the broker's ack of its verdict.

Whatever happens to it, one of two things is true at the end: its verdict is acked, or it is not done and comes
again. An error of one upload ends at that upload; only where not even a refusal can be made does its partition stop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from hashweir.canary import CANARY_SET, is_canary
from hashweir.errors import REASONS, HashweirError, Unreachable
from hashweir.logs import Logger
from hashweir.metrics import Metrics
from hashweir.model import Judged, Message, Record, Upload
from hashweir.pipeline import ingest
from hashweir.pipeline.emit import FIRST_SEEN, LONG_TOPIC, Emitter, dead_letter_reason
from hashweir.pipeline.match import USABLE
from hashweir.pipeline.retry import Again, Brake, Breaker, RetryPolicy, StopPartition
from hashweir.ports import Clock, Known, Sink, Trace, Tracer, View


class Judge(Protocol):
    """What is asked of `match.Matcher`."""

    async def match(self, upload: Upload) -> Judged:
        """The verdict on an upload."""

    async def refuse(self, upload: Upload, reason: str) -> Judged:
        """The verdict on an upload that can't be judged, for this reason."""


class ViewGate:
    """Lets nobody judge by a state that is empty, stale or doubtful, nor before the first one with an active set."""

    def __init__(self, known: Known, *, allow_empty: bool = False, look_every_s: float = 0.1) -> None:
        """`allow_empty` does not wait for an active set; who waits looks every `look_every_s` seconds."""
        self._known = known
        self._seen_active = allow_empty
        self._look_every_s = look_every_s

    def is_open(self) -> bool:
        """Whether the state of this moment may be judged by."""
        view = self._known.view()
        if view.standing not in USABLE:
            return False
        # Only the start waits for an active set: later, switching the last one off is somebody's decision.
        self._seen_active = self._seen_active or any(
            one.state == "active" and name != CANARY_SET for name, one in view.sets.items()
        )
        return self._seen_active

    async def usable_view(self) -> View:
        """The view to judge by; waits until there is one."""
        while not self.is_open():  # noqa: ASYNC110
            await asyncio.sleep(self._look_every_s)  # a state turns stale by the clock alone: no event tells
        return self._known.view()


class Delivery:
    """Judges uploads and hands their verdicts over, with all the patience that is due."""

    def __init__(
        self,
        *,
        judge: Judge,
        emitter: Emitter,
        sink: Sink,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        tracer: Tracer | None = None,
        default_source: str,
        inline_bytes: int = 1024 * 1024,
        relay_long: bool = False,
        retry: RetryPolicy | None = None,
        jitter: Callable[[], float] = random.random,
        remember: Callable[[Upload, Judged], None] = lambda upload, judged: None,
        on_canary: Callable[[Record, Judged], None] = lambda record, judged: None,
    ) -> None:
        """`default_source` stands in for a missing `ce_source`: `kafka:<cluster id>`. `jitter` gives 0-1.

        `relay_long`: what takes long is not judged here but handed on to the long topic.
        `remember` is told of each upload whose verdict was acked, before it counts as done; `on_canary` of each canary,
        which is counted and remembered nowhere else.
        """
        self._judge, self._emitter, self._sink = judge, emitter, sink
        self._clock, self._metrics, self._log = clock, metrics, log
        self._tracer = tracer
        self._default_source = default_source
        self._inline_bytes = inline_bytes
        self._relay_long = relay_long
        self._retry = retry or RetryPolicy()
        self._jitter = jitter
        self._remember = remember
        self._on_canary = on_canary
        self._sink_breaker = Breaker()

    def sink_is_out(self) -> bool:
        """Whether to take no more uploads, because verdicts can't be handed over."""
        return self._sink_breaker.is_open(self._clock.monotonic())

    async def deliver(self, record: Record, brake: Brake, ours: Callable[[], bool]) -> bool:
        """Whether the record's verdict, or its relay, is acked. False: it is not done, and comes again some day.

        Gives up without a verdict when `ours()` turns false (another worker has the partition), and where the
        `brake` of its partition has stopped and this upload is one more of those that stopped it.
        """
        trace, done = None, False
        try:
            trace = self._tracer.begin(record) if self._tracer else None
            done = await self._deliver(trace.record if trace else record, brake, ours, trace)
        except Exception as error:  # noqa: BLE001 - whatever it is, the partition must not go past this upload
            self._log.error("match.failed", **_where(record), error=error, exc_info=error)
            self._stop(record, brake)
        finally:
            if trace:
                trace.end(acked=done)
        return done

    async def _deliver(self, record: Record, brake: Brake, ours: Callable[[], bool], trace: Trace | None) -> bool:
        began = self._clock.monotonic()
        upload, refusal = self._read(record)
        ingest_s = self._clock.monotonic() - began
        if self._relay_long and refusal is None and takes_long(upload):
            if not await self._publish(record, [self._emitter.relayed(upload, record)], ours):
                return False
            self._metrics.relayed.inc()
            self._metrics.observe_stages({"ingest": ingest_s})
            return True
        judged = await self._judge_one(record, upload, refusal, brake, ours)
        if judged is None:
            return False
        if trace:
            trace.judged(judged)
        if is_canary(upload):
            # No part of the traffic: it must neither trip the brake nor end a row of faults.
            acked = await self._publish(record, self._emitter.messages(judged, upload, record), ours)
            if acked:
                self._on_canary(record, judged)
            return acked
        letter = dead_letter_reason(judged)
        reasons = (judged.verdict.reason, judged.failure, letter)
        fault = any(one in REASONS and REASONS[one].klass == "fault" for one in reasons if one)
        stopped_before = brake.stopped
        if brake.note(fault=fault, dead_letter=letter is not None):
            if not stopped_before:
                self._say_stopped(record, brake)
            if fault or letter:
                return False
        judged_at = self._clock.monotonic()
        if not await self._publish(record, self._emitter.messages(judged, upload, record), ours):
            return False
        self._remember(upload, judged)
        stages = {"ingest": ingest_s, **judged.timings, "publish": self._clock.monotonic() - judged_at}
        self._count(judged, record, letter, stages)
        return True

    async def _judge_one(
        self, record: Record, upload: Upload, refusal: str | None, brake: Brake, ours: Callable[[], bool]
    ) -> Judged | None:
        began, attempt = self._clock.monotonic(), 0
        while ours():
            attempt += 1
            try:
                if refusal is None:
                    return await self._judge.match(upload)
                return await self._judge.refuse(upload, refusal)
            except Exception as error:  # noqa: BLE001 - one upload's error ends at that upload
                reason = error.reason if isinstance(error, HashweirError) else "internal_error"
                self._log.error(
                    "match.failed", **_where(record), attempt=attempt, reason=reason, error=error, exc_info=error
                )
            elapsed, refusing = self._clock.monotonic() - began, refusal is not None
            decision = self._retry.decide(reason, attempt, elapsed, refusing=refusing, jitter=self._jitter())
            if isinstance(decision, StopPartition):
                self._stop(record, brake)
                return None
            if isinstance(decision, Again):
                self._metrics.retries.labels("match").inc()
                await asyncio.sleep(decision.delay_s)
            else:
                refusal = decision.reason
        return None

    def _read(self, record: Record) -> tuple[Upload, str | None]:
        try:
            return ingest.read(record, self._default_source, self._inline_bytes), None
        except ingest.Unreadable as error:
            return error.upload, error.reason
        except Exception as error:  # noqa: BLE001 - a record that breaks the reader must not break the partition
            self._log.error("match.failed", **_where(record), error=error, exc_info=error)
            name = f"{record.topic}-{record.partition}-{record.offset}"
            return Upload(source=self._default_source, id=name), "internal_error"

    async def _publish(self, record: Record, messages: Sequence[Message], ours: Callable[[], bool]) -> bool:
        """Hand over, for as long as it takes: there is no other place to put a verdict."""
        attempt = 0
        while ours():
            attempt += 1
            try:
                await self._sink.publish(messages)
            except Unreachable as error:
                self._sink_breaker.failed(self._clock.monotonic())
                self._metrics.retries.labels("sink").inc()
                if attempt == 1:
                    self._log.warning("stream.publish_failed", **_where(record), reason=error.reason)
                await asyncio.sleep(self._retry.delay(attempt, self._jitter()))
            else:
                self._sink_breaker.succeeded()
                return True
        return False

    def _count(self, judged: Judged, record: Record, letter: str | None, stages: Mapping[str, float]) -> None:
        verdict, now_ms = judged.verdict, self._clock.now_ms()
        self._metrics.observe_stages(stages)
        self._metrics.count_judged(
            media=verdict.media_class,
            outcome=verdict.outcome,
            action=verdict.action,
            reason=verdict.reason,
            hits=[(hit.kind, hit.band, hit.distance, hit.state) for hit in verdict.hits],
            dead_letter=letter,
            seconds=(now_ms - (_first_ms(record) or now_ms)) / 1000,
        )
        if letter is not None:
            stage = REASONS[letter].stage
            self._log.info("match.dead_letter", **_where(record), reason=letter, stage=stage, attempts=judged.attempts)

    def _stop(self, record: Record, brake: Brake) -> None:
        if not brake.stopped:
            brake.stop()
            self._say_stopped(record, brake)

    def _say_stopped(self, record: Record, brake: Brake) -> None:
        self._log.critical(
            "stream.brake",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            faults=brake.faults,
            in_a_row=brake.in_a_row,
        )


def takes_long(upload: Upload) -> bool:
    """Whether an upload is one of those that may take minutes and can be handed on in few bytes.

    The declared type decides, for nothing is fetched yet; a video that is declared otherwise takes its time in place.
    """
    return upload.uri is not None and (upload.media_type or "").startswith("video/")


def _first_ms(record: Record) -> int:
    """When the upload's first record was written: its own, or that of the one that it was relayed from; 0: not told."""
    if not record.topic.endswith(LONG_TOPIC):
        return record.timestamp_ms
    said = next((value for name, value in reversed(record.headers) if name == FIRST_SEEN), b"")
    return (int(said) if said.isdigit() and len(said) < 16 else 0) or record.timestamp_ms


def _where(record: Record) -> dict[str, object]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
