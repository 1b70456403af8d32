"""Where reading stands in each assigned partition: what was fetched and not handed out, gaps, lag. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException, RecordTooLargeError, UnsupportedCodecError

from hashweir.model import Record
from hashweir.ports import RangeLost

BAD_DATA = (CorruptRecordException, RecordTooLargeError, UnsupportedCodecError)
"""aiokafka's errors about bytes that it can't read: fetched again they raise again, without an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of one group member, in seconds. They depend on each other, see decision 0001."""

    session_s: float = 30.0
    """Without a heartbeat for so long, the partitions go to others."""
    heartbeat_s: float = 3.0
    rebalance_s: float = 30.0
    """How long the group waits for this member's drain; more than the worker's drain and last commit."""
    request_s: float = 40.0
    """More than `rebalance_s`: a join is one request."""
    assign_s: float = 10.0
    """For the assignment step, well below `session_s`: no heartbeat is sent meanwhile."""
    commit_s: float = 5.0
    watch_s: float = 1.0
    metadata_s: float = 15.0
    """How soon added partitions are seen."""
    stop_s: float = 5.0


class Positions:
    """The partitions of one assignment."""

    def __init__(self) -> None:
        self._next: dict[TopicPartition, int] = {}
        self._end: dict[TopicPartition, int] = {}
        self._held: dict[TopicPartition, deque[Record]] = {}
        self._turn = 0
        self.lost: dict[TopicPartition, RangeLost] = {}
        """Partitions of which nothing more is read, and why."""

    def begin(self, positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        """A new assignment, with the first offset to read and the end of each partition."""
        self.clear()
        self._next, self._end = dict(positions), dict(ends)
        self._held = {tp: deque() for tp in positions}

    def clear(self) -> None:
        """No partition is ours."""
        self._next, self._end, self._held, self.lost = {}, {}, {}, {}

    def __iter__(self) -> Iterator[TopicPartition]:
        return iter(tuple(self._next))

    def __len__(self) -> int:
        return len(self._next)

    def __contains__(self, tp: TopicPartition) -> bool:
        return tp in self._next

    def next(self, tp: TopicPartition) -> int:
        """The offset to fetch from."""
        return self._next[tp]

    def holds(self, tp: TopicPartition) -> bool:
        """Whether something of it was fetched and not handed out."""
        return bool(self._held.get(tp))

    def waits(self, tp: TopicPartition) -> bool:
        """Whether it is ours, has records to fetch, and nothing of it is held."""
        return tp in self._next and not self._held[tp] and self._end[tp] > self._next[tp]

    def fetched(self, tp: TopicPartition, records: Sequence[Record], end: int | None) -> None:
        """Note records as they came, and the end of the log as that fetch saw it."""
        if tp in self._next and records:
            self._held[tp].extend(records)
            self._next[tp] = records[-1].offset + 1
            self._end[tp] = max(self._end[tp], end or 0)

    def take(self, paused: Collection[TopicPartition], most: int) -> list[Record]:
        """Hand out at most so many records of what is not paused, beginning with another partition each time."""
        self._turn += 1
        open_now = [tp for tp, held in self._held.items() if held and tp not in paused]
        taken: list[Record] = []
        for step in range(len(open_now)):
            held = self._held[open_now[(self._turn + step) % len(open_now)]]
            share = -(-(most - len(taken)) // (len(open_now) - step))
            taken += [held.popleft() for _ in range(min(share, len(held)))]
        return taken

    def gap(self, tp: TopicPartition, begin: int, end: int) -> RangeLost | None:
        """What is missing where the next offset is outside of the log `begin` to `end`."""
        at = self._next[tp]
        if at < begin:
            return RangeLost((tp.topic, tp.partition), at, begin)
        if at > end:
            # The log ends before what was read already: it was cut at its end, or the topic was made anew.
            return RangeLost((tp.topic, tp.partition), end, at)
        return None

    def seen(self, tp: TopicPartition, end: int, position: int) -> None:
        """Note the end of the log, and the client's own position, which may have passed what is no record."""
        if tp in self._next:
            self._end[tp] = end
            if not self._held[tp]:
                self._next[tp] = max(self._next[tp], position)

    def waiting_ms(self, tp: TopicPartition) -> int | None:
        """Timestamp of the first record that was fetched and not handed out."""
        held = self._held[tp]
        return held[0].timestamp_ms if held else None

    def lag(self, tp: TopicPartition) -> int:
        """Records from the next one to hand out to the end."""
        held = self._held[tp]
        return max(0, self._end[tp] - (held[0].offset if held else self._next[tp]))


def record_of(fetched: Any) -> Record:
    """A record as aiokafka gives it, in our words. A tombstone has no bytes, and so has a header without a value."""
    return Record(
        topic=fetched.topic,
        partition=fetched.partition,
        offset=fetched.offset,
        # A record without a time (-1, or none in the oldest format) counts as from the beginning of time.
        timestamp_ms=max(fetched.timestamp or 0, 0),
        value=fetched.value or b"",
        headers=tuple((name, value or b"") for name, value in fetched.headers),
    )
