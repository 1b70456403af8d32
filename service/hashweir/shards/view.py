"""The reader's side of what is known: an immutable view over tables whose rows never change.

Nothing is copied per view. A table's rows are numbered in order of adding, so a view is a row count per table and a
version: a row counts for a view when it is below that count and was not withdrawn at or before that version. So a
view gives the same answers for as long as it is held, whatever is applied meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hashweir.model import FORMS, Batch, Entry, Form, Kind, Set
from hashweir.ports import Accept, Found, Hits, Query, Standing
from hashweir.shards.layout import SIDE_BYTES, SLOT_FORMS, unpack
from hashweir.shards.records import Octets
from hashweir.shards.table import Table
from hashweir.shards.tables import ACTIVE, TableKey


@dataclass(frozen=True, slots=True)
class Content:
    """What a view holds, apart from how far it may be trusted. Replaced as a whole, never edited."""

    version: int
    tables: Mapping[TableKey, tuple[Table, int]]
    """Each table, and how many of its rows there were."""
    sets: Mapping[str, Set]
    names: Mapping[int, str]
    """Set names by number."""
    holds: Mapping[int, frozenset[Kind]]
    """Kinds with an active entry, by set number."""
    digest: bytes
    """Digest of every shard's and the sets' position, and of all withdrawals kept against the store."""


class KnownView:
    """One consistent state of everything known (`ports.View`). Any thread may search it."""

    __slots__ = (
        "__weakref__",
        "_batches",
        "_content",
        "as_of_ms",
        "missing",
        "position",
        "rewound",
        "sets",
        "standing",
    )

    def __init__(
        self,
        content: Content,
        batches: Mapping[str, Batch | None],
        position: str,
        as_of_ms: int,
        standing: Standing,
        rewound: bool,
        missing: str = "",
    ) -> None:
        """`batches` may grow, for an id always stands for the same record. `rewound` says why a view is `degraded`:
        the store lost part of its history and nobody has ruled on it. `missing` are shards that are not followed."""
        self.position = position
        self.as_of_ms = as_of_ms
        self.standing: Standing = standing
        self.rewound = rewound
        self.missing = missing
        self.sets: Mapping[str, Set] = content.sets
        self._content = content
        self._batches = batches

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
        return self._nearest(kind, form, values, radius, None, accept)

    def search_many(self, kind: Kind, form: Form, queries: Sequence[Query], accept: Accept) -> list[Found]:
        """The same for several uploads at once, each value within its own radius: nearest per (upload, item, set)."""
        farthest = max((one.radius for one in queries), default=0)
        return self._nearest(kind, form, [one.value for one in queries], farthest, queries, accept)

    def _nearest(
        self,
        kind: Kind,
        form: Form,
        values: Sequence[bytes],
        radius: int,
        queries: Sequence[Query] | None,
        accept: Accept | None,
    ) -> list[Found]:
        table, rows = self._content.tables.get((kind, FORMS.index(form)), (None, 0))
        if table is None or not values:
            return []
        hits = table.index.search(b"".join(values), radius)
        if queries is not None and hits.row.size:
            radii = np.array([one.radius for one in queries])
            hits = Hits(*(column[hits.distance <= radii[hits.query]] for column in hits))
        hits = self._counted(table, rows, hits)
        if not hits.row.size:
            return []
        near = _Near(table, FORMS.index(form), hits)
        found: list[Found] = []
        taken: set[tuple[int, bytes]] = set()
        for at, query, distance in near.order():
            group = near.groups[at]
            key = queries[query].upload if queries else 0, group
            if key in taken or int.from_bytes(group[8:], "big") not in self._content.names:
                continue
            entry = near.entry(at, self._content.names)
            if accept is None or accept(query, entry, distance):
                taken.add(key)
                found.append(Found(query=query, entry=entry, distance=distance))
        return found

    def _counted(self, table: Table, rows: int, hits: Hits) -> Hits:
        """Those hits that this view counts."""
        counted = hits.row < rows
        if not counted.all():
            hits, counted = Hits(*(column[counted] for column in hits)), counted[counted]
        if table.gone:
            counted = table.counted(hits.row, self._content.version)
        return hits if counted.all() else Hits(*(column[counted] for column in hits))

    def count_entries(self, kind: Kind, form: Form, items: Sequence[str]) -> list[int]:
        """How many active entries of this kind and form each item has."""
        table, rows = self._content.tables.get((kind, FORMS.index(form)), (None, 0))
        if table is None or not items:
            return [0] * len(items)
        wanted = np.frombuffer(bytes.fromhex("".join(items)), np.uint64)
        found = table.rows_of(np.unique(wanted), rows)
        found = found[table.counted(found, self._content.version)]
        counts = Counter(table.items(found).tolist())
        return [counts[one] for one in wanted.tolist()]

    def batch(self, batch_id: str) -> Batch | None:
        """The provenance record of an entry's batch; None where the store has none."""
        return self._batches.get(batch_id)


class _Near:
    """The rows of hits, each once, in numpy; an entry is put together only when it is asked for."""

    def __init__(self, table: Table, form: int, hits: Hits) -> None:
        """Reads the records of all rows, and nothing of their values."""
        self._table, self._form, self._hits = table, form, hits
        self._rows, self._which = np.unique(hits.row, return_inverse=True)
        self._records = table.records.take(self._rows)
        self._entries: dict[int, Entry] = {}
        self._fields, self._behind = SLOT_FORMS[table.kind], table.width
        size = 8 + self._fields.set_bytes
        self.groups: list[bytes] = self._columns(self._fields.item, size).view(f"V{size}").ravel().tolist()
        """Per row what makes two entries one hit: item and set, which lie side by side in every slot form."""

    def order(self) -> Iterator[tuple[int, int, int]]:
        """The row's place, query and distance of all hits: by distance, then entry id, then query."""
        query, _, distance = self._hits
        high, low = self._columns(self._fields.entry, 16).view(">u8").astype(np.uint64).T
        order = np.lexsort((query, low[self._which], high[self._which], distance))
        return zip(self._which[order].tolist(), query[order].tolist(), distance[order].tolist(), strict=True)

    def entry(self, at: int, names: Mapping[int, str]) -> Entry:
        """The entry of a row."""
        if (entry := self._entries.get(at)) is None:
            rest, side = self._records[at, :-SIDE_BYTES], self._records[at, -SIDE_BYTES:]
            image = bytearray(self._table.index.values(self._rows[at : at + 1]).tobytes() + rest.tobytes())
            # All rows that a view counts are so. Damaged bytes, until they are mended, must not end a search.
            image[self._fields.state], image[self._fields.flags] = ACTIVE, self._form
            entry = self._entries[at] = unpack(self._table.kind, bytes(image), side.tobytes(), names)
        return entry

    def _columns(self, start: int, size: int) -> Octets:
        return np.ascontiguousarray(self._records[:, start - self._behind : start - self._behind + size])
