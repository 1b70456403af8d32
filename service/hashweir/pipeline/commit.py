"""What is done becomes committed: one commit at a time, under the epoch it was taken in, never past the undone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hashweir.errors import HashweirError, Unreachable
from hashweir.logs import Logger
from hashweir.metrics import Metrics
from hashweir.pipeline.offsets import Tracker
from hashweir.pipeline.retry import Brake
from hashweir.ports import AssignmentLost, Clock, Partition, Source


@dataclass(slots=True, eq=False)
class Lane:
    """One partition under one assignment."""

    partition: Partition
    tracker: Tracker
    brake: Brake
    committed: int | None = None
    paused: bool | None = None
    lost: bool = False
    ending: bool = False
    quiet_s: float = 0.0
    """Seconds since the last record, while not paused."""
    last_stamp_ms: int = 0
    """Timestamp of the last record taken."""
    behind_since_ms: int = 0
    """Since when there is lag, as the ticks saw it, of this assignment or the one before; 0: there is none."""

    def ours(self) -> bool:
        """Whether the assignment still holds."""
        return not self.tracker.ended

    def let_go(self) -> None:
        """The assignment is over: nothing more is taken or committed."""
        self.ending = True
        self.tracker.drop()

    def oldest_unfinished_ms(self, behind: int, now_ms: int, waiting_ms: int) -> int:
        """Timestamp of the oldest record that is not done, with `behind` not yet taken; 0 where all are.

        Of the first that is not taken it is `waiting_ms`. Where that is 0, it is not known, only what it is later than:
        the last one taken, and the moment when nothing was left.
        """
        self.behind_since_ms = (self.behind_since_ms or now_ms) if behind else 0
        taken = self.tracker.oldest_stamp_ms
        if taken is None and behind:
            return waiting_ms or max(self.last_stamp_ms, self.behind_since_ms)
        return taken or 0

    def to_commit(self) -> int | None:
        """The position that is done and not yet committed; None where there is none."""
        offset = self.tracker.committable
        return None if offset == self.committed else offset


class Committer:
    """Commits of one worker. The source bounds each one's time; nothing here ever cancels one."""

    def __init__(self, source: Source, clock: Clock, metrics: Metrics, log: Logger) -> None:
        self._source, self._clock, self._metrics, self._log = source, clock, metrics, log
        self._under_way: asyncio.Task[None] | None = None
        self.fatal: HashweirError | None = None
        """Why no commit can succeed any more: the process has to end."""

    def start(self, epoch: int, lanes: Sequence[Lane]) -> asyncio.Task[None]:
        """Begin a commit of what is done; where one is under way already, that one is given back."""
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._commit(epoch, lanes))
        return self._under_way

    async def rest(self, epoch: int, lanes: Sequence[Lane], timeout_s: float) -> bool:
        """Commit all that is done, trying for at most `timeout_s` seconds; whether nothing is left."""
        until = self._clock.monotonic() + timeout_s
        while True:
            left_s = max(0.0, until - self._clock.monotonic())
            await asyncio.wait([self.start(epoch, lanes)], timeout=left_s)
            # That one may have been begun before the last upload ended, or have failed: look what is left.
            if all(lane.to_commit() is None for lane in lanes):
                return True
            if left_s < 0.01:
                return False
            await asyncio.sleep(min(0.1, left_s))

    async def _commit(self, epoch: int, lanes: Sequence[Lane]) -> None:
        offsets = {lane: offset for lane in lanes if (offset := lane.to_commit()) is not None}
        if not offsets:
            return
        try:
            await self._source.commit(epoch, {lane.partition: offset for lane, offset in offsets.items()})
        except AssignmentLost:
            self._metrics.commit_failures.inc()
            for lane in lanes:
                lane.let_go()
        except HashweirError as error:
            self._metrics.commit_failures.inc()
            self._log.warning("stream.commit_failed", epoch=epoch, reason=error.reason, error=error)
            if not isinstance(error, Unreachable):
                self.fatal = error
        else:
            for lane, offset in offsets.items():
                lane.committed = offset
