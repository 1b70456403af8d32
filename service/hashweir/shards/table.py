"""One table per kind and form over all shards: an index, and what each of its rows says. A row never changes.

A row is a slot as it was at one time: its value is in the index, the rest of the slot and its side record are in
`records`. Every slot has a row, whatever its state; a slot that changes gets a new row. So whoever holds a row number
and the table reads the same bytes for ever, whatever is applied meanwhile and in whatever thread.

Rows that no slot has any more are garbage. A table with too much of it is replaced by one without; views that began
with the old one keep it.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from hashweir.hashing import HASHERS
from hashweir.index import INDEXES
from hashweir.model import Kind
from hashweir.ports import Index
from hashweir.shards.layout import SIDE_BYTES, SLOT_BYTES, SLOT_FORMS
from hashweir.shards.records import Octets, Records

Rows = NDArray[np.int64]
Items = NDArray[np.uint64]
"""The 8 bytes of items, as numbers of this machine."""
_NEVER = 2**63 - 1


class Table:
    """Values, slots and side records by row. One thread changes it; others read rows that they were told of."""

    def __init__(self, kind: Kind) -> None:
        """An empty table."""
        self.kind: Kind = kind
        self.width = HASHERS[kind].width
        """Bytes of a value: the first ones of a slot."""
        self.index: Index = INDEXES[kind]()
        self.records = Records(SLOT_BYTES - self.width + SIDE_BYTES)
        """Per row the slot behind its value, then the side record."""
        self.gone: dict[int, int] = {}
        """Rows on their way out that some view may still count: the first version without them."""
        self.garbage = 0
        """Rows that no slot has any more."""
        self._hidden: Octets = np.zeros(0, np.uint8)
        item = SLOT_FORMS[kind].item - self.width
        self._item = item, item + 8

    @classmethod
    def restored(cls, kind: Kind, values: Iterable[bytes], records: Records, hidden: Octets, garbage: int) -> Table:
        """A table of rows that another one had. Raises ValueError where these are not as many of each."""
        table = cls(kind)
        for some in values:
            table.index.add(some)
        if len(table.index) != len(records) or len(hidden) != len(records):
            raise ValueError(f"{len(table.index)} values for {len(records)} records")
        table.records, table.garbage, table._hidden = records, garbage, hidden.copy()
        table.index.withdraw(np.nonzero(hidden)[0])
        return table

    def hidden_rows(self) -> Octets:
        """A copy of which rows no view counts that is made from now on: 1 for each such one."""
        found = self._hidden[: len(self)].copy()
        found[list(self.gone)] = 1
        return found

    def __len__(self) -> int:
        """Rows ever added."""
        return len(self.records)

    def add(self, images: Octets, sides: Octets, visible: NDArray[np.bool_]) -> int:
        """Append slots (n, 64) and their side records (n, 40); the first new row. A search finds the visible ones."""
        # The index last: a search may return rows as soon as it has them.
        first, rows = len(self), len(self) + len(images)
        if rows > len(self._hidden):
            grown: Octets = np.zeros(max(1024, rows, len(self._hidden) * 9 // 8), np.uint8)
            grown[:first] = self._hidden[:first]
            self._hidden = grown
        self._hidden[first:rows] = ~visible
        self.records.append(np.hstack([images[:, self.width :], sides]))
        self.index.add(images[:, : self.width].tobytes())
        if not visible.all():
            self.index.withdraw(first + np.nonzero(~visible)[0])
        return first

    def retire(self, rows: Rows, version: int) -> NDArray[np.bool_]:
        """Slots leave these rows, from this version on. Which of them a search could find until now."""
        self.garbage += len(rows)
        found = ~self.hidden(rows)
        self.gone.update(dict.fromkeys(rows[found].tolist(), version))
        return found

    def withdraw(self, rows: Rows) -> None:
        """Take rows that no view counts out of the index."""
        self._hidden[rows] = 1
        self.index.withdraw(rows)

    def forget(self, rows: Rows) -> None:
        """Every search that may still find these rows, which were taken out, has ended."""
        for row in rows.tolist():
            self.gone.pop(row, None)  # damaged memory may have retired a row twice

    def hidden(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of these rows no search finds: not active, kept withdrawn, or withdrawn since."""
        found: NDArray[np.bool_] = self._hidden[rows] != 0
        return found

    def counted(self, rows: Rows, version: int) -> NDArray[np.bool_]:
        """Which of these rows, found or not hidden, a view of this version counts."""
        if not self.gone:
            return np.ones(len(rows), np.bool_)
        gone = self.gone
        return np.array([gone.get(row, _NEVER) > version for row in rows.tolist()], np.bool_)

    def rows_of(self, items: Items, rows: int) -> Rows:
        """Rows below `rows` of one of these items that are not hidden. Reads all: 20 ms a million."""
        found = [np.zeros(0, np.int64)]
        for first, column in self.records.columns(*self._item, rows):
            some = first + np.nonzero(np.isin(column.view(np.uint64).ravel(), items))[0]
            found.append(some[~self.hidden(some)])
        return np.concatenate(found)

    def items(self, rows: Rows) -> Items:
        """The items of rows."""
        return np.ascontiguousarray(self.records.take(rows)[:, slice(*self._item)]).view(np.uint64).ravel()

    def checksum(self, first: int, count: int) -> int:
        """CRC-32 of all that is kept of `count` rows from `first` on, in the way in which it is kept."""
        values = self.index.values(np.arange(first, first + count))
        return crc32(np.ascontiguousarray(values).data, self.records.checksum(first, count))

    def take(self, rows: Rows) -> tuple[Octets, Octets]:
        """Slots (n, 64) and side records (n, 40) of rows."""
        records, rest = self.records.take(rows), SLOT_BYTES - self.width
        images = np.empty((len(rows), SLOT_BYTES), np.uint8)
        images[:, : self.width] = self.index.values(rows)
        images[:, self.width :] = records[:, :rest]
        return images, np.ascontiguousarray(records[:, rest:])
