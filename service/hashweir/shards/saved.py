"""All that is known as one file: what a worker begins with after a restart. `restored` reads it.

    magic │ sections, each padded to 8 bytes │ description (msgpack) │ its length, its CRC-32, magic

Sections hold what is large: codes, slices, records, references, sums. The description says what they are; each has a
CRC-32, which finds damage and is no defence against who may write the file. Numbers are in the machine's order.
What is written was taken at one moment on the loop; the large parts of it never change, so they are not copied.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hashweir.index.sliced import WIDTH, SlicedPdq
from hashweir.model import FORMS, KINDS, Kind
from hashweir.ports import Position
from hashweir.shards.known import LiveKnown, SavedSets
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES
from hashweir.shards.records import BLOCK_ROWS, Full, Octets
from hashweir.shards.table import Table
from hashweir.shards.tables import Refs, TableKey, of_form, rows_of
from hashweir.shards.trust import Followed, History

MAGIC: Final = b"hashweir copy 1\n"
END: Final = struct.Struct(f"<QI4x{len(MAGIC)}s")
_PIECE: Final = 4 << 20
AT_ONCE: Final = 1 << 16
"""Rows whose values are read at once, where an index does not have them in one run."""
LAYOUT: Final = (sys.byteorder, CHUNK_SLOTS, SLOT_BYTES, SIDE_BYTES, BLOCK_ROWS, *KINDS, *FORMS)

Piece = bytes | memoryview


class SavedBlock(msgspec.Struct, array_like=True, frozen=True):
    """A block of records, which is full, or the last one: of so many rows as are left. `columns` vary in it."""

    full: bool
    runs: tuple[tuple[int, int, int], ...]
    columns: int


class SavedTable(msgspec.Struct, array_like=True, frozen=True):
    """A table: rows, and the numbers of its sections. A slice is its layout, what it covers, and two sections."""

    kind: Kind
    form: int
    rows: int
    garbage: int
    hidden: int
    values: list[int]
    blocks: list[SavedBlock]
    records: int
    slices: list[tuple[int, int, int, int, int]]


class SavedShard(msgspec.Struct, array_like=True, frozen=True):
    """A shard; of each kind the sections of references, sums and sequences."""

    number: int
    position: Position
    kept: list[bytes]
    kinds: dict[Kind, tuple[int, int, int]]
    history: History


class Description(msgspec.Struct, array_like=True, frozen=True):
    """What the sections are."""

    total: int
    shards: list[SavedShard]
    tables: list[SavedTable]
    holding: list[tuple[int, Kind, int]]
    sets: SavedSets


class Sections(msgspec.Struct, array_like=True, frozen=True):
    """The end of a file: every section's place, length and CRC-32."""

    sections: list[tuple[int, int, int]]
    description: Description


class Copy:
    """What is known at the moment of making this; to be written whenever there is time for it."""

    def __init__(self, total: int, known: LiveKnown, followed: Sequence[Followed]) -> None:
        """Of a store with `total` shards. Copies a few bytes an entry: some 15 ms at ten million."""
        self._sections: list[Callable[[], Iterable[Piece]]] = []
        self._refs: dict[Kind, list[Refs]] = {kind: [] for kind in KINDS}
        self._description = Description(
            total=total,
            shards=[self._shard(one) for one in followed],
            tables=[self._table(key, table) for key, table in known.tables.by_key.items() if len(table)],
            holding=known.tables.holding(),
            sets=known.saved_sets(),
        )

    def pieces(self) -> Iterator[Piece]:
        """The file, from its beginning to its end, at most 4 MiB at once."""
        yield MAGIC
        at, places = len(MAGIC), list[tuple[int, int, int]]()
        for section in self._sections:
            size = total = 0
            for some in section():
                view = memoryview(some).cast("B")
                for first in range(0, len(view), _PIECE):
                    piece = view[first : first + _PIECE]
                    total = zlib.crc32(piece, total)
                    yield piece
                size += len(view)
            yield bytes(-size % 8)
            places.append((at, size, total))
            at += size + -size % 8
        body = msgspec.msgpack.encode((LAYOUT, Sections(places, self._description)))
        yield body
        yield END.pack(len(body), zlib.crc32(body), MAGIC)

    def _put(self, section: Callable[[], Iterable[Piece]]) -> int:
        self._sections.append(section)
        return len(self._sections) - 1

    def _array(self, values: np.ndarray[Any, Any]) -> int:
        return self._put(lambda: [values.tobytes()])

    def _shard(self, one: Followed) -> SavedShard:
        shard, kinds = one.shard, dict[Kind, tuple[int, int, int]]()
        for kind in shard.counts():
            refs, sums, seqs = shard.saved(kind)
            self._refs[kind].append(refs)
            kinds[kind] = (
                self._put(partial(_whole, refs)),
                self._array(np.array(sums, np.uint64)),
                self._array(np.array(seqs, np.uint64)),
            )
        return SavedShard(shard.number, shard.position, sorted(shard.kept), kinds, one.history())

    def _table(self, key: TableKey, table: Table) -> SavedTable:
        index, rows, blocks = table.index, len(table), table.records.blocks()
        unused = _Unused(table.hidden_rows(), key[1], self._refs[key[0]])
        values: Callable[[], Iterable[Octets]] = partial(_values, table, rows)
        slices = list[tuple[int, int, int, int, int]]()
        if isinstance(index, SlicedPdq):
            values = partial(_codes, index, rows)
            for one in index.slices():
                starts, places = self._put(partial(_whole, one.starts)), self._put(partial(_whole, one.rows))
                slices.append((one.first, one.width, one.covers, starts, places))
        return SavedTable(
            kind=key[0],
            form=key[1],
            rows=rows,
            garbage=table.garbage,
            hidden=self._put(unused.hidden),
            values=[self._put(partial(unused.blanked, values))],
            blocks=[
                SavedBlock(True, one.runs, one.varying.shape[1]) if isinstance(one, Full) else SavedBlock(False, (), 0)
                for one in blocks
            ],
            records=self._put(partial(unused.records, blocks, rows)),
            slices=slices,
        )


def _whole(values: Any) -> Iterable[Piece]:
    return [memoryview(values)] if len(values) else []


def _values(table: Table, rows: int) -> Iterator[Octets]:
    for first in range(0, rows, AT_ONCE):
        yield table.index.values(np.arange(first, min(first + AT_ONCE, rows)))


def _codes(index: SlicedPdq, rows: int) -> Iterator[Octets]:
    for some in index.codes(rows):
        yield np.frombuffer(some, np.uint8).reshape(-1, WIDTH)


class _Unused:
    """Rows that no slot has any more: the store has forgotten what they say, so a file must not keep it."""

    def __init__(self, hidden: Octets, form: int, refs: Sequence[Refs]) -> None:
        """`refs` are all references of a kind; those of the form are to the table."""
        self._hidden, self._form, self._refs = hidden, form, refs

    @cached_property
    def _rows(self) -> NDArray[np.bool_]:
        found = np.ones(len(self._hidden), np.bool_)
        for refs in self._refs:
            found[rows_of(refs[of_form(refs, self._form)])] = False
        return found

    def hidden(self) -> list[Piece]:
        """Which rows no search finds."""
        return [(self._hidden | self._rows).data]

    def blanked(self, parts: Callable[[], Iterable[Octets]]) -> Iterator[Piece]:
        """Rows in order, in parts (n, bytes); the unused ones as zeros."""
        first = 0
        for part in parts():
            yield from self._part(first, part)
            first += len(part)

    def records(self, blocks: Sequence[Octets | Full], rows: int) -> Iterator[Piece]:
        """Blocks of records: what repeats in a full one, then its columns."""
        for number, one in enumerate(blocks):
            first = number * BLOCK_ROWS
            if isinstance(one, Full):
                yield bytes(len(one.same)) if self._rows[first : first + BLOCK_ROWS].all() else one.same.data
                yield from self._part(first, one.varying)
            else:
                yield from self._part(first, one[: rows - first])

    def _part(self, first: int, part: Octets) -> Iterator[Piece]:
        unused = self._rows[first : first + len(part)]
        if unused.any():
            part = np.where(unused[:, None], np.uint8(0), part)
        if part.size:
            yield np.ascontiguousarray(part).data
