"""From a hash to what is known of it: hash kinds, indexes and views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hashweir.model import Batch, Entry, Form, Kind, Set


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

    def withdraw(self, rows: int | NDArray[np.int64]) -> None:
        """Hide one row or several for ever. Withdrawing twice is allowed."""

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


class Query(NamedTuple):
    """One value to look for, among those of several uploads: how far from it, and the number of its upload."""

    value: bytes
    radius: int
    upload: int


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

    def search_many(self, kind: Kind, form: Form, queries: Sequence[Query], accept: Accept) -> list[Found]:
        """The same for several uploads at once, each value within its own radius: nearest per (upload, item, set)."""

    def count_entries(self, kind: Kind, form: Form, items: Sequence[str]) -> list[int]:
        """How many active entries of this kind and form each item (16 hex) has. An item belongs to one set."""

    def batch(self, batch_id: str) -> Batch | None:
        """The provenance record of an entry's batch."""


class Known(Protocol):
    """All that is known, kept live. `view` is cheap: one attribute read."""

    def view(self) -> View:
        """The current state."""
