"""From stream to stream: takes uploads, has each delivered as a task of its own, commits what is contiguously done.

At least once, with derived ids. One task polls and is never cancelled. Nothing is shed: what can't go on waits, and
the partitions pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hashweir.errors import HashweirError, Unreachable
from hashweir.logs import Logger
from hashweir.metrics import PAUSES, Metrics
from hashweir.model import Record
from hashweir.pipeline.commit import Committer, Lane
from hashweir.pipeline.deliver import Delivery, ViewGate
from hashweir.pipeline.offsets import Budget, OffsetRepeated, Tracker
from hashweir.pipeline.retry import Brake, RetryPolicy
from hashweir.ports import Clock, Partition, RangeLost, Source

BACK_PRESSURE = ("budget", "span", "draining")
"""Pauses that are ordinary work: counted, but no line in the log each time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one worker; times in seconds. Each tick commits and looks at the stream's health."""

    in_flight_items: int = 256
    in_flight_bytes: int = 64 * 1024 * 1024
    poll_s: float = 0.1
    tick_s: float = 1.0
    commit_wait_s: float = 10.0
    revoke_drain_s: float = 5.0
    stuck_s: float = 60.0


class Worker:
    """The worker of one process. `run` until `stop_polling`, then `finish` and `commit_rest`, in that order."""

    def __init__(
        self,
        *,
        source: Source,
        delivery: Delivery,
        gate: ViewGate,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        limits: Limits | None = None,
    ) -> None:
        self._source, self._delivery, self._gate = source, delivery, gate
        self._clock, self._metrics, self._log = clock, metrics, log
        self._limits = limits or Limits()
        self._budget = Budget(self._limits.in_flight_items, self._limits.in_flight_bytes)
        self._poll_retry = RetryPolicy(most_s=1.0)
        self._poll_failures = 0
        self._brakes: dict[Partition, Brake] = {}
        self._oldest_ms: dict[Partition, int] = {}
        """What was last said of the oldest record that is not done."""
        self._lost: dict[Partition, RangeLost] = {}
        self._lanes: dict[Partition, Lane] = {}
        self._tasks: dict[asyncio.Task[None], Lane] = {}
        self._committer = Committer(source, clock, metrics, log)
        self._epoch = 0
        self._why: dict[str, list[str]] = {reason: [] for reason in PAUSES}
        self._ticked = clock.monotonic()
        self._stopping = False
        self._fatal: HashweirError | None = None

    @property
    def assigned(self) -> bool:
        """Whether this worker has its place in the group (perhaps without a partition)."""
        return self._epoch > 0

    @property
    def assignment(self) -> tuple[int, tuple[Partition, ...]]:
        """The epoch, and the partitions of which records are taken; none while stopping."""
        lanes = () if self._stopping else self._lanes.values()
        return self._epoch, tuple(lane.partition for lane in lanes if not lane.ending)

    # ── taking ──

    async def run(self) -> None:
        """Take uploads until `stop_polling`. Never cancel this.

        Raises Unreachable where the broker does not answer at the start, and HashweirError(stream_fenced |
        stream_stuck) where only a new process helps.
        """
        await self._source.start(self)
        while not self._stopping:
            self._steer()
            if self._clock.monotonic() - self._ticked >= self._limits.tick_s:
                self._tick()
            records = await self._poll()
            if fatal := self._fatal or self._committer.fatal:
                raise fatal
            if not self._stopping:  # else they are neither taken nor committed, and come again
                for record in records:
                    self._take(record)

    def stop_polling(self) -> None:
        """Take nothing more; `run` returns after the poll that is under way."""
        self._stopping = True
        self._steer()

    async def _poll(self) -> Sequence[Record]:
        try:
            records = await self._source.poll(self._limits.poll_s)
        except RangeLost as lost:
            topic, number = lost.partition
            where = {"topic": topic, "partition": number, "first": lost.first, "after_last": lost.after_last}
            self._log.critical("stream.lost_range", **where, records=lost.after_last - lost.first)
            new = lost.after_last - lost.first
            if before := self._lost.get(lost.partition):  # told again at each assignment, perhaps longer by then
                new -= max(0, min(lost.after_last, before.after_last) - max(lost.first, before.first))
            self._lost[lost.partition] = lost
            self._metrics.lost_records.labels(topic, str(number)).inc(new)
            if lane := self._lanes.get(lost.partition):
                lane.lost = True
            return ()
        except Unreachable as error:
            self._poll_failures += 1
            self._metrics.poll_failures.inc()
            if self._poll_failures == 1:
                self._log.error("stream.poll_failed", reason=error.reason, error=error)
                self._steer()
            await asyncio.sleep(self._poll_retry.delay(self._poll_failures))
            return ()
        self._poll_failures = 0
        return records

    def _take(self, record: Record) -> None:
        lane = self._lanes.get((record.topic, record.partition))
        if lane is None or lane.ending:
            return
        size = len(record.value) + sum(len(name) + len(value) for name, value in record.headers)
        try:
            # A record without a time is as old as it is here.
            lane.last_stamp_ms = record.timestamp_ms or self._clock.now_ms()
            lane.tracker.take(record.offset, size, self._clock.monotonic(), lane.last_stamp_ms)
        except OffsetRepeated:
            # The order of this partition is not to be trusted: commit nothing more of it, and end.
            lane.let_go()
            raise
        self._metrics.count_taken(record.topic)
        lane.quiet_s = 0.0
        self._budget.add(size)
        task = asyncio.create_task(self._handle(lane, record, size))
        self._tasks[task] = lane
        task.add_done_callback(self._tasks.pop)

    async def _handle(self, lane: Lane, record: Record, size: int) -> None:
        try:
            if await self._delivery.deliver(record, lane.brake, lane.ours):
                lane.tracker.done(record.offset)
        finally:
            self._budget.release(size)
            if lane.paused:
                self._steer()

    # ── pausing ──

    def _steer(self) -> None:
        """Pause and resume as all the reasons for it now stand."""
        everywhere = {
            "draining": self._stopping,
            "standing": not self._gate.is_open(),
            "budget": self._budget.paused,
            "sink": self._delivery.sink_is_out(),
            "source": self._poll_failures > 0,
        }
        why: dict[str, list[str]] = {reason: [] for reason in PAUSES}
        pause: list[Partition] = []
        resume: list[Partition] = []
        for one, lane in self._lanes.items():
            here = {"span": lane.tracker.full, "brake": lane.brake.stopped, "lost_range": lane.lost}
            reasons = [reason for reason, holds in (everywhere | here).items() if holds]
            for reason in reasons:
                why[reason].append(f"{one[0]}-{one[1]}")
            if lane.paused is not bool(reasons):
                lane.paused = bool(reasons)
                lane.quiet_s = 0.0
                (pause if reasons else resume).append(one)
        if pause:
            self._source.pause(pause)
        if resume:
            self._source.resume(resume)
        for reason, names in why.items():
            before, self._why[reason] = self._why[reason], names
            if names != before:
                self._metrics.paused_partitions.labels(reason).set(len(names))
                if reason in BACK_PRESSURE:
                    continue
                if names:
                    self._log.warning("stream.paused", why=reason, partitions=names)
                else:
                    self._log.warning("stream.resumed", why=reason, partitions=before)

    # ── once a second ──

    def _tick(self) -> None:
        now = self._clock.monotonic()
        # A process that was itself suspended must not take its own absence for the stream's silence.
        passed = min(now - self._ticked, 2 * self._limits.tick_s)
        self._ticked = now
        self._committer.start(self._epoch, tuple(self._lanes.values()))
        lag, waiting_ms, now_ms = self._source.lag(), self._source.waiting_ms(), self._clock.now_ms()
        for one, lane in self._lanes.items():
            if (behind := lag.get(one)) is None:
                continue  # the source has given it up already: what was last said holds until the assignment ends
            self._metrics.lag.labels(one[0], str(one[1])).set(behind)
            oldest_ms = lane.oldest_unfinished_ms(behind, now_ms, waiting_ms.get(one, 0))
            self._metrics.oldest_unfinished.labels(one[0], str(one[1])).set(oldest_ms / 1000)
            self._oldest_ms[one] = oldest_ms
            lane.quiet_s = lane.quiet_s + passed if behind > 0 and not lane.paused else 0.0
            if lane.quiet_s > self._limits.stuck_s:
                where = {"topic": one[0], "partition": one[1], "lag": behind}
                self._log.critical("stream.stuck", **where, seconds=lane.quiet_s)
                self._fatal = HashweirError("stream_stuck")
        self._metrics.in_flight_items.set(self._budget.items)
        self._metrics.in_flight_bytes.set(self._budget.bytes)
        oldest = max((lane.tracker.oldest_age(now) for lane in self._lanes.values()), default=0.0)
        self._metrics.oldest_in_flight.set(now_ms / 1000 - oldest if oldest else 0)

    async def commit_rest(self, timeout_s: float) -> bool:
        """Commit all that is contiguously done, trying for at most `timeout_s` seconds; whether nothing is left."""
        return await self._committer.rest(self._epoch, tuple(self._lanes.values()), timeout_s)

    # ── assignment ──

    async def on_assigned(self, epoch: int, partitions: Sequence[Partition]) -> None:
        """These partitions are ours, from what was last committed of them."""
        self._epoch = epoch
        self._lanes = {
            # A brake outlives the assignment: a re-assignment mends no bad deploy. Nor does it make what waits younger;
            # but what was with another worker in between may have been done there.
            one: Lane(
                one, Tracker(epoch), self._brakes.setdefault(one, Brake()), behind_since_ms=self._oldest_ms.get(one, 0)
            )
            for one in partitions
        }
        self._oldest_ms = {one: lane.behind_since_ms for one, lane in self._lanes.items()}
        self._steer()
        self._metrics.rebalances.inc()
        self._metrics.partitions_assigned.set(len(partitions))
        self._log.info("stream.assigned", epoch=epoch, partitions=[f"{topic}-{n}" for topic, n in partitions])

    async def on_revoked(self, epoch: int) -> None:
        """Finish what can be finished soon, commit it, and let go of the rest: it comes again elsewhere."""
        if epoch != self._epoch:
            return
        began = self._clock.monotonic()
        for lane in self._lanes.values():
            lane.ending = True
        await self._wait_for(self._lanes.values(), self._limits.revoke_drain_s)
        if self._lanes:
            await self.commit_rest(self._limits.commit_wait_s)
        left = sum(lane.tracker.items for lane in self._lanes.values())
        for lane in self._lanes.values():
            lane.let_go()
            self._metrics.forget_partition(lane.partition[0], lane.partition[1])
        self._lanes = {}
        self._metrics.partitions_assigned.set(0)
        seconds = round(self._clock.monotonic() - began, 3)
        self._log.info("stream.revoked", epoch=epoch, left_in_flight=left, seconds=seconds)

    async def finish(self, timeout_s: float) -> int:
        """Wait at most `timeout_s` seconds for the uploads in flight, cancel the rest; how many those were."""
        await self._wait_for(self._lanes.values(), timeout_s)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        return len(left)

    async def _wait_for(self, lanes: Iterable[Lane], timeout_s: float) -> None:
        wanted = set(lanes)
        if tasks := [task for task, lane in self._tasks.items() if lane in wanted]:
            await asyncio.wait(tasks, timeout=timeout_s)
