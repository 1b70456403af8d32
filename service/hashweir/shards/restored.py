"""What the file of the last state holds, in memory of its own, checked: the way back from `saved`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from hashweir.errors import InputError
from hashweir.index.sliced import SavedSlice, SlicedPdq
from hashweir.model import Kind
from hashweir.shards.known import LiveKnown
from hashweir.shards.layout import CHUNK_SLOTS
from hashweir.shards.records import BLOCK_ROWS, Full, Octets, Records
from hashweir.shards.saved import AT_ONCE, END, LAYOUT, MAGIC, Description, SavedTable, Sections
from hashweir.shards.table import Table
from hashweir.shards.tables import Refs, TableKey
from hashweir.shards.trust import Followed


@dataclass(frozen=True)
class Restored:
    """What a file held, ready to be begun with."""

    total: int
    tables: dict[TableKey, Table]
    description: Description
    kinds: list[dict[Kind, tuple[Refs, list[int], list[int]]]]

    def epochs(self) -> dict[int, set[int]]:
        """Per shard the epochs that it has had."""
        return {one.number: {one.position.epoch, *one.history.former_epochs} for one in self.description.shards}

    def begin(self, known: LiveKnown, followed: Sequence[Followed]) -> None:
        """Put it in place of nothing. The shards must be the same ones."""
        for one, saved, kinds in zip(followed, self.description.shards, self.kinds, strict=True):
            one.shard.adopt(saved.position, saved.kept, kinds)
            one.resume(saved.history)
        known.tables.adopt(self.tables, self.description.holding)
        known.adopt_sets(self.description.sets)


def restore(file: memoryview) -> Restored:
    """What a file holds, in memory of its own. Raises InputError(saved_damaged | saved_layout)."""
    sections, found = _opened(file)
    try:
        tables = {(one.kind, one.form): _restored(one, sections) for one in found.tables}
        kinds = [
            {kind: _slots(*(sections[n] for n in three)) for kind, three in one.kinds.items()} for one in found.shards
        ]
        for shard in kinds:
            for kind, (refs, sums, seqs) in shard.items():
                if not len(sums) == len(seqs) == -(-len(refs) // CHUNK_SLOTS):
                    raise ValueError(f"{len(refs)} slots of {kind} in {len(sums)} chunks")
                _lead_somewhere(kind, refs, tables)
    except (ValueError, IndexError) as error:
        raise InputError("saved_damaged", f"the file of the last state: {error}") from None
    return Restored(found.total, tables, found, kinds)


def _opened(file: memoryview) -> tuple[list[memoryview], Description]:
    if len(file) < len(MAGIC) + END.size or file[-len(MAGIC) :] != file[: len(MAGIC)]:
        raise InputError("saved_damaged", "the file of the last state is cut short")
    length, total, magic = END.unpack(file[-END.size :])
    if magic != MAGIC:
        raise InputError("saved_layout", "the file of the last state was written by another version")
    if length > len(file) - END.size or zlib.crc32(body := file[-END.size - length : -END.size]) != total:
        raise InputError("saved_damaged", "the description in the file of the last state does not fit its sum")
    try:
        layout, raw = msgspec.msgpack.decode(body, type=tuple[list[Any], msgspec.Raw])
        if tuple(layout) != LAYOUT:
            raise InputError("saved_layout", "the file of the last state is of another layout or machine")
        found = msgspec.msgpack.decode(raw, type=Sections)
    except msgspec.MsgspecError:
        raise InputError("saved_layout", "the file of the last state describes what is not known here") from None
    with ThreadPoolExecutor(2) as threads:
        sums = list(threads.map(lambda place: zlib.crc32(file[place[0] : place[0] + place[1]]), found.sections))
    for (at, size, wanted), has in zip(found.sections, sums, strict=True):
        if at + size > len(file) or has != wanted:
            raise InputError("saved_damaged", f"bytes {at} to {at + size} of the last state do not fit their sum")
    return [file[at : at + size] for at, size, _ in found.sections], found.description


def _restored(one: SavedTable, sections: Sequence[memoryview]) -> Table:
    records, at, blocks = sections[one.records], 0, list[Octets | Full]()
    width = Table(one.kind).records.width
    for number, block in enumerate(one.blocks):
        if block.full:
            same = np.frombuffer(records, np.uint8, width, at).copy()
            some = np.frombuffer(records, np.uint8, BLOCK_ROWS * block.columns, at + width)
            blocks.append(Full(same, block.runs, some.reshape(BLOCK_ROWS, block.columns).copy()))
            at += width + some.size
        else:
            some = np.frombuffer(records, np.uint8, (one.rows - number * BLOCK_ROWS) * width, at)
            blocks.append(some.reshape(-1, width))
    values = (sections[number] for number in one.values)
    whole = Table(one.kind).width * AT_ONCE
    pieces = (bytes(some[low : low + whole]) for some in values for low in range(0, len(some), whole))
    hidden = np.frombuffer(sections[one.hidden], np.uint8)
    table = Table.restored(one.kind, pieces, Records.restored(width, blocks, one.rows), hidden, one.garbage)
    if isinstance(table.index, SlicedPdq):
        table.index.adopt(
            [SavedSlice(first, bits, covers, sections[a], sections[b]) for first, bits, covers, a, b in one.slices]
        )
    return table


def _slots(refs: memoryview, sums: memoryview, seqs: memoryview) -> tuple[Refs, list[int], list[int]]:
    return (
        np.frombuffer(refs, np.uint32).copy(),
        np.frombuffer(sums, np.uint64).tolist(),
        np.frombuffer(seqs, np.uint64).tolist(),
    )


def _lead_somewhere(kind: Kind, refs: Refs, tables: dict[TableKey, Table]) -> None:
    """Raises ValueError where a slot's row is in no table."""
    forms, rows = refs >> 28, refs & ((1 << 28) - 1)
    for form in np.unique(forms).tolist():
        if (kind, form) not in tables or rows[forms == form].max() >= len(tables[kind, form]):
            raise ValueError(f"a slot of {kind} leads nowhere")
