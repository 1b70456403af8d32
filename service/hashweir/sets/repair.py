"""Chunks that were damaged in the store: look for what they held, and put that back.

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
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Literal

from hashweir.hashing import HASHERS
from hashweir.logs import Logger, quiet
from hashweir.model import ENTRY_STATES, FORMS, Batch, Entry, Kind, Set, Value
from hashweir.ports import Position, Store
from hashweir.sets.damage import Damaged, Row, distance, missing, one_byte, one_of
from hashweir.sets.read import Line
from hashweir.sets.validate import FORMS_OF
from hashweir.shards.layout import (
    CHUNK_SLOTS,
    SLOT_FORMS,
    entry_id,
    item_id,
    pack,
    shard_of,
    unpack,
)

Source = Literal["change stream", "export", "one byte"]


class Mended(Value, frozen=True):
    """What became of a damaged chunk of so many `entries`.

    `slots` were put right; `suspects` are slots whose entry id does not follow from their value.
    """

    shard: int
    kind: Kind
    chunk: int
    outcome: Literal["mended", "accepted", "not_mended"]
    entries: int
    source: Source | None = None
    slots: tuple[int, ...] = ()
    suspects: tuple[int, ...] = ()


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
        if (lacking := missing(damaged, rows)) == 0:
            yield "change stream", rows
        suspects = [at for at, row in enumerate(rows) if self._suspect(kind, row)]
        known = await self._from_export(damaged, rows)
        if found := one_of(damaged, rows, ((at, row) for at, some in known.items() for row in some), lacking):
            yield "export", found
        for chosen in (suspects, known):
            put = {at: known[at][0] for at in chosen if at in known}
            together = [put.get(at, row) for at, row in enumerate(rows)]
            if put and missing(damaged, together) == 0:
                yield "export", together
        others = [at for at in range(len(rows)) if at not in suspects]
        bits = [1 << bit for bit in range(8)]
        for places, values in ((suspects, range(1, 256)), (others, bits), (others, range(1, 256))):
            for at in places:
                await asyncio.sleep(0)  # the last round takes half a minute
                if found := one_of(damaged, rows, one_byte(rows[at], at, values), lacking):
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
                found[at] = sorted(one, key=lambda proposed: distance(proposed, row))
        return {at: some for at, some in found.items() if some}


async def accept(store: Store, principal: str, damaged: Damaged, log: Logger | None = None) -> Mended:
    """Take a chunk as it is: its sum is made anew and followers take it over. Raises as `Mender.mend`."""
    await store.mend_chunk(damaged.shard, damaged.kind, damaged.number, damaged.chunk, None)
    (log or quiet()).warning("sets.damage_accepted", principal=principal, entries=len(damaged.rows))
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
