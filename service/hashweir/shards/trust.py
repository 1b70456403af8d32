"""How far one shard's copy may be trusted: a state machine over heads and changes, without I/O.

    loading ──────► verifying ──► verified ──► (head ahead) ──► verified at the sequence the head named
       ▲               ▲  │          │
       │               │  │          └─ other replication id or role: verifying, the stream goes on
       └── re-read ◄───┼──┘ gap, sum, epoch, sequence gone back: re-read the chunks that differ, then verifying
                       └──────────────┘

Every state but `verified` is doubtful. A shard is verified when its position, counts and total equal those of one
head: either at the moment that head is read, or later, when the changes up to it have been applied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from hashweir.ports import Head, SlotChange
from hashweir.shards.shard import Shard

Doubt = Literal["loading", "gap", "sum", "epoch", "rewind", "replication", "missing", "damaged"]


class ShardStats(Struct, frozen=True, kw_only=True):
    """One shard for metrics. `verified_at` is on the monotonic clock (seconds), `live_s` the last change-to-live."""

    shard: int
    applied_seq: int
    head_seq: int
    verified_at: float
    as_of_ms: int
    doubt: Doubt | None
    rewound: bool
    kept: int
    live_s: float


class History(NamedTuple):
    """A shard's past, as far as it decides whose word counts. `identity` is role and replication id of a server."""

    rewound: bool
    suspect: bool
    identity: tuple[str, str] | None
    former_epochs: tuple[int, ...]


OnAlarm = Callable[[str, int, str], None]


class Alarms:
    """What an operator has to see to, each told once when it begins. Reasons are codes of `errors.REASONS`."""

    def __init__(self, on_alarm: OnAlarm) -> None:
        """`on_alarm` gets a reason, a shard (-1 for the sets) and a sentence."""
        self.active: dict[tuple[str, int], str] = {}
        self._on_alarm = on_alarm

    def tell(self, reason: str, shard: int, text: str) -> None:
        """Something happened that needs no end."""
        self._on_alarm(reason, shard, text)

    def judge(self, reason: str, shard: int, wrong: bool, text: str) -> None:
        """Something is wrong from now on, or this very thing no longer is."""
        if not wrong:
            if self.active.get((reason, shard)) == text:
                del self.active[reason, shard]
        elif (reason, shard) not in self.active:
            self.active[reason, shard] = text
            self._on_alarm(reason, shard, text)


class Followed:
    """One shard's trust. Times are seconds on the monotonic clock."""

    def __init__(self, shard: Shard) -> None:
        """Nothing is loaded, so all of it is to be read."""
        self.shard = shard
        self.doubt: Doubt | None = "loading"
        self.reread = True
        """Whether chunks have to be compared and read before the stream may go on."""
        self.rewound = False
        """The store lost part of its history, and nobody has ruled on it."""
        self.suspect = False
        """Another server or role answers: its history may be another one."""
        self.loaded = False
        self.verified_at = 0.0
        self.as_of_ms = 0
        self.head_seq = 0
        self.live_s = 0.0
        self.attempts = 0
        self.retry_at = 0.0
        self._identity: tuple[str, str] | None = None
        self._former_epochs: set[int] = set()
        self._ahead: tuple[Head, float] | None = None

    def stats(self) -> ShardStats:
        """For metrics."""
        return ShardStats(
            shard=self.shard.number,
            applied_seq=self.shard.position.seq,
            head_seq=self.head_seq,
            verified_at=self.verified_at,
            as_of_ms=self.as_of_ms,
            doubt=self.doubt,
            rewound=self.rewound,
            kept=len(self.shard.kept),
            live_s=self.live_s,
        )

    def history(self) -> History:
        """What a later process has to know of this shard's past."""
        return History(self.rewound, self.suspect, self._identity, tuple(self._former_epochs))

    def resume(self, history: History) -> None:
        """Begin with a copy that a former process had: doubtful, until the stream and a head say what it is worth."""
        self.rewound, self.suspect, self._identity, former = history
        self._former_epochs = set(former)
        self.loaded, self.reread = True, False

    @property
    def behind(self) -> bool:
        """Whether a head named a sequence that the stream has not given yet."""
        return self._ahead is not None and not self.reread

    def distrust(self, why: Doubt) -> None:
        """Begin to doubt, with a re-read. The first reason of a doubt is kept, for it says most."""
        if self.doubt in (None, "replication"):
            self.doubt = why
        self.reread = True
        self._ahead = None

    def take(self, changes: Sequence[SlotChange]) -> int:
        """Apply the first of these changes of this shard; how many. Raises Gap where it does not fit.

        Not beyond the place that a head named, for there it is judged.
        """
        most = len(changes)
        if self._ahead is not None:
            most = max(1, self._ahead[0].position.seq - self.shard.position.seq)
        taken = self.shard.extend(changes[:most])
        if not taken:
            self.shard.apply(changes[0])
            taken = 1
        if self._ahead is not None and changes[taken - 1].position == self._ahead[0].position:
            head, asked_at = self._ahead
            self._ahead = None
            self._equal(head, asked_at)
        return taken

    def compare(self, head: Head, asked_at: float) -> None:
        """Judge by a head that was asked for at `asked_at`."""
        self.head_seq = head.position.seq
        if self.reread:
            return
        mine = self.shard.position
        if head.position.epoch != mine.epoch:
            self.distrust("epoch")
            return
        if head.position.seq < mine.seq:
            self.rewound = True
            self.distrust("rewind")
            return
        if self._identity not in (None, (head.role, head.replication_id)):
            self.suspect = True
            self.doubt = self.doubt or "replication"
            self._ahead = None  # a promise of the other server
        if head.position.seq == mine.seq:
            self._equal(head, asked_at)
        elif self._ahead is None:
            self._ahead = head, asked_at

    def _equal(self, head: Head, asked_at: float) -> None:
        """At the head's own sequence: verified, or not what the store has."""
        if self.shard.agrees(head):
            self.doubt = None
            self.suspect = False
            self.attempts = 0
            self._identity = head.role, head.replication_id
            self.verified_at, self.as_of_ms = asked_at, head.time_ms
            return
        if self.suspect and self.loaded and self.doubt == "replication":
            # Every change from here to there fitted, and yet the outcome differs: another history.
            self.rewound = True
        self.distrust("sum")

    def judge_before_reread(self, head: Head) -> Literal["first", "same", "suspect", "accepted"]:
        """What a re-read at this head is: whose word counts where the store and what was seen disagree.

        first: nothing is loaded. same: the same history, the store is right about everything. suspect: its history
        may have gone back, so withdrawals seen are kept. accepted: a new epoch, somebody ruled that the store is
        right. An epoch that was left before is no new one: the store went back behind a ruling.
        """
        mine = self.shard.position
        if not self.loaded:
            return "first"
        if head.position.epoch != mine.epoch:
            returned = head.position.epoch in self._former_epochs
            self._former_epochs.add(mine.epoch)
            self._former_epochs.discard(head.position.epoch)
            if not returned:
                self.suspect = self.rewound = False
                return "accepted"
            self.rewound = self.suspect = True
        elif head.position.seq < mine.seq:
            self.rewound = self.suspect = True
        elif self._identity not in (None, (head.role, head.replication_id)):
            self.suspect = True
        return "suspect" if self.suspect or self.rewound else "same"

    def was_reread(self, now: float) -> None:
        """The chunks are in; the stream and the next head decide. Further attempts wait, up to 2 s."""
        self.loaded, self.reread, self._ahead = True, False, None
        self.attempts += 1
        self.retry_at = now + min(0.05 * 2**self.attempts, 2.0)
