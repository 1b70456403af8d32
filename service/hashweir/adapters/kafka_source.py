"""Uploads from Kafka, at least once: who owns a partition when, where reading begins, what may be committed.

Decision 0001 says which of aiokafka's habits this answers; each stands as a comment at its line. One task calls
`getmany` and is never cancelled while the source lives; `poll` only waits for it.
Long because fetching, committing and assignment change one state between them, and are only right together.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnknownError,
    UnknownMemberIdError,
)

from hashweir.adapters.kafka_checksums import check_by_instruction
from hashweir.adapters.kafka_frames import read_in_frames
from hashweir.adapters.kafka_link import Access, connect, topic_missing, unreachable, within
from hashweir.adapters.kafka_position import BAD_DATA, Positions, Timing, record_of
from hashweir.errors import HashweirError, Refused, Unreachable
from hashweir.logs import Logger, quiet
from hashweir.model import Record
from hashweir.ports import AssignmentLost, Partition, PartitionListener, RangeLost

Offsets = dict[TopicPartition, int]

REFUSALS = 3
FAILURES = 20
"""Polls in a row that failed although the broker answers: the client will not mend itself."""
CORRUPT = 3
"""Reads of the same bytes that failed: not the network's doing."""


class KafkaSource:
    """One member of a consumer group on one topic."""

    def __init__(
        self,
        access: Access,
        *,
        group: str,
        topic: str,
        instance_id: str = "",
        first_position: Literal["earliest", "latest"] = "earliest",
        max_records: int = 100,
        timing: Timing | None = None,
        log: Logger | None = None,
    ) -> None:
        """`instance_id` must be unique and stable (static membership); empty: a dynamic member.

        `first_position` is where a *new group* begins; a partition that is added later is read from its beginning.
        `max_records` bounds one poll. Connects to nothing.
        """
        self._access, self._group, self._topic = access, group, topic
        self._instance_id, self._first_position = instance_id, first_position
        self._max_records = max_records
        self._timing = timing or Timing()
        self._log = log or quiet()
        self._consumer: Any = None
        self._listener: PartitionListener | None = None
        self._epoch = 0
        self._open_epoch: int | None = None
        """The epoch that may commit: from its assignment until its `on_revoked` has returned."""
        self._told_epoch: int | None = None
        """The epoch whose end the listener has not been told yet."""
        self._turn = 0
        """Moves on as soon as an assignment is known to end: what was begun before is not of this assignment."""
        self._ready = False
        """The assignment step has ended: what is fetched from here on is ours."""
        self._at = Positions()
        self._paused: set[TopicPartition] = set()
        self._unseen: set[TopicPartition] = set()
        """Paused partitions of which the first record can't be read."""
        self._untold: list[RangeLost] = []
        self._corrupt: dict[TopicPartition, int] = {}
        self._refused = 0
        self._committed_at = -math.inf
        """When a commit last succeeded, by the loop's clock."""
        self._failed = 0
        self._trouble: Unreachable | None = None
        self._down: Unreachable | None = None
        self._fatal: HashweirError | None = None
        self._commit_lock = asyncio.Lock()
        self._fetching: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    # ── start and stop ──

    async def start(self, listener: PartitionListener) -> None:
        """Connect and join; the first assignment comes later.

        Raises Unreachable(stream_unreachable) after `connect_s`, naming the address;
        HashweirError(stream_topic_missing); ConfigError.
        """
        self._listener, timing = listener, self._timing
        self._consumer = AIOKafkaConsumer(
            **self._access.options(),
            group_id=self._group,
            # An empty id would be an id that all share.
            group_instance_id=self._instance_id or None,
            enable_auto_commit=False,
            # The default, `latest`, jumps over whatever can't be read: silent loss.
            auto_offset_reset="none",
            # No deserializers: one that raises never advances, ten thousand times in four seconds.
            session_timeout_ms=int(timing.session_s * 1000),
            heartbeat_interval_ms=int(timing.heartbeat_s * 1000),
            # Drain and last commit fit into the rebalance, and a join that the broker holds fits into the request.
            rebalance_timeout_ms=int(timing.rebalance_s * 1000),
            request_timeout_ms=int(timing.request_s * 1000),
            # How soon added partitions are seen; the default is five minutes.
            metadata_max_age_ms=int(timing.metadata_s * 1000),
            fetch_max_wait_ms=50,
            # What one answer of a broker may hold; the default is 50 MiB, times brokers.
            fetch_max_bytes=8 * 1024 * 1024,
            max_poll_records=self._max_records,
        )
        read_in_frames(self._consumer._client)
        check_by_instruction()
        try:
            await connect(self._access, self._consumer.start)
            try:
                topics = await within(self._access.answer_s, self._consumer.topics())
            except (KafkaError, TimeoutError) as error:
                raise unreachable(self._access, f"topics: {type(error).__name__}") from None
            if self._topic not in topics:
                raise topic_missing([self._topic])
        except BaseException:
            await self._close()
            raise
        self._consumer.subscribe([self._topic], listener=_Callbacks(self))
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Tell the listener that all is revoked, and leave. Bounded by the listener and `stop_s`; never raises.

        A static member keeps its place until its session expires, so that its successor just goes on.
        """
        self._turn += 1
        self._ready = False
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        await self._tell_revoked()
        await self._close()

    async def _close(self) -> None:
        if self._consumer is None:
            return
        try:
            # aiokafka's stop can hang or raise (issues 647 and 773).
            await within(self._timing.stop_s, self._consumer.stop())
        except (KafkaError, OSError, TimeoutError):
            # Then it has closed nothing, and there is no public way to.
            for part in (self._consumer._fetcher, self._consumer._client):
                if part is not None:
                    with contextlib.suppress(KafkaError, OSError, TimeoutError):
                        await within(1.0, part.close())
        if self._fetching is not None:
            # The one place where a fetch may be cancelled: nothing is fetched after it.
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
            self._fetching = None

    # ── polling ──

    async def poll(self, timeout_s: float) -> list[Record]:
        """The next records of partitions that are not paused, in order of offset within each; empty after `timeout_s`.

        Raises RangeLost, Refused(stream_fenced), HashweirError(stream_stuck) where only a new process helps, and
        Unreachable while the broker does not answer: it is reconnected to meanwhile.
        """
        self._raise_what_is_known()
        if records := self._at.take(self._paused, self._max_records):
            return records
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch(timeout_s))
        # Not awaited itself: during a rebalance `getmany` overstays its timeout, and cancelling one disables aiokafka's
        # poll watchdog for ever. (So does every error that it raises. Nothing here relies on that watchdog.)
        await asyncio.wait([self._fetching], timeout=timeout_s)
        if self._fetching.done():
            task, self._fetching = self._fetching, None
            task.result()
        records = self._at.take(self._paused, self._max_records)
        if not records:
            self._raise_what_is_known()
            if error := self._trouble or self._down:
                self._trouble = None
                raise error
        return records

    def _raise_what_is_known(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        for lost in self._untold:
            # What was fetched before the gap is delivered before it is told.
            if not self._at.holds(_tp(lost.partition)):
                self._untold.remove(lost)
                raise lost

    async def _fetch(self, timeout_s: float) -> None:
        """Fetch once; what comes, or goes wrong, is kept for `poll`."""
        try:
            await self._look_at_paused()
            wanted, wait_s = self._wanted(), timeout_s
            if wanted:
                # A pause for want of room is over in milliseconds; this call could not see its end.
                wait_s = min(timeout_s, 0.02)
            batches = await self._consumer.getmany(*wanted, timeout_ms=int(wait_s * 1000))
        except NoOffsetForPartitionError as error:
            # aiokafka fetches before the assigned callback has run: until that step ends the position is pending.
            if self._ready:
                self._end(f"no position for {error}")
            await asyncio.sleep(min(timeout_s, 0.05))
        except OffsetOutOfRangeError as error:
            await self._out_of_range(error.args[0])
        except Exception as error:  # noqa: BLE001 - the bytes of a log can break its reader in any way
            await self._not_readable(error)
        else:
            # No await between getmany and this line. What comes before the step has ended (hundreds of records, in one
            # start of three) is dropped: the step ends by seeking to where reading begins.
            self._failed = 0
            if self._ready:
                self._keep(batches)

    async def _look_at_paused(self) -> None:
        """Fetch the first record of each paused partition that waits, for its time; it is held until the pause ends."""
        for tp in [tp for tp in self._paused.difference(self._at.lost, self._unseen) if self._at.waits(tp)]:
            try:
                # What aiokafka has fetched ahead: nothing is waited for.
                batches = await self._consumer.getmany(tp, timeout_ms=0, max_records=1)
            except Exception as error:
                # What can't be read is told when its turn comes, and must not disturb the others until then.
                if not isinstance(error, OffsetOutOfRangeError) and not _is_bad_data(error):
                    raise
                self._unseen.add(tp)
                if self._ready and tp in self._at:
                    self._consumer.seek(tp, self._at.next(tp))
            else:
                if self._ready:
                    self._keep(batches)

    def _wanted(self) -> list[TopicPartition]:
        """What to ask for: nothing named asks for all.

        Pausing is done here and not by aiokafka, which throws away what it has fetched ahead when a partition is
        paused, and forgets the pause with each assignment.
        """
        wanted = [tp for tp in self._at if tp not in self._paused and tp not in self._at.lost]
        if len(wanted) == len(self._at):
            return []
        # A partition that does not exist gives nothing, but the call counts as a sign of life.
        return wanted or [TopicPartition(self._topic, -1)]

    def _keep(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        for tp, records in batches.items():
            self._corrupt.pop(tp, None)
            self._at.fetched(tp, [record_of(one) for one in records], self._consumer.highwater(tp))

    async def _out_of_range(self, positions: Mapping[TopicPartition, int]) -> None:
        turn = self._turn
        wanted = [tp for tp in positions if tp in self._at and tp not in self._at.lost]
        try:
            begin, end = await self._bounds(wanted)
        except (KafkaError, TimeoutError):
            return  # the next fetch raises it again
        if turn == self._turn and self._ready:
            for tp in wanted:
                if lost := self._at.gap(tp, begin[tp], end[tp]):
                    self._halt(tp, lost)

    async def _not_readable(self, error: Exception) -> None:
        """Put every position back, find the partition at fault and halt it, or report that the broker is away."""
        # aiokafka drops what it took of other partitions in the same call, and a record that it holds for too large is
        # skipped: both have moved its positions, and neither is told.
        self._rewind()
        self._failed += 1
        if _is_bad_data(error):
            await self._find_corrupt()
        else:
            self._trouble = unreachable(self._access, f"{type(error).__name__} {error}".strip())
            # The coordination task of aiokafka is dead, or dies each time it is revived: the broker answers us, and
            # still nothing works.
            if self._failed >= FAILURES and self._down is None:
                # aiokafka has no class for error 82, the broker's word for a static id that another has taken, and
                # tells it as the text of a general one.
                if self._instance_id and repr(UnknownError()) in str(error):
                    self._fence()
                else:
                    self._end(f"{self._failed} polls failed in a row: {type(error).__name__} {error}")
        await asyncio.sleep(0.1)

    async def _find_corrupt(self) -> None:
        turn = self._turn
        for tp in [tp for tp in self._at if tp not in self._at.lost and tp not in self._paused]:
            # One by one, because a call that meets bad bytes gives nothing of what it has read before them.
            for _ in range(self._max_records):
                try:
                    batches = await self._consumer.getmany(tp, timeout_ms=500, max_records=1)
                except (OffsetOutOfRangeError, NoOffsetForPartitionError):
                    break
                except Exception as error:  # noqa: BLE001 - see above
                    self._rewind()
                    if turn != self._turn or not _is_bad_data(error):
                        return
                    self._corrupt[tp] = self._corrupt.get(tp, 0) + 1
                    if self._corrupt[tp] >= CORRUPT:
                        # Where the bytes can't be read, nobody knows how many records they were: one at least.
                        self._halt(tp, RangeLost((tp.topic, tp.partition), self._at.next(tp), self._at.next(tp) + 1))
                        break
                else:
                    if turn != self._turn or not self._ready:
                        return
                    self._keep(batches)
                    if not batches:
                        break

    def _rewind(self) -> None:
        if self._ready:
            for tp in self._at:
                self._consumer.seek(tp, self._at.next(tp))

    def _halt(self, tp: TopicPartition, lost: RangeLost) -> None:
        """Read nothing more of a partition under this assignment: going on would skip what can't be read."""
        self._at.lost[tp] = lost
        self._untold.append(lost)
        if self._ready:
            self._consumer.pause(tp)

    def _fence(self) -> Refused:
        self._fatal = Refused("stream_fenced", f"another process runs as {self._instance_id!r} in {self._group!r}")
        return self._fatal

    def _end(self, why: str) -> None:
        self._fatal = self._fatal or HashweirError("stream_stuck", f"kafka at {self._access.bootstrap}: {why}")

    # ── pausing ──

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop delivering from these partitions, through re-assignments too, until `resume`."""
        self._paused.update(map(_tp, partitions))

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Deliver again; a partition whose range was lost stays halted."""
        resumed = set(map(_tp, partitions))
        self._paused -= resumed
        self._unseen -= resumed

    # ── committing ──

    async def commit(self, epoch: int, offsets: Mapping[Partition, int]) -> None:
        """Commit next-to-read offsets; one commit at a time.

        Raises AssignmentLost where `epoch` is over; Unreachable where no answer came within `commit_s` (the next one
        commits as much); Refused(stream_fenced) where another process took this identity.
        """
        try:
            # aiokafka repeats a retriable commit without an end.
            await within(self._timing.commit_s, self._commit(epoch, {_tp(one): at for one, at in offsets.items()}))
        except TimeoutError:
            raise unreachable(self._access, f"no answer to a commit within {self._timing.commit_s:g} s") from None

    async def _commit(self, epoch: int, offsets: Mapping[TopicPartition, int]) -> None:
        async with self._commit_lock:
            # aiokafka commits under whatever generation it has by now, so the epoch is looked at after the wait. A
            # commit that still comes too late is harmless: it covers finished work only.
            if epoch != self._open_epoch:
                raise AssignmentLost(f"epoch {epoch} is over")
            if not offsets:
                return
            try:
                await self._consumer.commit(dict(offsets))
            except CommitFailedError as error:
                self._lose(error)
                raise AssignmentLost(f"epoch {epoch} is over: the group goes on without this member") from None
            except IllegalStateError:
                raise AssignmentLost(f"epoch {epoch} is over") from None
            except KafkaError as error:
                raise unreachable(self._access, f"commit: {type(error).__name__}") from None
            self._refused = 0
            self._committed_at = asyncio.get_running_loop().time()

    def _lose(self, error: CommitFailedError) -> None:
        """A refused commit: the membership is gone, and aiokafka tells no listener until it has joined again."""
        self._turn += 1
        self._ready = False
        self._open_epoch = None
        self._at.clear()
        self._untold.clear()
        if not self._instance_id or not isinstance(error.__cause__, UnknownMemberIdError):
            return
        # A member that was late is unknown too, once. Another process under our static id takes it from us when it
        # joins, and we from it when we join again: then a member is unknown that committed a moment ago, or again and
        # again with no commit between. aiokafka names the id only when joining, so the broker fences no commit.
        self._refused += 1
        since_s = asyncio.get_running_loop().time() - self._committed_at
        if since_s < self._timing.session_s / 2 or self._refused >= REFUSALS:
            raise self._fence() from None

    # ── assignment: called by aiokafka, which only logs what is raised ──

    async def revoked(self) -> None:
        """aiokafka's own; eager protocol: every rebalance takes everything away, and heartbeats go on meanwhile."""
        self._turn += 1
        self._ready = False
        await self._tell_revoked()

    async def _tell_revoked(self) -> None:
        self._at.clear()
        self._untold.clear()
        epoch, self._told_epoch = self._told_epoch, None
        try:
            if epoch is not None and self._listener is not None:
                await within(self._timing.rebalance_s, self._told(self._listener, epoch))
        except TimeoutError:
            self._end("the drain of a revoked assignment did not end")
        finally:
            self._open_epoch = None

    async def _told(self, listener: PartitionListener, epoch: int) -> None:
        try:
            await listener.on_revoked(epoch)
        except Exception as error:  # noqa: BLE001 - aiokafka would log it and go on
            self._end(f"on_revoked failed: {type(error).__name__}")

    async def assigned(self, tps: Iterable[TopicPartition]) -> None:
        """aiokafka's own: give every partition its position, or halt it. No heartbeat is sent while this runs."""
        try:
            await within(self._timing.assign_s, self._take_over(sorted(tps)))
        except CommitFailedError as error:
            # Lost again before it began; aiokafka joins again by itself.
            with contextlib.suppress(Refused):
                self._lose(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, there is no position to read from
            self._end(f"the assignment step failed: {type(error).__name__} {error}")

    async def _take_over(self, tps: Sequence[TopicPartition]) -> None:
        begin, end = await self._bounds(tps)
        committed = dict(zip(tps, await asyncio.gather(*map(self._consumer.committed, tps)), strict=True))
        first: dict[TopicPartition, int] = {}
        if new := [tp for tp in tps if committed[tp] is None]:
            latest = self._first_position == "latest" and await self._group_is_new()
            first = {tp: (end if latest else begin)[tp] for tp in new}
            # Committed at once: from now on a cut log shows as a lost range, not as a first start.
            await self._consumer.commit(first)
        self._at.begin(committed | first, end)
        self._unseen.clear()
        for tp in tps:
            if lost := self._at.gap(tp, begin[tp], end[tp]):
                self._halt(tp, lost)
        self._epoch += 1
        self._open_epoch = self._told_epoch = self._epoch
        if self._listener is not None:
            await self._listener.on_assigned(self._epoch, [(tp.topic, tp.partition) for tp in tps])
        # From here to the end no await: what was fetched too early is undone.
        for tp in tps:
            self._consumer.seek(tp, self._at.next(tp))
            if tp in self._at.lost:
                self._consumer.pause(tp)
        self._ready = True

    async def _group_is_new(self) -> bool:
        partitions = [TopicPartition(self._topic, n) for n in self._consumer.partitions_for_topic(self._topic) or ()]
        return all(at is None for at in await asyncio.gather(*map(self._consumer.committed, partitions)))

    async def _bounds(
        self, tps: Sequence[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Beginning and end of each log; the client would ask for them without an end."""
        if not tps:
            return {}, {}
        begin = await within(self._access.answer_s, self._consumer.beginning_offsets(tps))
        return begin, await within(self._access.answer_s, self._consumer.end_offsets(tps))

    # ── watching ──

    def lag(self) -> dict[Partition, int]:
        """Records behind the end per assigned partition, as last seen; those of paused partitions too."""
        return {(tp.topic, tp.partition): self._at.lag(tp) for tp in self._at}

    def waiting_ms(self) -> dict[Partition, int]:
        """Timestamp of the first record that was fetched and not delivered, per assigned partition that has one."""
        return {(tp.topic, tp.partition): at for tp in self._at if (at := self._at.waiting_ms(tp)) is not None}

    async def _watch(self) -> None:
        """Ask the broker for the ends every `watch_s`: the only way to see that it is away, and how far behind we are.

        aiokafka has no public sign of either: without a broker `getmany` is just empty.
        """
        while True:
            await asyncio.sleep(self._timing.watch_s)
            turn, tps = self._turn, list(self._at) if self._ready else []
            try:
                if tps:
                    ends = await within(self._access.answer_s, self._consumer.end_offsets(tps))
                else:
                    ends = {}
                    await within(self._access.answer_s, self._consumer.topics())
            except (KafkaError, TimeoutError) as error:
                if self._down is None:
                    self._down = unreachable(self._access, type(error).__name__)
                    self._log.error("stream.unreachable", address=self._access.bootstrap, error=self._down)
                continue
            if self._down is not None:
                self._down = None
                self._log.warning("stream.reconnected", address=self._access.bootstrap)
            # A rebalance came between, or does and nobody ends it: the next look will tell.
            with contextlib.suppress(KafkaError, TimeoutError):
                await within(self._access.answer_s, self._see(turn, ends))

    async def _see(self, turn: int, ends: Offsets) -> None:
        for tp, end in ends.items():
            # It passes markers of transactions without a word, and then what looks like lag is none.
            position = await self._consumer.position(tp)
            if turn == self._turn and self._ready:
                self._at.seen(tp, end, position)


def _tp(partition: Partition) -> TopicPartition:
    return TopicPartition(*partition)


def _is_bad_data(error: Exception) -> bool:
    """What is no error of Kafka's is one of reading: of a codec, or of text that is no UTF-8."""
    return isinstance(error, BAD_DATA) or not isinstance(error, KafkaError)


class _Callbacks(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka carries no types
    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._source.revoked()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._source.assigned(assigned)
