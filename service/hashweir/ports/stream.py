"""Streams: uploads come in, messages go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hashweir.errors import HashweirError
from hashweir.model import Message, Record

Partition = tuple[str, int]


class PartitionListener(Protocol):
    """Told of every change of assignment, on the source's own task. Epochs grow by one per assignment."""

    async def on_assigned(self, epoch: int, partitions: Sequence[Partition]) -> None:
        """These partitions are ours from now on, under this epoch. Nothing was delivered of them yet."""

    async def on_revoked(self, epoch: int) -> None:
        """All partitions of this epoch go away: drain within your own bound, commit, return."""


class AssignmentLost(Exception):
    """A commit came too late: the assignment under which it was taken is gone. Not an error, a fact."""


class RangeLost(HashweirError):
    """Records were deleted before they were read: offsets from `first` up to, not including, `after_last`."""

    def __init__(self, partition: Partition, first: int, after_last: int) -> None:
        super().__init__("stream_lost_range", f"{partition[0]}-{partition[1]}: offsets {first} to {after_last - 1}")
        self.partition = partition
        self.first = first
        self.after_last = after_last


class Source(Protocol):
    """Uploads from a stream, under manual commit."""

    async def start(self, listener: PartitionListener) -> None:
        """Join. Raises Unreachable after a bounded wait, naming the address."""

    async def poll(self, timeout_s: float) -> list[Record]:
        """The next records of partitions that are not paused. Never cancel this; it returns in time.

        A record of an assignment that has ended is never returned. Raises RangeLost once per assignment for each
        partition whose next record is gone, and delivers nothing more of it; Refused(stream_fenced) where another
        worker took this identity; Unreachable while the broker is known not to answer (poll again later).
        """

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop delivering from these partitions; survives re-assignment until `resume`."""

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Deliver again. Unassigned partitions are ignored."""

    async def commit(self, epoch: int, offsets: Mapping[Partition, int]) -> None:
        """Commit next-to-read offsets. Raises AssignmentLost where `epoch` is over; Unreachable on time-out."""

    def lag(self) -> dict[Partition, int]:
        """Records behind the end per assigned partition, as last seen."""

    def waiting_ms(self) -> dict[Partition, int]:
        """Timestamp of the first record that is not delivered yet, per assigned partition, as far as it is known."""

    async def stop(self) -> None:
        """Leave within a bounded time. Calls `on_revoked` where partitions are still held."""


class Sink(Protocol):
    """Outgoing records."""

    async def start(self) -> None:
        """Connect. Raises Unreachable after a bounded wait, naming the address."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker acked every message.

        Raises Unreachable where an ack is missing at the time limit: the outcome is unknown, publish again.
        """

    async def stop(self) -> None:
        """Flush and close within a bounded time."""
