"""What may be committed: uploads are taken in received order, done in any order, committed without a gap.

Pure: no clock, no Kafka. One `Tracker` lives as long as one partition stays assigned; one `Budget` bounds the
whole process. Both are for one thread (the event loop's).
"""

from collections import deque
from dataclasses import dataclass

MAX_SPAN_ITEMS = 2_048
MAX_SPAN_BYTES = 64 * 1024 * 1024


class TrackerError(Exception):
    """The tracker was told something that can't be true; the caller has a fault."""


class OffsetRepeated(TrackerError):
    """An offset was taken that is not above all those taken before it."""


class OffsetNotInFlight(TrackerError):
    """An offset was done that was never taken, or done before."""


class EpochEnded(TrackerError):
    """An upload was taken after the assignment that it belongs to had ended."""


@dataclass(slots=True)
class _Taken:
    offset: int
    size: int
    since: float
    stamp_ms: int
    done: bool = False


class Tracker:
    """The uploads of one partition during one assignment epoch, from taken to done.

    *In flight* counts what is not done. The *span* counts all that was taken and can't be committed yet, done
    or not: it is what a crash now would repeat, so it is the span that is capped. Every operation costs O(1),
    amortised. Offsets may have holes (compaction, transaction markers); only the received order counts.
    """

    def __init__(self, epoch: int, *, max_items: int = MAX_SPAN_ITEMS, max_bytes: int = MAX_SPAN_BYTES) -> None:
        """`epoch` names the assignment; the caps are uploads and bytes from head to watermark."""
        self.epoch = epoch
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._span: deque[_Taken] = deque()
        self._in_flight: dict[int, _Taken] = {}
        self._in_flight_bytes = 0
        self._span_bytes = 0
        self._last_taken = -1
        self._committable: int | None = None
        self._ended = False

    def take(self, offset: int, size: int, now: float, stamp_ms: int = 0) -> None:
        """Note an upload of `size` bytes received at `now` (seconds of any monotonic clock).

        `stamp_ms` is the record's own time, which only `oldest_stamp_ms` gives back.

        A full tracker still takes: what the client has already handed over must not be lost.
        Raises OffsetRepeated, and EpochEnded after `drop()`; neither changes anything.
        """
        if self._ended:
            raise EpochEnded(f"offset {offset} was taken in epoch {self.epoch}, which has ended")
        if offset <= self._last_taken:
            raise OffsetRepeated(f"offset {offset} was taken after offset {self._last_taken}")
        taken = _Taken(offset, size, now, stamp_ms)
        self._span.append(taken)
        self._in_flight[offset] = taken
        self._last_taken = offset
        self._in_flight_bytes += size
        self._span_bytes += size

    def done(self, offset: int) -> None:
        """Note that all outputs of an upload are acknowledged. Without effect after `drop()`.

        Raises OffsetNotInFlight, which changes nothing.
        """
        if self._ended:
            return
        taken = self._in_flight.pop(offset, None)
        if taken is None:
            raise OffsetNotInFlight(f"offset {offset} is not in flight")
        taken.done = True
        self._in_flight_bytes -= taken.size
        while self._span and self._span[0].done:
            head = self._span.popleft()
            self._span_bytes -= head.size
            self._committable = head.offset + 1

    def drop(self) -> None:
        """End the epoch: nothing is in flight or may be committed, and late completions count for nothing.

        The work itself may still run; its outputs are harmless repeats, and it gives back its own `Budget`.
        """
        self._ended = True
        self._span.clear()
        self._in_flight.clear()
        self._in_flight_bytes = self._span_bytes = 0
        self._committable = None

    @property
    def committable(self) -> int | None:
        """The position to commit: one past the last upload done with all before it; None if there is none."""
        return self._committable

    @property
    def ended(self) -> bool:
        """Whether the epoch was dropped."""
        return self._ended

    @property
    def items(self) -> int:
        """Uploads in flight."""
        return len(self._in_flight)

    @property
    def bytes(self) -> int:
        """Bytes of the uploads in flight."""
        return self._in_flight_bytes

    @property
    def span_items(self) -> int:
        """Uploads from the watermark to the head, done or not."""
        return len(self._span)

    @property
    def span_bytes(self) -> int:
        """Bytes from the watermark to the head."""
        return self._span_bytes

    @property
    def full(self) -> bool:
        """Whether the span has reached a cap: the partition pauses until its oldest upload is done."""
        return len(self._span) >= self._max_items or self._span_bytes >= self._max_bytes

    def oldest_age(self, now: float) -> float:
        """Seconds that the oldest upload in flight has waited at `now`; 0 if there is none."""
        return now - self._span[0].since if self._span else 0.0

    @property
    def oldest_stamp_ms(self) -> int | None:
        """The record's time of the oldest upload in flight; None if there is none."""
        return self._span[0].stamp_ms if self._span else None


class Budget:
    """What one process holds at once, in items and bytes, with hysteresis so that it does not flap.

    `paused` turns on when either reaches `pause_at` of its cap and off when both are down to `resume_at`. It
    is a brake, not a wall: what a poll has already fetched is still taken, so one poll can pass a cap.
    """

    def __init__(self, max_items: int, max_bytes: int, *, pause_at: float = 0.8, resume_at: float = 0.5) -> None:
        """Raises ValueError unless both caps are positive and 0 <= resume_at < pause_at <= 1."""
        if max_items <= 0 or max_bytes <= 0 or not 0 <= resume_at < pause_at <= 1:
            raise ValueError("a budget needs positive caps and 0 <= resume_at < pause_at <= 1")
        self._max = (max_items, max_bytes)
        self._pause_at = pause_at
        self._resume_at = resume_at
        self.items = 0
        self.bytes = 0
        self.paused = False

    def add(self, size: int) -> None:
        """One item of `size` bytes is held from now on."""
        self._change(1, size)

    def release(self, size: int) -> None:
        """One item of `size` bytes is held no longer. Raises ValueError when that is more than was added."""
        if self.items < 1 or self.bytes < size:
            raise ValueError("a budget was given back more than it had lent")
        self._change(-1, -size)

    @property
    def room(self) -> int:
        """Items that may still be added before the cap (not before the pause); never negative."""
        return max(0, self._max[0] - self.items)

    def _change(self, items: int, size: int) -> None:
        self.items += items
        self.bytes += size
        fill = max(self.items / self._max[0], self.bytes / self._max[1])
        if fill >= self._pause_at:
            self.paused = True
        elif fill <= self._resume_at:
            self.paused = False
