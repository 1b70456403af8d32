"""What the store holds of a set: its entries as lines of our own JSON form, their counts, and single ones.

Chunks are read one after the other while others may write, so an export is a picture of each chunk at its time.
Its order: shard, kind, slot.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import numpy as np
import numpy.typing as npt

from hashweir.errors import InputError
from hashweir.hashing import HASHERS
from hashweir.model import ENTRY_STATES, FORMS, KINDS, Batch, Entry, EntryState, Kind, Set
from hashweir.ports import Chunk, Store
from hashweir.sets.read import Line, Row, excerpt
from hashweir.sets.validate import FORMS_OF, Change, identify
from hashweir.shards.layout import (
    CHUNK_SLOTS,
    SIDE_BYTES,
    SLOT_BYTES,
    SLOT_FORMS,
    entry_id,
    shard_of,
    unpack,
)

ACTIVE = ENTRY_STATES.index("active")
_ENTRY_ID = re.compile("[0-9a-f]{32}")


async def lines(store: Store, of: Set, *, only_active: bool = False) -> AsyncIterator[list[Line]]:
    """The entries of a set, withdrawn ones included unless `only_active`, in runs of at most one chunk."""
    batches: dict[str, Batch] = {}
    async for shard, kind, chunk in _chunks(store):
        found = _entries(kind, chunk, of, only_active)
        if not found:
            continue
        if unknown := {e.batch for e in found if e.batch} - batches.keys():
            batches.update(await store.read_batches(sorted(unknown)))
        # A name too long for its side record is kept apart; an entry without a name is its own item.
        nameless = sorted({e.item for e in found if not e.item_name and e.item != e.id[:16]})
        names = await store.read_names(shard, nameless) if nameless else {}
        yield [_line(e, batches.get(e.batch), names.get(e.item, ""), of) for e in found]


async def tally(store: Store, of: Set) -> dict[Kind, dict[EntryState, int]]:
    """How many entries a set holds, by kind and state. Reads every chunk of the store."""
    counts: dict[Kind, Counter[EntryState]] = {}
    async for _, kind, chunk in _chunks(store):
        slots = _slots(chunk)
        states = slots[_of_set(kind, slots, of), SLOT_FORMS[kind].state]
        for state, count in zip(*np.unique(states, return_counts=True), strict=True):
            counts.setdefault(kind, Counter())[ENTRY_STATES[int(state)]] += int(count)
    return {kind: dict(sorted(counter.items())) for kind, counter in counts.items()}


async def resolve(
    store: Store, of: Set, hashes: Sequence[Row], entry_ids: Sequence[str]
) -> tuple[list[Change], list[str]]:
    """Withdrawals of the entries that hashes and ids name, and those of the names that the set does not hold.

    A hash without a form means all forms of its kind. Raises InputError for a malformed hash or id.
    """
    wanted: dict[str, list[str]] = {}
    by_shard: dict[int, list[str]] = {}
    for row in hashes:
        kind, form, value = identify(row)
        forms = (form,) if row.form else FORMS_OF[kind]
        ids = [entry_id(of.name, kind, one, value) for one in forms]
        wanted[f"{kind}:{HASHERS[kind].show(value)}"] = ids
        by_shard.setdefault(shard_of(value, store.shards), []).extend(ids)
    for one in entry_ids:
        if not _ENTRY_ID.fullmatch(one):
            raise InputError("bad_field", f"an entry id is 32 lower-case hex digits, got {excerpt(one)}")
        wanted[one] = [one]
        for shard in range(store.shards):  # an id alone does not say where its value lies
            by_shard.setdefault(shard, []).append(one)
    found: dict[str, Entry] = {}
    for shard, ids in sorted(by_shard.items()):
        found.update(await _find(store, of, shard, sorted(set(ids))))
    missing = [name for name, ids in wanted.items() if not any(one in found for one in ids)]
    changes = [
        Change(verb="withdraw", entry=entry, value=HASHERS[entry.kind].parse(entry.value))
        for _, entry in sorted(found.items())
    ]
    return changes, missing


async def _find(store: Store, of: Set, shard: int, entry_ids: list[str]) -> dict[str, Entry]:
    """Those of these entries that stand in this shard and set, withdrawn ones included."""
    found: dict[str, Entry] = {}
    chunks: dict[tuple[Kind, int], Chunk] = {}
    for one, (kind, slot) in (await store.find(shard, entry_ids)).items():
        number, at = divmod(slot, CHUNK_SLOTS)
        if (kind, number) not in chunks:
            chunks[kind, number] = await store.read_chunk(shard, kind, number)
        chunk = chunks[kind, number]
        slots = _slots(chunk)
        if at < len(slots) and _of_set(kind, slots[at : at + 1], of).any():
            found[one] = _unpack(kind, chunk, at, of)
    return found


async def _chunks(store: Store) -> AsyncIterator[tuple[int, Kind, Chunk]]:
    for shard in range(store.shards):
        counts = (await store.head(shard)).counts
        for kind in KINDS:
            for number in range(-(-counts.get(kind, 0) // CHUNK_SLOTS)):
                yield shard, kind, await store.read_chunk(shard, kind, number)


def _slots(chunk: Chunk) -> npt.NDArray[np.uint8]:
    return np.frombuffer(chunk.slots, np.uint8).reshape(-1, SLOT_BYTES)


def _of_set(kind: Kind, slots: npt.NDArray[np.uint8], of: Set) -> npt.NDArray[np.bool_]:
    """Which slots belong to a set, but for accepted damage that is no entry: no search finds it, none can show it."""
    form = SLOT_FORMS[kind]
    number = np.frombuffer(of.number.to_bytes(form.set_bytes, "big"), np.uint8)
    own = (slots[:, form.set : form.set + form.set_bytes] == number).all(axis=1)
    legible = (slots[:, form.state] < len(ENTRY_STATES)) & (slots[:, form.flags] & 0x0F < len(FORMS))
    return np.asarray(own & legible)


def _entries(kind: Kind, chunk: Chunk, of: Set, only_active: bool) -> list[Entry]:
    slots = _slots(chunk)
    wanted = _of_set(kind, slots, of)
    if only_active:
        wanted &= slots[:, SLOT_FORMS[kind].state] == ACTIVE
    return [_unpack(kind, chunk, int(at), of) for at in np.flatnonzero(wanted)]


def _unpack(kind: Kind, chunk: Chunk, at: int, of: Set) -> Entry:
    image = chunk.slots[at * SLOT_BYTES : (at + 1) * SLOT_BYTES]
    side = chunk.sides[at * SIDE_BYTES : (at + 1) * SIDE_BYTES]
    return unpack(kind, image, side, {of.number: of.name})


def _line(entry: Entry, batch: Batch | None, long_name: str, of: Set) -> Line:
    return Line(
        kind=entry.kind,
        value=entry.value,
        form=entry.form,
        item=entry.item_name or long_name,
        labels=batch.labels if batch else (),
        note=batch.note if batch else "",
        origin=batch.origin if batch else of.origin,
        state=entry.state,
        quality=entry.quality,
        length=entry.length,
        entry=entry.id,
        added_ms=entry.added_ms,
    )
