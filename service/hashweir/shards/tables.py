"""The writer's side of the tables: which slot has which row, and which rows are on their way out.

An active slot has one row; whatever changes about the slot, its row is withdrawn and, where the slot is still active,
another one is added. A row leaves the index itself only when no view that counts it is alive any more.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from hashweir.model import ENTRY_STATES, FORMS, Form, Kind
from hashweir.shards.layout import SIDE_BYTES, SLOT_BYTES, SLOT_FORMS
from hashweir.shards.view import Table, TableKey, set_number

ACTIVE = ENTRY_STATES.index("active")
_NO_BATCH = bytes(8)


class Tables:
    """One table per (kind, form) over all shards. `version` everywhere is that of the next view to be published."""

    def __init__(self) -> None:
        """No rows."""
        self.by_key: dict[TableKey, Table] = {}
        self.holds: Mapping[int, frozenset[Kind]] = {}
        """Kinds with an active entry, by set number. Replaced, never edited: views keep hold of it."""
        self.batches_named: set[str] = set()
        """Ids of the batches that added rows name; the owner takes them away."""
        self._rows: dict[tuple[int, Kind], array[int]] = {}
        self._holding: Counter[tuple[int, Kind]] = Counter()
        self._leaving: deque[tuple[int, Table, int, bool]] = deque()

    def row(self, shard: int, kind: Kind, slot: int) -> int:
        """The row of a slot, or -1."""
        rows = self._rows.get((shard, kind))
        return rows[slot] if rows is not None and slot < len(rows) else -1

    def save(self, kind: Kind, row: int, record: tuple[bytes, bytes]) -> None:
        """Before a slot with a row is overwritten: keep its bytes for views that count the row."""
        self._table(kind, record[0]).former[row] = record

    def retire(self, shard: int, kind: Kind, slot: int, image: bytes, version: int) -> None:
        """Withdraw the row of a slot whose old bytes were saved, from this version on."""
        table, row = self._table(kind, image), self._rows[shard, kind][slot]
        table.gone[row] = version
        self._leaving.append((version, table, row, False))
        self._rows[shard, kind][slot] = -1
        self._count(kind, set_number(SLOT_FORMS[kind], image), -1)

    def add_chunk(
        self, shard: int, kind: Kind, first: int, chosen: NDArray[np.intp], slots: bytes, sides: bytes, kept: Set[bytes]
    ) -> None:
        """Add the active ones of a chunk's chosen slots (offsets in it), apart from entries kept withdrawn."""
        fields = SLOT_FORMS[kind]
        images = np.frombuffer(slots, np.uint8).reshape(-1, SLOT_BYTES)
        chosen = chosen[images[chosen, fields.state] == ACTIVE]
        if kept:
            ids = images[:, fields.entry : fields.entry + 16]
            chosen = np.array([n for n in chosen.tolist() if ids[n].tobytes() not in kept], np.intp)
        forms = images[chosen, fields.flags] & 0x0F
        for form in np.unique(forms):
            some = chosen[forms == form]
            records = np.frombuffer(sides, np.uint8).reshape(-1, SIDE_BYTES)[some]
            self.add(shard, kind, (first + some).tolist(), images[some].tobytes(), records.tobytes())

    def add(self, shard: int, kind: Kind, numbers: Sequence[int], slots: bytes, sides: bytes) -> None:
        """Add rows for active slots of one form: their numbers, images and side records, concatenated.

        Damaged slots may carry a form that does not exist: they get no row, and their sum will tell.
        """
        if slots[SLOT_FORMS[kind].flags] & 0x0F >= len(FORMS):
            return
        fields, table = SLOT_FORMS[kind], self._table(kind, slots)
        images = np.frombuffer(slots, np.uint8).reshape(-1, SLOT_BYTES)
        items = np.ascontiguousarray(images[:, fields.item : fields.item + 8]).view(np.uint64)[:, 0]
        row = table.add(shard, numbers, images[:, : table.width].tobytes(), items)
        rows = self._rows.setdefault((shard, kind), array("q"))
        rows.extend([-1] * (max(numbers) + 1 - len(rows)))
        for slot in numbers:
            rows[slot] = row
            row += 1
        for owner, count in _distinct(images[:, fields.set : fields.set + fields.set_bytes]).items():
            self._count(kind, int.from_bytes(owner, "big"), count)
        batches = _distinct(np.frombuffer(sides, np.uint8).reshape(-1, SIDE_BYTES)[:, : len(_NO_BATCH)])
        self.batches_named |= {batch.hex() for batch in batches if batch != _NO_BATCH}

    def sweep(self, oldest: int, version: int) -> None:
        """Take rows out of the index that no living view counts, and forget the bytes that none can ask for.

        `oldest` is the version of the oldest living view. Two steps, each when every view made before it is gone: a
        search may have read the index before a row left it, and then still asks `gone` and `former` about the row.
        """
        while self._leaving and self._leaving[0][0] <= oldest:
            _, table, row, withdrawn = self._leaving.popleft()
            if withdrawn:
                del table.gone[row], table.former[row]
            else:
                table.withdraw(row)
                self._leaving.append((version, table, row, True))

    def _table(self, kind: Kind, image: bytes) -> Table:
        form: Form = FORMS[image[SLOT_FORMS[kind].flags] & 0x0F]
        if (kind, form) not in self.by_key:
            self.by_key[kind, form] = Table(kind)
        return self.by_key[kind, form]

    def _count(self, kind: Kind, number: int, change: int) -> None:
        self._holding[number, kind] += change
        has = self._holding[number, kind] > 0
        kinds = self.holds.get(number, frozenset())
        if has != (kind in kinds):
            self.holds = {**self.holds, number: kinds ^ {kind}}


def _distinct(columns: NDArray[np.uint8]) -> dict[bytes, int]:
    """The distinct rows of (n, width) bytes, and how often each occurs."""
    if len(columns) == 1:
        return {columns.tobytes(): 1}
    rows, counts = np.unique(columns, axis=0, return_counts=True)
    return {row.tobytes(): count for row, count in zip(rows, counts.tolist(), strict=True)}
