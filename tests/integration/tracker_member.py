"""One member of a consumer group with nothing but aiokafka and the tracker: each record gives one output.

Run as a process: `python tracker_member.py '{"bootstrap": ..., "group": ..., ...}'`. It reports what happens
as JSON lines on stdout, ends well on SIGTERM, and ends with code 70 when only a new process can be trusted.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from typing import Any

from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
)
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from hashweir.pipeline.offsets import Budget, Tracker

COMMIT_EVERY = 0.5
COMMIT_TIMEOUT = 2.5
DRAIN_SECONDS = 2.0
# aiokafka sends no heartbeat while the assigned callback runs: that step must end well before the session.
ASSIGN_TIMEOUT = 4.0
STUCK_TURNS = 10
REFUSALS = 3


def report(event: str, **facts: object) -> None:
    """One JSON line; the parent reads them."""
    print(json.dumps({"event": event, "at": time.time(), **facts}), flush=True)


class Member(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka carries no types
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        # Names one assignment; moves on as a revocation begins, so that "unchanged" means "still ours".
        self.epoch = 0
        self.trackers: dict[TopicPartition, Tracker] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.halted: set[TopicPartition] = set()
        self.assigned = asyncio.Event()
        self.budget = Budget(max_items=400, max_bytes=8 * 1024 * 1024)
        self.work: set[asyncio.Task[None]] = set()
        self.commit_lock = asyncio.Lock()
        self.stopping = False
        self.refused = 0
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.polls_with_records = 0
        self.producer = AIOKafkaProducer(bootstrap_servers=settings["bootstrap"], enable_idempotence=True)
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=settings["bootstrap"],
            group_id=settings["group"],
            group_instance_id=settings["instance"],
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=6_000,
            heartbeat_interval_ms=1_000,
            rebalance_timeout_ms=10_000,
            request_timeout_ms=15_000,
            # How soon added partitions are seen; the default is five minutes.
            metadata_max_age_ms=1_000,
            fetch_max_wait_ms=20,
            fetch_max_bytes=8 * 1024 * 1024,
        )

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Eager protocol: every rebalance takes all away. Heartbeats still run, so a short drain fits."""
        self.epoch += 1
        self.assigned.clear()
        try:
            await self.drain()
            await self.commit(list(self.trackers.items()))
        finally:
            for tracker in self.trackers.values():
                tracker.drop()
            self.trackers, self.committed, self.halted = {}, {}, set()
        report("revoked", partitions=sorted(tp.partition for tp in revoked))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Give every partition its position, or halt it; aiokafka only logs what is raised here."""
        try:
            async with asyncio.timeout(ASSIGN_TIMEOUT):
                await self.take_over(assigned)
        except (KafkaError, TimeoutError) as error:
            self.fail(f"assignment step: {error!r}")
        else:
            report("assigned", partitions=sorted(tp.partition for tp in assigned))
            self.assigned.set()

    async def take_over(self, assigned: set[TopicPartition]) -> None:
        begin = await self.consumer.beginning_offsets(assigned)
        end = await self.consumer.end_offsets(assigned)
        for tp in assigned:
            position = await self.consumer.committed(tp)
            if position is None:
                # Committed at once: from now on a truncated log shows as a lost range, not as a first start.
                position = begin[tp]
                report("first_position", partition=tp.partition, offset=position)
                self.consumer.seek(tp, position)
                await self.consumer.commit({tp: position})
            elif not begin[tp] <= position <= end[tp]:
                self.halt(tp, position, begin[tp], end[tp])
                continue
            self.committed[tp] = position
            self.trackers[tp] = Tracker(self.epoch)

    def halt(self, tp: TopicPartition, position: int, begin: int, end: int) -> None:
        """Leave a partition alone for this epoch: going on would skip what the log no longer has."""
        if tp not in self.halted:
            self.halted.add(tp)
            self.consumer.pause(tp)
            report("halted", partition=tp.partition, position=position, log_start=begin, log_end=end)

    async def poll(self) -> None:
        """The one task that polls: never cancelled, ended by a flag."""
        while not self.stopping and not self.failed.done():
            self.brake()
            try:
                batches = await self.consumer.getmany(timeout_ms=200, max_records=max(1, self.budget.room))
            except NoOffsetForPartitionError:
                # aiokafka fetches before the assigned callback has run: the position is pending, not missing.
                if self.assigned.is_set():
                    raise
                await self.assigned_or_failed()
                continue
            except OffsetOutOfRangeError as error:
                await self.out_of_range(error)
                continue
            # No await between getmany and this line: the records belong to the assignment of this epoch.
            epoch = self.epoch
            await self.assigned_or_failed()
            if epoch != self.epoch or not batches:
                continue
            self.polls_with_records += 1
            for tp, records in batches.items():
                if not self.trackers[tp].ended:  # a refused commit ends it before the revocation comes
                    for record in records:
                        self.begin(self.trackers[tp], record)

    async def assigned_or_failed(self) -> None:
        if not self.assigned.is_set():
            waiting = asyncio.create_task(self.assigned.wait())
            either: set[asyncio.Future[Any]] = {waiting, self.failed}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()

    async def out_of_range(self, error: OffsetOutOfRangeError) -> None:
        for tp, position in error.args[0].items():
            epoch = self.epoch
            async with asyncio.timeout(ASSIGN_TIMEOUT):
                begin = (await self.consumer.beginning_offsets([tp]))[tp]
                end = (await self.consumer.end_offsets([tp]))[tp]
            if epoch == self.epoch:
                self.halt(tp, position, begin, end)

    def brake(self) -> None:
        """Re-applied before every poll: aiokafka forgets pauses with each assignment."""
        if not self.assigned.is_set():
            return
        for tp, tracker in self.trackers.items():
            if tp in self.halted or self.budget.paused or tracker.full:
                self.consumer.pause(tp)
            else:
                self.consumer.resume(tp)

    def begin(self, tracker: Tracker, record: ConsumerRecord) -> None:
        tracker.take(record.offset, len(record.value), time.monotonic())
        self.budget.add(len(record.value))
        task = asyncio.create_task(self.process(tracker, record))
        self.work.add(task)
        task.add_done_callback(self.work.discard)

    async def process(self, tracker: Tracker, record: ConsumerRecord) -> None:
        """Done only once the output is acknowledged; if a send fails or times out nobody knows."""
        try:
            await asyncio.sleep(random.expovariate(1000 / self.settings["work_ms"]))
            async with asyncio.timeout(self.settings["send_seconds"]):
                await self.producer.send_and_wait(self.settings["sink"], record.value, key=record.value)
            tracker.done(record.offset)
        except (KafkaError, TimeoutError) as error:
            self.fail(f"output: {error!r}")
        finally:
            self.budget.release(len(record.value))

    async def drain(self) -> None:
        if self.work:
            await asyncio.wait(set(self.work), timeout=DRAIN_SECONDS)

    async def commit_regularly(self) -> None:
        while not self.failed.done():
            await asyncio.sleep(COMMIT_EVERY)
            if self.assigned.is_set():
                await self.commit(list(self.trackers.items()))

    async def commit(self, trackers: list[tuple[TopicPartition, Tracker]]) -> None:
        """One at a time, under a timeout of its own: aiokafka repeats a retriable commit for ever."""
        async with self.commit_lock:
            epoch = self.epoch
            positions = {
                tp: tracker.committable
                for tp, tracker in trackers
                if tracker.committable is not None and tracker.committable > self.committed.get(tp, -1)
            }
            if not positions:
                return
            try:
                async with asyncio.timeout(COMMIT_TIMEOUT):
                    await self.consumer.commit(positions)
            except (CommitFailedError, IllegalStateError) as error:
                # Lost without a revocation: what was ours is another's, or will be given to us anew.
                report("commit_refused", cause=type(error.__cause__ or error).__name__)
                for _, tracker in trackers:
                    tracker.drop()
                # A late member is refused once. Again and again means that two processes share one static id:
                # each rejoin takes it from the other, nobody is told, and neither ever commits.
                self.refused += 1
                if self.refused >= REFUSALS:
                    self.fail("identity taken: another process uses this static id")
            except TimeoutError:
                report("commit_unknown")
            else:
                self.refused = 0
                if epoch == self.epoch:
                    self.committed.update(positions)

    def fail(self, reason: str) -> None:
        if not self.failed.done():
            self.failed.set_result(reason)

    async def watch(self) -> None:
        """aiokafka can get stuck without an error, and only the absence of records shows it.

        Counted in turns of this loop, not by a clock: a process that was frozen has not been stuck.
        """
        polls, quiet = 0, 0
        while not self.failed.done():
            await asyncio.sleep(2)
            quiet = 0 if self.polls_with_records != polls or not self.assigned.is_set() else quiet + 1
            polls = self.polls_with_records
            if quiet < STUCK_TURNS:
                continue
            open_partitions = [tp for tp in self.trackers if tp not in self.halted]
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(ASSIGN_TIMEOUT):
                    end = await self.consumer.end_offsets(open_partitions)
                    for tp in open_partitions:
                        if end[tp] > await self.consumer.position(tp):
                            self.fail("stuck: records wait and none arrives")

    async def run(self) -> int:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, self, "stopping", True)
        await self.producer.start()
        # Or the first send in an outage fails for want of metadata, although nothing was sent.
        await self.producer.partitions_for(self.settings["sink"])
        await self.consumer.start()
        self.consumer.subscribe([self.settings["source"]], listener=self)
        side = [asyncio.create_task(self.commit_regularly()), asyncio.create_task(self.watch())]
        poll = asyncio.create_task(self.poll())
        ends: set[asyncio.Future[Any]] = {poll, self.failed, *side}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (poll, *side):
            if task.done() and (error := task.exception()) is not None:
                self.fail(f"{error!r}")
        if self.failed.done():
            report("failed", reason=self.failed.result())
            return 70
        # Nothing new has begun since the poll ended: finish, commit, and only then leave.
        await self.drain()
        await self.commit(list(self.trackers.items()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self.consumer.stop()
                await self.producer.stop()
        report("stopped")
        return 0


async def main() -> int:
    return await Member(json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    # Not sys.exit: a client that hangs in its own clean-up must not keep this process alive.
    os._exit(asyncio.Runner().run(main()))
