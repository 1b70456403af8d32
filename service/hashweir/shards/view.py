"""The reader's side of what is known: an immutable view over tables whose rows never change.

Nothing is copied per view. A table's rows are numbered in order of adding, so a view is a row count per table and a
version: a row counts for a view when it is below that count and was not withdrawn at or before that version. So a
view gives the same answers for as long as it is held, whatever is applied meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hashweir.model import FORMS, Batch, Entry, Form, Kind, Set
from hashweir.ports import Accept, Found, Hits, Standing
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

    __slots__ = ("__weakref__", "_batches", "_content", "as_of_ms", "position", "rewound", "sets", "standing")

    def __init__(
        self,
        content: Content,
        batches: Mapping[str, Batch | None],
        position: str,
        as_of_ms: int,
        standing: Standing,
        rewound: bool,
    ) -> None:
        """`batches` may grow, for an id always stands for the same record. `rewound` says why a view is `degraded`:
        the store lost part of its history and nobody has ruled on it."""
        self.position = position
        self.as_of_ms = as_of_ms
        self.standing: Standing = standing
        self.rewound = rewound
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
        table, rows = self._content.tables.get((kind, FORMS.index(form)), (None, 0))
        if table is None or not values:
            return []
        hits = self._counted(table, rows, table.index.search(b"".join(values), radius))
        near = _Near(table, FORMS.index(form), hits)
        found: list[Found] = []
        taken: set[bytes] = set()
        for at in near.order:
            group = near.groups[at]
            if group in taken or int.from_bytes(group[8:], "big") not in self._content.names:
                continue
            entry, query, distance = near.entry(at, self._content.names), near.queries[at], near.distances[at]
            if accept is None or accept(query, entry, distance):
                taken.add(group)
                found.append(Found(query=query, entry=entry, distance=distance))
        return found

    def _counted(self, table: Table, rows: int, hits: Hits) -> Hits:
        """Those hits that this view counts."""
        hits = Hits(*(column[hits.row < rows] for column in hits))
        if not table.gone:
            return hits
        return Hits(*(column[table.counted(hits.row, self._content.version)] for column in hits))

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
    """Hits by distance, then entry id, then query. An entry is put together only when it is asked for."""

    def __init__(self, table: Table, form: int, hits: Hits) -> None:
        """Reads the records of all hits, and nothing of their values."""
        self._form = form
        self._kind, self._table, self._rows = table.kind, table, hits.row
        self._records = table.records.take(hits.row)
        self._entries: dict[int, Entry] = {}
        fields, behind = SLOT_FORMS[table.kind], table.width
        high, low = _columns(self._records, fields.entry - behind, 16).view(">u8").reshape(-1, 2).T
        self.order: list[int] = np.lexsort((hits.query, low, high, hits.distance)).tolist()
        """Positions of hits, nearest first."""
        size = 8 + fields.set_bytes
        self.groups: list[bytes] = _columns(self._records, fields.item - behind, size).view(f"V{size}").ravel().tolist()
        """What makes two entries one hit: item and set, which lie side by side in every slot form."""
        self.queries: list[int] = hits.query.tolist()
        self.distances: list[int] = hits.distance.tolist()

    def entry(self, at: int, names: Mapping[int, str]) -> Entry:
        """The entry of a hit."""
        row = int(self._rows[at])
        if (entry := self._entries.get(row)) is None:
            rest, side = self._records[at, :-SIDE_BYTES], self._records[at, -SIDE_BYTES:]
            image = bytearray(self._table.index.values(self._rows[at : at + 1]).tobytes() + rest.tobytes())
            # All rows that a view counts are so. Damaged bytes, until they are mended, must not end a search.
            fields = SLOT_FORMS[self._kind]
            image[fields.state], image[fields.flags] = ACTIVE, self._form
            entry = self._entries[row] = unpack(self._kind, bytes(image), side.tobytes(), names)
        return entry


def _columns(records: Octets, start: int, size: int) -> Octets:
    return np.ascontiguousarray(records[:, start : start + size])
