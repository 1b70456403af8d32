"""Chunks that were damaged in the store: find them, look for what they held, and put that back.

Every chunk has a sum, kept up change by change, so damage shows as bytes that do not give it; and a proposal that does
give it is right (by chance one in 2^52 would be, so even millions of guesses are safe). Proposals come from, in this
order:

1. the change stream, which still has the last images of the slots that changed lately;
2. an export of a set (`lines`), whose rows give slots back, one damaged slot or several;
3. the bytes themselves with one byte changed, as memory and disks do it. Slots whose entry id does not follow from
   their value are tried first.

What no proposal mends can be accepted as it is, which is a decision about every entry of the chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta

from hashweir.hashing import HASHERS
from hashweir.logs import Logger, quiet
from hashweir.model import ENTRY_STATES, FORMS, KINDS, Batch, Entry, Kind, Set, Value
from hashweir.ports import Chunk, Position, Store
from hashweir.sets.read import Line
from hashweir.sets.validate import FORMS_OF
from hashweir.shards.layout import (
    CHUNK_SLOTS,
    SIDE_BYTES,
    SLOT_BYTES,
    SLOT_FORMS,
    SUM_MODULUS,
    entry_id,
    item_id,
    pack,
    shard_of,
    slot_sum,
    unpack,
)

Row = tuple[bytes, bytes]
"""A slot and its side record."""
Source = Literal["change stream", "export", "one byte"]


class Damaged(Value, frozen=True):
    """A chunk that does not give its sum, as it was seen."""

    shard: int
    kind: Kind
    number: int
    chunk: Chunk

    @property
    def rows(self) -> list[Row]:
        """Slots with side records; what is missing at the end of a string that was cut is zeros."""
        count = max(-(-len(self.chunk.slots) // SLOT_BYTES), -(-len(self.chunk.sides) // SIDE_BYTES))
        slots, sides = (
            self.chunk.slots.ljust(count * SLOT_BYTES, b"\0"),
            self.chunk.sides.ljust(count * SIDE_BYTES, b"\0"),
        )
        return [
            (slots[at * SLOT_BYTES : (at + 1) * SLOT_BYTES], sides[at * SIDE_BYTES : (at + 1) * SIDE_BYTES])
            for at in range(count)
        ]


class Mended(Value, frozen=True):
    """What became of a damaged chunk. `suspects` are slots whose entry id does not follow from their value."""

    shard: int
    kind: Kind
    chunk: int
    outcome: Literal["mended", "accepted", "not_mended"]
    source: Source | None = None
    slots: tuple[int, ...] = ()
    suspects: tuple[int, ...] = ()
    entries: Annotated[int, Meta(description="slots in use")] = 0


async def find(store: Store) -> AsyncIterator[tuple[int, int, Damaged | None]]:
    """Every chunk of the store: how many were read, how many there are, and the chunk where it is damaged."""
    heads = await store.heads()
    there = [
        (shard, kind, number)
        for shard, head in enumerate(heads)
        for kind in KINDS
        for number in range(-(-head.counts.get(kind, 0) // CHUNK_SLOTS))
    ]
    for count, (shard, kind, number) in enumerate(there, 1):
        chunk = await store.read_chunk(shard, kind, number)
        seen = Damaged(shard=shard, kind=kind, number=number, chunk=chunk)
        yield count, len(there), None if _missing(seen, seen.rows) == 0 else seen


class Mender:
    """Looks for what damaged chunks held."""

    def __init__(
        self,
        store: Store,
        sets: Sequence[Set],
        damaged: Iterable[Damaged] = (),
        of: Set | None = None,
        lines: Iterable[Line] = (),
    ) -> None:
        """`lines` are rows of an export of the set `of`; those that may belong to the `damaged` are kept."""
        self._store, self._of = store, of
        self._names = {one.number: one.name for one in sets}
        self._lines: dict[tuple[int, Kind], list[Line]] = {(one.shard, one.kind): [] for one in damaged}
        for line in lines:
            place = shard_of(HASHERS[line.kind].parse(line.value), store.shards), line.kind
            if place in self._lines:
                self._lines[place].append(line)

    async def mend(self, damaged: Damaged, log: Logger | None = None) -> Mended:
        """Put right what can be. Raises Unreachable, Refused(store_changed)."""
        async for source, rows in self._proposals(damaged):
            slots = tuple(
                at + damaged.number * CHUNK_SLOTS
                for at, (was, now) in enumerate(zip(damaged.rows, rows, strict=True))
                if was != now
            )
            right = b"".join(slot for slot, _ in rows), b"".join(side for _, side in rows)
            await self._store.mend_chunk(damaged.shard, damaged.kind, damaged.number, damaged.chunk, right)
            return _told(damaged, "mended", log, source=source, slots=slots)
        return self.unmended(damaged, log)

    def unmended(self, damaged: Damaged, log: Logger | None = None) -> Mended:
        """What is known of a chunk that was not mended."""
        first = damaged.number * CHUNK_SLOTS
        suspects = tuple(first + at for at, row in enumerate(damaged.rows) if self._suspect(damaged.kind, row))
        return _told(damaged, "not_mended", log, suspects=suspects)

    def entries(self, damaged: Damaged) -> list[tuple[int, Entry | None, bool]]:
        """Every slot of a chunk, what it says now (None where that is no entry), and whether that looks wrong."""
        first, kind = damaged.number * CHUNK_SLOTS, damaged.kind
        return [(first + at, self._entry(kind, row), self._suspect(kind, row)) for at, row in enumerate(damaged.rows)]

    async def _proposals(self, damaged: Damaged) -> AsyncIterator[tuple[Source, list[Row]]]:
        """Rows that give the sum."""
        kind, first, rows = damaged.kind, damaged.number * CHUNK_SLOTS, damaged.rows
        start = Position(epoch=damaged.chunk.position.epoch, seq=0)
        for change in await self._store.read_changes({damaged.shard: start}, 0, 2**31):
            at = change.slot - first
            if change.kind == kind and 0 <= at < len(rows) and change.position <= damaged.chunk.position:
                rows[at] = change.image, change.side
        if (missing := _missing(damaged, rows)) == 0:
            yield "change stream", rows
        suspects = [at for at, row in enumerate(rows) if self._suspect(kind, row)]
        known = await self._from_export(damaged, rows)
        if found := _one_of(damaged, rows, ((at, row) for at, some in known.items() for row in some), missing):
            yield "export", found
        for chosen in (suspects, known):
            put = {at: known[at][0] for at in chosen if at in known}
            together = [put.get(at, row) for at, row in enumerate(rows)]
            if put and _missing(damaged, together) == 0:
                yield "export", together
        others = [at for at in range(len(rows)) if at not in suspects]
        bits = [1 << bit for bit in range(8)]
        for places, values in ((suspects, range(1, 256)), (others, bits), (others, range(1, 256))):
            for at in places:
                await asyncio.sleep(0)  # the last round takes half a minute
                if found := _one_of(damaged, rows, _one_byte(rows[at], at, values), missing):
                    yield "one byte", found

    def _suspect(self, kind: Kind, row: Row) -> bool:
        entry = self._entry(kind, row)
        if entry is None or entry.form not in FORMS_OF[kind]:
            return True
        return entry_id(entry.set, kind, entry.form, HASHERS[kind].parse(entry.value)) != entry.id

    def _entry(self, kind: Kind, row: Row) -> Entry | None:
        fields = SLOT_FORMS[kind]
        if row[0][fields.state] >= len(ENTRY_STATES) or row[0][fields.flags] & 0x0F >= len(FORMS):
            return None
        try:
            return unpack(kind, *row, self._names)
        except (KeyError, ValueError):
            return None

    async def _from_export(self, damaged: Damaged, rows: Sequence[Row]) -> dict[int, list[Row]]:
        """By place in the chunk, what the export says should stand there, where that differs."""
        if self._of is None:
            return {}
        of, fields = self._of, SLOT_FORMS[damaged.kind]
        places = {slot[fields.entry : fields.entry + 16].hex(): at for at, (slot, _) in enumerate(rows)}
        batches = await self._store.read_batches(sorted({side[:8].hex() for _, side in rows}))
        lines = self._lines.get((damaged.shard, damaged.kind), [])
        found: dict[int, list[Row]] = {}
        lost: list[Line] = []
        for line in lines:
            if str(line.entry) in places:
                at = places[str(line.entry)]
                found[at] = [row for row in _packed(line, of, batches) if row != rows[at]]
            else:
                lost.append(line)
        # An entry whose id was damaged is found nowhere: its row may belong into any slot that looks wrong, and most
        # likely into the one that is most like it.
        ids = [str(line.entry) for line in lost]
        elsewhere: dict[str, tuple[Kind, int]] = {}
        for start in range(0, len(ids), 256):
            elsewhere.update(await self._store.find(damaged.shard, ids[start : start + 256]))
        homeless = [row for line in lost if str(line.entry) not in elsewhere for row in _packed(line, of, batches)]
        for at, row in enumerate(rows):
            if self._suspect(damaged.kind, row) and (one := [*found.get(at, []), *homeless]):
                found[at] = sorted(one, key=lambda proposed: _distance(proposed, row))
        return {at: some for at, some in found.items() if some}


async def accept(store: Store, damaged: Damaged, log: Logger | None = None) -> Mended:
    """Take a chunk as it is: its sum is made anew and followers take it over. Raises as `Mender.mend`."""
    await store.mend_chunk(damaged.shard, damaged.kind, damaged.number, damaged.chunk, None)
    return _told(damaged, "accepted", log)


def _told(
    damaged: Damaged,
    outcome: Literal["mended", "accepted", "not_mended"],
    log: Logger | None,
    *,
    source: Source | None = None,
    slots: tuple[int, ...] = (),
    suspects: tuple[int, ...] = (),
) -> Mended:
    told = Mended(
        shard=damaged.shard,
        kind=damaged.kind,
        chunk=damaged.number,
        outcome=outcome,
        source=source,
        slots=slots,
        suspects=suspects,
        entries=len(damaged.rows),
    )
    (log or quiet()).warning("sets.repaired", shard=told.shard, kind=told.kind, chunk=told.chunk, outcome=outcome)
    return told


def _missing(damaged: Damaged, rows: Sequence[Row]) -> int:
    """By how much these rows miss the sum that is kept, mod 2^52."""
    first = damaged.number * CHUNK_SLOTS
    return (damaged.chunk.sum - sum(slot_sum(first + at, *row) for at, row in enumerate(rows))) % SUM_MODULUS


def _one_of(
    damaged: Damaged, rows: Sequence[Row], proposals: Iterable[tuple[int, Row]], missing: int
) -> list[Row] | None:
    """The rows with the one replaced that gives what is `missing` to the sum."""
    first = damaged.number * CHUNK_SLOTS
    wanted: dict[int, int] = {}
    for at, row in proposals:
        if at not in wanted:
            wanted[at] = (slot_sum(first + at, *rows[at]) + missing) % SUM_MODULUS
        if slot_sum(first + at, *row) == wanted[at]:
            return [*rows[:at], row, *rows[at + 1 :]]
    return None


def _distance(one: Row, other: Row) -> int:
    """In how many bytes two rows differ."""
    return sum(a != b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def _one_byte(row: Row, at: int, values: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """The row of this place with one byte changed by xor with each of these values."""
    whole = bytearray(b"".join(row))
    for byte, kept in enumerate(bytes(whole)):
        for value in values:
            whole[byte] = kept ^ value
            yield at, (bytes(whole[:SLOT_BYTES]), bytes(whole[SLOT_BYTES:]))
        whole[byte] = kept


def _packed(line: Line, of: Set, batches: Mapping[str, Batch]) -> list[Row]:
    """The slot and side record that a line of an export came from: one per batch that it may belong to."""
    value = HASHERS[line.kind].parse(line.value)
    form = line.form or FORMS_OF[line.kind][0]
    number = entry_id(of.name, line.kind, form, value)
    return [
        pack(
            Entry(
                id=number,
                set=of.name,
                kind=line.kind,
                form=form,
                value=line.value,
                item=item_id(of.name, line.item) if line.item else number[:16],
                item_name=line.item,
                state=line.state,
                quality=line.quality,
                length=line.length,
                batch=batch,
                added_ms=line.added_ms or 0,
            ),
            of.number,
            value,
        )
        for batch, one in batches.items()
        if (one.labels, one.note, one.origin) == (line.labels, line.note, line.origin or of.origin)
    ]
