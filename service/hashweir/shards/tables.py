"""The writer's side of the tables: rows for slots, rows on their way out, and which sets hold what.

A slot's place in the tables is one number, its reference: the form in the high bits, the row in the low ones.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashweir.model import ENTRY_STATES, FORMS, Kind
from hashweir.shards.layout import SIDE_BYTES, SLOT_BYTES, SLOT_FORMS
from hashweir.shards.records import BLOCK_ROWS, Octets
from hashweir.shards.runs import entries_of
from hashweir.shards.table import Rows, Table

ACTIVE = ENTRY_STATES.index("active")
TableKey = tuple[Kind, int]
"""Kind and the number of a form in `model.FORMS`; in damaged slots, of a form that does not exist."""
Refs = NDArray[np.uint32]

_ROW_BITS = 28
_ROWS = 1 << _ROW_BITS
_NO_BATCH = bytes(8)
LEAST_GARBAGE = 65_536
_SWEPT = 1024
"""Rows that leave the index at once: less than a millisecond."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is needed to read rows later on, in another thread: the tables as they are now."""

    tables: Mapping[TableKey, Table]

    def parts(self, kind: Kind, refs: Refs) -> Iterator[tuple[Table, NDArray[np.intp], Rows]]:
        """References table by table: where they stand among these, and their rows.

        Those that lead nowhere are left out; there are none, unless memory was damaged.
        """
        forms, rows = refs >> _ROW_BITS, rows_of(refs)
        one = bool(refs.size) and (forms == forms[0]).all()
        for form in [int(forms[0])] if one else np.unique(forms).tolist():
            table = self.tables.get((kind, form))
            if table is not None and one and rows.max() < len(table):
                yield table, np.arange(len(refs)), rows
            elif table is not None:
                here = np.nonzero((forms == form) & (rows < len(table)))[0]
                yield table, here, rows[here]

    def checksum(self, kind: Kind, refs: Refs) -> int | None:
        """CRC-32 of what is kept behind references, in a fraction of the time of `take`; None where they are no run."""
        if not refs.size or int(refs[-1]) - int(refs[0]) != len(refs) - 1 or not (refs[1:] > refs[:-1]).all():
            return None
        (form, first), (last_form, last) = (divmod(int(one), _ROWS) for one in (refs[0], refs[-1]))
        table = self.tables.get((kind, form))
        if table is None or form != last_form or last >= len(table):
            return None
        return table.checksum(first, len(refs))

    def take(self, kind: Kind, refs: Refs) -> tuple[Octets, Octets]:
        """Slots (n, 64) and side records (n, 40) behind references; zeros where one leads nowhere."""
        images, sides = np.zeros((len(refs), SLOT_BYTES), np.uint8), np.zeros((len(refs), SIDE_BYTES), np.uint8)
        for table, here, rows in self.parts(kind, refs):
            if len(here) == len(refs):
                return table.take(rows)
            images[here], sides[here] = table.take(rows)
        return images, sides


class Tables:
    """One table per (kind, form) over all shards."""

    def __init__(self, least_garbage: int = LEAST_GARBAGE) -> None:
        """No rows. A table with more than this, and a quarter of its rows, as garbage is to be compacted."""
        self.by_key: Mapping[TableKey, Table] = {}
        """Replaced, never edited: views keep hold of it."""
        self.holds: Mapping[int, frozenset[Kind]] = {}
        """Kinds with an active entry, by set number. Replaced, never edited, too."""
        self.batches_named: set[str] = set()
        """Ids of the batches that added rows name; the owner takes them away."""
        self.version = 1
        """That of the next view to be published."""
        self._least_garbage = least_garbage
        self._suspect: set[TableKey] = set()
        self._holding: Counter[tuple[int, Kind]] = Counter()
        self._leaving: deque[tuple[int, Table, Rows, bool]] = deque()

    def reading(self) -> Reading:
        """To read rows that are known now, whatever happens to the tables."""
        return Reading(self.by_key)

    def add(self, kind: Kind, images: Octets, sides: Octets, kept: Set[bytes]) -> Refs:
        """Rows for slots (n, 64) and their side records (n, 40); their references.

        A search finds those that are active, apart from entries (16-byte ids) that are kept withdrawn. Damaged slots
        may carry a form that does not exist: these are never found, and their sum will tell.
        """
        shown, forms = visible(kind, images, kept), images[:, SLOT_FORMS[kind].flags] & 0x0F
        if (forms == forms[0]).all():
            refs = self._add(kind, int(forms[0]), images, sides, shown)
        else:
            refs = np.empty(len(images), np.uint32)
            for form in np.unique(forms).tolist():
                some = forms == form
                refs[some] = self._add(kind, form, images[some], sides[some], shown[some])
        if not shown.all():
            images, sides = images[shown], sides[shown]
        self._count(kind, images, 1)
        batches = _distinct(sides[:, : len(_NO_BATCH)])
        self.batches_named |= {batch.hex() for batch in batches if batch != _NO_BATCH}
        return refs

    def _add(self, kind: Kind, form: int, images: Octets, sides: Octets, shown: NDArray[np.bool_]) -> Refs:
        table = self.by_key.get((kind, form))
        if table is None:
            table = Table(kind)
            self.by_key = {**self.by_key, (kind, form): table}
        if len(table) + len(images) > _ROWS:
            raise OverflowError(f"more than {_ROWS} rows of {kind}")
        return refs_of(form, table.add(images, sides, shown), len(images))

    def retire(self, kind: Kind, refs: Refs, images: Octets) -> None:
        """Slots, (n, 64), leave these rows: the next view does not count them."""
        for table, here, rows in self.reading().parts(kind, refs):
            found = table.retire(rows, self.version)
            if found.any():
                self._leaving.append((self.version, table, rows[found], False))
                self._count(kind, images[here[found]], -1)

    def holding(self) -> list[tuple[int, Kind, int]]:
        """How many active entries of a kind each set has: set number, kind, count."""
        return [(number, kind, count) for (number, kind), count in self._holding.items() if count]

    def adopt(self, by_key: Mapping[TableKey, Table], holding: Iterable[tuple[int, Kind, int]]) -> None:
        """Begin with tables that another process had, in place of none."""
        self.by_key = by_key
        self._holding = Counter({(number, kind): count for number, kind, count in holding})
        owners = {number for number, _ in self._holding}
        self.holds = {one: frozenset(kind for number, kind in self._holding if number == one) for one in owners}

    def hidden(self, kind: Kind, refs: Refs) -> NDArray[np.bool_]:
        """Which of these rows no search finds."""
        found = np.zeros(len(refs), np.bool_)
        for table, here, rows in self.reading().parts(kind, refs):
            found[here] = table.hidden(rows)
        return found

    def sweep(self, oldest: int) -> bool:
        """Take rows out of the index that no living view counts, so many at once; whether there are more.

        `oldest` is the version of the oldest living view. Two steps, each when every view made before it is gone: a
        search may have read the index before a row left it, and then still asks `gone` about the row.
        """
        room = _SWEPT
        while room > 0:
            if not self._leaving or self._leaving[0][0] > oldest:
                return False
            version, table, rows, withdrawn = self._leaving.popleft()
            some, rest = rows[:room], rows[room:]
            room -= len(some)
            if rest.size:
                self._leaving.appendleft((version, table, rest, withdrawn))
            if withdrawn:
                table.forget(some)
            else:
                table.withdraw(some)
                self._leaving.append((self.version, table, some, True))
        return True

    # ── garbage ──

    def wasteful(self) -> TableKey | None:
        """A table to be compacted."""
        if self._suspect:
            return min(self._suspect)
        for key, table in self.by_key.items():
            if table.garbage > max(len(table) // 4, self._least_garbage):
                return key
        return None

    def suspect(self, kind: Kind) -> None:
        """Memory was damaged: besides what a chunk's bytes can show, it may be the index. Make these tables anew."""
        self._suspect |= {key for key in self.by_key if key[0] == kind}

    def put(self, key: TableKey, table: Table) -> None:
        """Put another table in place of one. Rows of the old one are still swept, for the views that have it."""
        self.by_key = {**self.by_key, key: table}
        if key in self._suspect:
            self._suspect.discard(key)
            self._recount()

    def _recount(self) -> None:
        """Count again what sets hold: retiring a row subtracts what its bytes say, and damaged bytes say anything."""
        self._holding.clear()
        self.holds = {}
        for (kind, _), table in self.by_key.items():
            for first in range(0, len(table), BLOCK_ROWS):
                rows = np.arange(first, min(first + BLOCK_ROWS, len(table)))
                counted = ~table.hidden(rows) & table.counted(rows, self.version)
                self._count(kind, table.take(rows[counted])[0], 1)

    def _count(self, kind: Kind, images: Octets, sign: int) -> None:
        """Count what these slots' sets hold, up or down."""
        fields = SLOT_FORMS[kind]
        for owner, count in _distinct(images[:, fields.set : fields.set + fields.set_bytes]).items():
            number = int.from_bytes(owner, "big")
            self._holding[number, kind] += sign * count
            has = self._holding[number, kind] > 0
            kinds = self.holds.get(number, frozenset())
            if has != (kind in kinds):
                self.holds = {**self.holds, number: kinds ^ {kind}}


def visible(kind: Kind, images: Octets, kept: Set[bytes]) -> NDArray[np.bool_]:
    """Which slots (n, 64) a search may find: active ones of a form that exists, but for the entries that are kept."""
    fields = SLOT_FORMS[kind]
    found: NDArray[np.bool_] = (images[:, fields.state] == ACTIVE) & (images[:, fields.flags] & 0x0F < len(FORMS))
    if kept:
        found[found] = [entry not in kept for entry in entries_of(kind, images[found])]
    return found


def rows_of(refs: Refs) -> Rows:
    """The rows of references."""
    return (refs & np.uint32(_ROWS - 1)).astype(np.int64)


def refs_of(form: int, first: int, count: int) -> Refs:
    """References to consecutive rows of a form's table."""
    return np.arange(first, first + count, dtype=np.uint32) | np.uint32(form << _ROW_BITS)


def of_form(refs: Refs, form: int) -> NDArray[np.bool_]:
    """Which references are to a form's table."""
    found: NDArray[np.bool_] = refs >> _ROW_BITS == form
    return found


def _distinct(columns: Octets) -> dict[bytes, int]:
    """The distinct rows of (n, width) bytes, and how often each occurs."""
    if not len(columns):
        return {}
    if (columns == columns[0]).all():
        return {columns[0].tobytes(): len(columns)}
    rows: list[bytes] = np.ascontiguousarray(columns).view(f"V{columns.shape[1]}").ravel().tolist()
    return Counter(rows)
