"""Every seam, on one page. Each has at least two implementations that pass the same contract suite.

Real ones live in `adapters/` (Kafka, Redis, scan processes) and `shards/` (Known); the twins in `adapters/memory`.
Long because the seams are meant to be read together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hashweir.errors import HashweirError
from hashweir.model import Batch, Entry, Form, FormGroup, Judged, Kind, Message, Record, Scan, Set, Upload

# ── time ──


class Clock(Protocol):
    """Time, settable in tests. Fences and ages use `monotonic` only."""

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds since 1970."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""


# ── hashing ──


class Hasher(Protocol):
    """One hash kind's text and byte form. A new kind is one of these and one line in `hashing.HASHERS`."""

    kind: Kind
    width: int
    """Bytes of a value: 32 for pdq, sha256, text; 35 for tlsh; 16 for md5."""

    def parse(self, text: str) -> bytes:
        """Bytes of a hash text, any accepted spelling. Raises InputError(bad_value)."""

    def show(self, value: bytes) -> str:
        """The canonical text form of `width` bytes."""

    def distance(self, a: bytes, b: bytes) -> int:
        """The kind's distance of two values; the oracle of every index over it."""


# ── index and the known ──


class Hits(NamedTuple):
    """What a search of an index found: three arrays of one length, int64, ordered by query, then row."""

    query: NDArray[np.int64]
    row: NDArray[np.int64]
    distance: NDArray[np.int64]

    def tuples(self) -> list[tuple[int, int, int]]:
        """The same as (query, row, distance)."""
        return list(zip(self.query.tolist(), self.row.tolist(), self.distance.tolist(), strict=True))


class Index(Protocol):
    """Search over the values of one kind and form. Rows are numbered from 0 in order of adding, never reused."""

    def add(self, values: bytes) -> int:
        """Append one or more values (concatenated); return the first new row."""

    def withdraw(self, row: int) -> None:
        """Hide a row for ever. Withdrawing twice is allowed."""

    def search(self, queries: bytes, radius: int) -> Hits:
        """All rows within the radius of each query (concatenated values), withdrawn rows excepted. Exact."""

    def values(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The values of rows, withdrawn ones included: (n, width). Raises IndexError for a row never added."""

    def tend(self) -> bool:
        """One bounded piece of upkeep, in one thread beside serving; whether more of it is due."""

    def __len__(self) -> int:
        """Rows that a search can return."""


class Found(Struct, frozen=True, kw_only=True):
    """One neighbour: the number of the query, the entry and the distance."""

    query: int
    entry: Entry
    distance: int


Accept = Callable[[int, Entry, int], bool]
Standing = Literal["empty", "verified", "degraded", "stale", "doubtful"]
"""empty: nothing loaded yet. verified: the head was asked lately and agrees. degraded: last verified longer ago
than the soft limit, or the store was rewound: no action above `review`. stale: beyond the hard limit, and
doubtful: gap, sum mismatch, epoch change or rewind not yet verified: no verdict at all."""


class View(Protocol):
    """One consistent state of everything known. Immutable: take one per upload and use only it."""

    position: str
    """Digest of the sorted (shard, epoch, sequence), the policy sequence and whether actions are capped."""
    as_of_ms: int
    """Server time of the oldest verified head in use."""
    standing: Standing
    sets: Mapping[str, Set]
    missing: str
    """The shards that are not followed, as `4-15/16`; empty where all are. What is not found may stand there."""

    def holds(self, set_name: str) -> frozenset[Kind]:
        """The kinds of which this set has at least one active entry."""

    def search(
        self, kind: Kind, form: Form, values: Sequence[bytes], radius: int, accept: Accept | None = None
    ) -> list[Found]:
        """Nearest entry per (item, set) over all values within radius, exact, ordered by distance then entry id.

        A `form` is compared with entries of the same form only. Only active entries are found. What `accept`
        (query number, entry, distance) refuses is passed over *before* the nearest is chosen, so that it can't
        hide a farther entry of the same item that would count.
        """

    def count_entries(self, kind: Kind, form: Form, items: Sequence[str]) -> list[int]:
        """How many active entries of this kind and form each item (16 hex) has. An item belongs to one set."""

    def batch(self, batch_id: str) -> Batch | None:
        """The provenance record of an entry's batch."""


class Known(Protocol):
    """All that is known, kept live. `view` is cheap: one attribute read."""

    def view(self) -> View:
        """The current state."""


# ── store: the source of truth for sets ──


class Position(Struct, frozen=True, order=True):
    """A place in a shard's (or the sets') change stream: `epoch` is random, `seq` dense from 1."""

    epoch: int
    seq: int


class Head(Struct, frozen=True, kw_only=True):
    """What a shard (or the sets' stream) says of itself, and who answered."""

    layout: int
    position: Position
    counts: dict[Kind, int]
    """Slots in use per kind, withdrawn ones included."""
    total: int
    """Sum of all chunk sums mod 2^52."""
    time_ms: int
    """Server time when the head was read."""
    role: str
    replication_id: str


class Edit(Struct, frozen=True, kw_only=True):
    """One change of an operation's part: an entry to add, or one to withdraw (its identity suffices)."""

    verb: Literal["add", "withdraw"]
    entry: Entry
    set_number: int


class Part(Struct, frozen=True, kw_only=True):
    """The changes of one operation (1-256) that fall into one shard. Applied whole, once, or not at all."""

    operation: str
    shard: int
    principal: str
    edits: tuple[Edit, ...]


class PackedPart(Struct, frozen=True, kw_only=True):
    """A part as the bytes that are stored: what a bulk import sends, for it costs least.

    `verbs` has 2 bytes per edit: A or W, and the kind's number from 1. `slots` has 64 per edit, of which a withdrawal
    needs the entry id alone, and `sides` 40. `names` are the item names that outgrow a side record, by number of the
    edit from 0.
    """

    operation: str
    shard: int
    principal: str
    verbs: bytes
    slots: bytes
    sides: bytes
    names: tuple[tuple[int, str], ...] = ()


EditResult = Literal["added", "reactivated", "withdrawn", "unchanged", "not_found"]


class Applied(Struct, frozen=True, kw_only=True):
    """The answer to a part: one result per edit, in order, and the sequence after it. A repeat answers the same."""

    results: tuple[EditResult, ...]
    position: Position
    repeated: bool


class SlotChange(Struct, frozen=True, kw_only=True):
    """One record of a shard's change stream: the slot as it is after the change (64 bytes) and its side record."""

    shard: int
    position: Position
    kind: Kind
    slot: int
    image: bytes
    side: bytes
    at_ms: int


class Chunk(Struct, frozen=True, kw_only=True):
    """A fixed run of slots and their side records, cut to the slots in use, all read at one instant."""

    slots: bytes
    sides: bytes
    sum: int
    """The chunk's sum as the store keeps it: it differs from one computed over the bytes only after damage."""
    position: Position
    """The shard's position at that instant: changes up to it are in, so tailing may begin there."""


class SetsState(Struct, frozen=True, kw_only=True):
    """All sets and their policies at one position. Small: read whole."""

    position: Position
    sets: tuple[Set, ...]
    time_ms: int


class Store(Protocol):
    """Shards of entries and the sets' own small stream.

    Every method raises Unreachable(store_unreachable) when the server does not answer within the bounded wait,
    Refused(store_not_created | store_layout | store_refused) where it answers no.
    """

    shards: int
    """Number of shards, known after `open`."""

    async def open(self) -> None:
        """Connect and read the deployment's layout."""

    async def create(self, shards: int) -> bool:
        """Make an empty deployment and load the function library; False where one exists (library refreshed)."""

    async def apply(self, part: Part) -> Applied:
        """Apply a part atomically and idempotently by (operation, shard).

        Raises OutcomeUnknown where fewer replicas than configured confirmed it.
        """

    async def apply_packed(self, part: PackedPart) -> Applied:
        """The same with bytes. Lengths, kinds and states are checked; that ids and shard fit the values is not."""

    async def new_epoch(self, shard: int | None) -> Position:
        """End the history of a shard (None: of the sets) and begin another one with what is there.

        Followers then take the store's word for everything. Raises Refused(store_changed) where somebody else did the
        same at once.
        """

    async def mend_chunk(
        self, shard: int, kind: Kind, number: int, seen: Chunk, right: tuple[bytes, bytes] | None
    ) -> Position:
        """Write slots and side records that give the chunk's sum in place of the damaged ones that were seen.

        With None what is there is accepted: told as changes of all its slots, and the sum made anew. Raises
        Refused(store_changed) where the chunk is no longer as it was seen, InputError or Refused(bad_field) for bytes
        that do not give the sum.
        """

    async def put_set(self, operation: str, changed: Set, expected_version: int) -> Set:
        """Create (expected_version 0) or replace a set; gives number and new version. Idempotent by operation.

        Raises Refused(set_exists | set_not_found | set_changed).
        """

    async def put_batch(self, batch_id: str, batch: Batch) -> None:
        """Store a provenance record; a repeat is harmless."""

    async def read_batches(self, batch_ids: Sequence[str]) -> dict[str, Batch]:
        """The provenance records that exist."""

    async def head(self, shard: int) -> Head:
        """A shard's head."""

    async def heads(self) -> list[Head]:
        """The heads of all shards, by shard number, in one round trip; all carry one server time, taken first."""

    async def sums(self, shard: int, kind: Kind) -> list[int]:
        """One sum per chunk of this kind, as the store keeps them."""

    async def read_chunk(self, shard: int, kind: Kind, number: int) -> Chunk:
        """One chunk, cut to the slots in use."""

    async def digests(self, shard: int, kind: Kind, first: int, count: int) -> list[bytes]:
        """For each of `count` chunks from `first` on: SHA-1 of its slots and SHA-1 of its side records (40 bytes).

        Computed by the server over the bytes that `read_chunk` would give, all at one instant. Chunks beyond the last
        one are left out.
        """

    async def read_changes(self, after: Mapping[int, Position], wait_ms: int, most: int) -> list[SlotChange]:
        """Changes of several shards (shard to position), up to `most` of each, in order within a shard.

        Waits up to `wait_ms` for the first one of any shard; 0 does not wait. The stream is short: what was
        trimmed away is skipped in silence, so the caller must see that each shard's sequence is dense.
        """

    async def find(self, shard: int, entry_ids: Sequence[str]) -> dict[str, tuple[Kind, int]]:
        """Where these entries stand: kind and slot. Unknown ids are left out."""

    async def read_names(self, shard: int, items: Sequence[str]) -> dict[str, str]:
        """Item names too long for a side record, by item id; those that are not kept here are left out."""

    async def read_sets(self) -> SetsState:
        """All sets."""

    async def wait_sets(self, after: Position, wait_ms: int) -> bool:
        """Wait until the sets' position differs from `after`; False when the time ran out."""

    async def close(self) -> None:
        """Close all connections. Never raises."""


# ── streams ──

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


# ── content ──


class MediaSource(Protocol):
    """Content by reference."""

    async def fetch(self, uri: str) -> bytes:
        """The content. Raises InputError with a reason."""


class Load(NamedTuple):
    """How busy a sandbox is: processes that are ready, those with an upload, uploads that wait, bytes of memory."""

    processes: int = 0
    busy: int = 0
    waiting: int = 0
    resident_bytes: int = 0


class Sandbox(Protocol):
    """Decoding and hashing of untrusted bytes, away from credentials."""

    async def start(self) -> None:
        """Start the scan processes and wait until each answers."""

    async def scan(self, upload: Upload, forms: tuple[FormGroup, ...] = ()) -> Scan:
        """Scan one upload's content, and compute these forms of a picture too. Waits for a free process.

        Always answers: deaths and deadlines are reasons.
        """

    def load(self) -> Load:
        """How busy it is now. Cheap."""

    async def stop(self) -> None:
        """End all scan processes, by id, within a bounded time."""


# ── traces ──


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
