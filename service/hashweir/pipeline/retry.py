"""What to do after a failure: again, a dead letter, or stop. Pure: time is handed in, nothing waits here.

Three brakes of growing reach: one upload is tried again within a budget; a dependency that fails opens its
breaker and pauses everything; a partition whose uploads fail too often stops before its topic is drained into
dead letters by a bad deploy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hashweir.errors import REASONS

MIN_ATTEMPTS_OF_A_FAULT = 2
"""An unexpected error is seen twice before it is believed: the first may have been a neighbour's doing."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again in `delay_s` seconds, in place: the upload stays in flight."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Give it up: an `unscanned` verdict with this reason, and a dead letter where the table says so."""

    reason: str


@dataclass(frozen=True, slots=True)
class StopPartition:
    """Not even a verdict could be made: deliver nothing more of this partition, commit nothing past it."""

    reason: str


Decision = Again | DeadLetter | StopPartition


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits of `first_s`, doubled up to `most_s`, as long as `budget_s` seconds since the first try allow."""

    budget_s: float = 60.0
    first_s: float = 0.1
    most_s: float = 5.0

    def delay(self, attempt: int, jitter: float = 1.0) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1); `jitter` 0-1 spreads the upper half."""
        whole = min(self.first_s * 2.0 ** min(attempt - 1, 30), self.most_s)
        return whole * (0.5 + 0.5 * jitter)

    def decide(
        self, reason: str, attempt: int, elapsed_s: float, *, refusing: bool = False, jitter: float = 1.0
    ) -> Decision:
        """What follows failed attempt number `attempt` (from 1), `elapsed_s` seconds after the first began.

        An `input` reason is final: the same bytes fail again. Store and stream are tried for ever, because the
        upload is not to blame; their breakers pause the partitions meanwhile. A fault of fetching is tried until
        the budget is spent, any other fault twice. `refusing`: what failed was making the verdict that gives up.
        """
        row = REASONS[reason]
        again = Again(self.delay(attempt, jitter))
        if row.klass == "fault" and row.stage in ("store", "stream"):
            return again
        in_budget = elapsed_s + again.delay_s <= self.budget_s
        if refusing:
            return again if in_budget else StopPartition(reason)
        if row.klass == "input":
            return DeadLetter(reason)
        worth_it = in_budget if row.stage == "fetch" else attempt < MIN_ATTEMPTS_OF_A_FAULT
        return again if worth_it else DeadLetter(reason)


class Brake:
    """Stops a partition that fails too often; it stays stopped until the process starts anew.

    Two rules over the uploads of one partition, in the order of their endings: more than `most_faults` *faults*
    among the last `window` (ordinary garbage never trips this, however much of it there is), or `most_in_a_row`
    faults or dead letters with no good upload between them (where nothing at all can be read any more, the
    decoder broke, not the world).
    """

    def __init__(self, *, window: int = 1_000, most_faults: int = 50, most_in_a_row: int = 200) -> None:
        self._recent: deque[bool] = deque(maxlen=window)
        self._most_faults = most_faults
        self._most_in_a_row = most_in_a_row
        self.faults = 0
        """Faults among the last `window` uploads."""
        self.in_a_row = 0
        """Uploads since the last good one."""
        self.stopped = False

    def note(self, *, fault: bool, dead_letter: bool) -> bool:
        """Count one ended upload; say whether the partition is to stop."""
        if len(self._recent) == self._recent.maxlen:
            self.faults -= self._recent[0]
        self._recent.append(fault)
        self.faults += fault
        self.in_a_row = self.in_a_row + 1 if fault or dead_letter else 0
        if self.faults > self._most_faults or self.in_a_row >= self._most_in_a_row:
            self.stopped = True
        return self.stopped

    def stop(self) -> None:
        """Stop it for a reason of the caller's."""
        self.stopped = True


class Breaker:
    """One dependency's state. Open means: start nothing that needs it.

    One failure opens it: the client below has waited out its own limit by then. It lets work through again after
    a pause that doubles with each further failure, so that it can't stay open where nobody is left to try.
    """

    def __init__(self, *, first_s: float = 1.0, most_s: float = 30.0) -> None:
        self._policy = RetryPolicy(first_s=first_s, most_s=most_s)
        self._until = 0.0
        self.failures = 0
        """Failures since the last success."""

    def failed(self, now: float) -> None:
        """It did not answer, at `now` (monotonic seconds)."""
        # Many uploads fail together: what happens while it is open is one failure.
        if not self.is_open(now):
            self.failures += 1
            self._until = now + self._policy.delay(self.failures)

    def succeeded(self) -> None:
        """It answered."""
        self.failures = 0
        self._until = 0.0

    def is_open(self, now: float) -> bool:
        """Whether to hold everything back at `now`."""
        return now < self._until
