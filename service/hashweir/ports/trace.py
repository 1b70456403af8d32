"""Traces: one span per upload."""

from __future__ import annotations

from typing import Protocol

from hashweir.model import Judged, Record


class Trace(Protocol):
    """The span of one upload, from its record's arrival to the ack of its verdict."""

    record: Record
    """The upload's record with this span in its `traceparent`, so that what it leads to names it as parent."""

    def judged(self, judged: Judged) -> None:
        """There is a verdict, of this moment."""

    def end(self, *, acked: bool) -> None:
        """Nothing more comes: all that was to be sent is acked, or the upload is not done and comes again."""


class Tracer(Protocol):
    """Where spans go. One implementation, over any span processor: tests give it one that keeps spans in memory."""

    def begin(self, record: Record) -> Trace:
        """The span of an upload, below the one that its `traceparent` names where that is well-formed. Never waits."""

    def stop(self) -> None:
        """Send what is left, for at most a few seconds. Blocks."""
