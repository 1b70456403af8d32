"""The store: the source of truth for sets, in shards with a change stream each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from hashweir.model import Batch, Entry, Kind, Set


class Position(Struct, frozen=True, order=True, gc=False):
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


class SlotChange(Struct, frozen=True, kw_only=True, gc=False):
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

        Of the bytes that `read_chunk` would give, both of a chunk at one instant. Chunks beyond the last one are left
        out.
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
