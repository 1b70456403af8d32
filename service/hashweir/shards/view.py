"""The reader's side of what is known: an immutable view over tables that only grow.

Nothing is copied per view. A table's rows are numbered in order of adding, so a view is a row count per table and a
version: a row counts for a view when it is below that count and was not withdrawn at or before that version. So a
view gives the same answers for as long as it is held, whatever is applied meanwhile.

How a row of another thread's view stays readable while its slot is overwritten: the writer first keeps the old bytes
in `former`, then overwrites the slot; the reader first reads the slot, then looks into `former`. Whatever it read of
an overwritten slot, it then finds the old bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashweir.hashing import HASHERS
from hashweir.index import INDEXES
from hashweir.model import Batch, Entry, Form, Kind, Set
from hashweir.ports import Accept, Found, Index, Standing
from hashweir.shards.layout import SLOT_FORMS, SlotForm, unpack
from hashweir.shards.shard import Shard

TableKey = tuple[Kind, Form]
_NEVER = 2**63


class Table:
    """One index over all shards, and the slot that each of its rows stands for."""

    def __init__(self, kind: Kind) -> None:
        """An empty table."""
        self.kind: Kind = kind
        self.width = HASHERS[kind].width
        """Bytes of a value in the index: the first ones of a slot."""
        self.index: Index = INDEXES[kind]()
        self.gone: dict[int, int] = {}
        """Withdrawn rows that some view may still count: the first version without them."""
        self.former: dict[int, tuple[bytes, bytes]] = {}
        """Slot and side record of rows whose slot was overwritten."""
        self._shard = array("H")
        self._slot = array("I")
        self._items: NDArray[np.uint64] = np.zeros(0, np.uint64)
        """Each row's item; 0 once the row left the index. Replaced where it grows: readers may hold the old one."""

    def add(self, shard: int, slots: Sequence[int], values: bytes, items: NDArray[np.uint64]) -> int:
        """Append rows for these slots of a shard, with their concatenated values and items; the first new row."""
        # Places first: a search may return the rows as soon as the index has them.
        first = len(self._slot)
        if first + len(slots) > len(self._items):
            grown = np.zeros(max(1024, first + len(slots), len(self._items) * 5 // 4), np.uint64)
            grown[:first] = self._items[:first]
            self._items = grown
        self._items[first : first + len(slots)] = items
        self._shard.extend([shard] * len(slots))
        self._slot.extend(slots)
        return self.index.add(values)

    def withdraw(self, row: int) -> None:
        """Take a row that no view counts out of the index."""
        self.index.withdraw(row)
        self._items[row] = 0

    def rows_of(self, items: NDArray[np.uint64], rows: int) -> NDArray[np.intp]:
        """Those of the first `rows` rows that are of one of these items. Reads all: milliseconds for a million rows."""
        return np.nonzero(np.isin(self._items[:rows], items))[0]

    def item(self, row: int) -> np.uint64:
        """The item of a row."""
        return np.uint64(self._items[row])

    def __len__(self) -> int:
        """Rows ever added."""
        return len(self._slot)

    def read(self, row: int, shards: Sequence[Shard]) -> tuple[bytes, bytes]:
        """Slot and side record of a row as they were when it was added."""
        try:
            now = shards[self._shard[row]].slot(self.kind, self._slot[row])
        except IndexError:  # the slot itself was cut off
            now = b"", b""
        return self.former.get(row, now)


@dataclass(frozen=True, slots=True)
class Content:
    """What a view holds, apart from how far it may be trusted. Replaced as a whole, never edited."""

    version: int
    rows: Mapping[TableKey, int]
    sets: Mapping[str, Set]
    names: Mapping[int, str]
    """Set names by number."""
    holds: Mapping[int, frozenset[Kind]]
    """Kinds with an active entry, by set number."""
    digest: bytes
    """Digest of every shard's and the sets' position, and of all withdrawals kept against the store."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The growing parts that all views share."""

    tables: Mapping[TableKey, Table]
    shards: Sequence[Shard]
    batches: Mapping[str, Batch | None]


class KnownView:
    """One consistent state of everything known (`ports.View`). Any thread may search it."""

    __slots__ = ("__weakref__", "_content", "_sources", "as_of_ms", "position", "rewound", "sets", "standing")

    def __init__(
        self, content: Content, sources: Sources, position: str, as_of_ms: int, standing: Standing, rewound: bool
    ) -> None:
        """`rewound` says why a view is `degraded`: the store lost part of its history and nobody has ruled on it."""
        self.position = position
        self.as_of_ms = as_of_ms
        self.standing: Standing = standing
        self.rewound = rewound
        self.sets: Mapping[str, Set] = content.sets
        self._content = content
        self._sources = sources

    @property
    def content(self) -> Content:
        """What it holds."""
        return self._content

    def holds(self, set_name: str) -> frozenset[Kind]:
        """The kinds of which this set has at least one active entry; none where there is no such set."""
        known = self.sets.get(set_name)
        return self._content.holds.get(known.number, frozenset()) if known else frozenset()

    def search(
        self, kind: Kind, form: Form, values: Sequence[bytes], radius: int, accept: Accept | None = None
    ) -> list[Found]:
        """Nearest accepted entry per (item, set) over all values, ordered by distance, then entry id. Exact.

        Of several values equally near to an entry, the first counts. An entry whose set is not known at this view's
        policy position is passed over: nothing could be said of it.
        """
        rows = self._content.rows.get((kind, form), 0)
        if not rows or not values:
            return []
        table, version = self._sources.tables[kind, form], self._content.version
        fields = SLOT_FORMS[kind]
        near: list[tuple[int, bytes, int, bytes, bytes]] = []
        for query, row, distance in table.index.search(b"".join(values), radius).tuples():
            if row < rows and table.gone.get(row, _NEVER) > version:
                image, side = table.read(row, self._sources.shards)
                near.append((distance, image[fields.entry : fields.entry + 16], query, image, side))
        near.sort()
        found: list[Found] = []
        taken: set[bytes] = set()
        for distance, _, query, image, side in near:
            key = item_and_set(fields, image)
            if key in taken or set_number(fields, image) not in self._content.names:
                continue
            entry: Entry = unpack(kind, image, side, self._content.names)
            if accept is None or accept(query, entry, distance):
                taken.add(key)
                found.append(Found(query=query, entry=entry, distance=distance))
        return found

    def count_entries(self, kind: Kind, form: Form, items: Sequence[str]) -> list[int]:
        """How many active entries of this kind and form each item has."""
        rows = self._content.rows.get((kind, form), 0)
        if not rows or not items:
            return [0] * len(items)
        table, version = self._sources.tables[kind, form], self._content.version
        wanted = np.frombuffer(bytes.fromhex("".join(items)), np.uint64)
        counts = dict.fromkeys(wanted.tolist(), 0)
        for row in table.rows_of(np.unique(wanted), rows).tolist():
            if table.gone.get(row, _NEVER) > version:
                counts[int(table.item(row))] += 1
        return [counts[one] for one in wanted.tolist()]

    def batch(self, batch_id: str) -> Batch | None:
        """The provenance record of an entry's batch; None where the store has none."""
        return self._sources.batches.get(batch_id)


def set_number(fields: SlotForm, image: bytes) -> int:
    """The number of the set that a slot's entry belongs to."""
    return int.from_bytes(image[fields.set : fields.set + fields.set_bytes], "big")


def item_and_set(fields: SlotForm, image: bytes) -> bytes:
    """What makes two entries one hit: item and set, which lie side by side in every slot form."""
    return image[fields.item : fields.set + fields.set_bytes]
