"""Many slots at once, as arrays: which changes can be taken together, what they add to sums, where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hashweir.model import Kind
from hashweir.ports import Position, SlotChange
from hashweir.shards._sums import slot_sums
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SLOT_FORMS
from hashweir.shards.records import Octets


def run_length(changes: Sequence[SlotChange], after: Position, count: int, seqs: Sequence[int]) -> int:
    """How many of the first changes follow each other, are of one kind, and change each slot once.

    `count` slots of that kind are in use: others must come one after the other. `seqs` are the sequences at which
    its chunks were read: what a chunk has already is for `Shard.apply`.
    """
    kind, epoch, seq, end = changes[0].kind, after.epoch, after.seq, count
    touched: set[int] = set()
    taken = 0
    for one in changes:
        slot, position, number = one.slot, one.position, one.slot // CHUNK_SLOTS
        follows = position.seq == seq + taken + 1 and position.epoch == epoch and one.kind == kind
        if not follows or len(one.image) != SLOT_BYTES or len(one.side) != SIDE_BYTES:
            break
        if slot > end or (slot < end and (slot >= count or slot in touched)):
            break
        if number < len(seqs) and position.seq <= seqs[number]:
            break
        if slot == end:
            end += 1
        else:
            touched.add(slot)
        taken += 1
    return taken


def shares(slots: NDArray[np.int64], images: bytes, sides: bytes) -> NDArray[np.int64]:
    """What each of these slots adds to its chunk's sum: below 2^52."""
    found = slot_sums(slots.astype(np.uint32).tobytes(), images, sides)
    return np.frombuffer(found, np.uint64).astype(np.int64)


def by_chunk(slots: NDArray[np.int64], differences: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Differences added up by chunk, in order of chunks. Of up to 1,023 slots a chunk, so below 2^62."""
    numbers = slots // CHUNK_SLOTS
    if (numbers == numbers[0]).all():
        return [(int(numbers[0]), int(differences.sum()))]
    chunks, where = np.unique(numbers, return_inverse=True)
    sums = np.zeros(len(chunks), np.int64)
    np.add.at(sums, where, differences)
    return list(zip(chunks.tolist(), sums.tolist(), strict=True))


def arrays(slots: bytes, sides: bytes) -> tuple[Octets, Octets]:
    """Slots (n, 64) and side records (n, 40)."""
    return (
        np.frombuffer(slots, np.uint8).reshape(-1, SLOT_BYTES),
        np.frombuffer(sides, np.uint8).reshape(-1, SIDE_BYTES),
    )


def entries_of(kind: Kind, images: Octets) -> list[bytes]:
    """The entry ids (16 bytes) of slots (n, 64)."""
    at = SLOT_FORMS[kind].entry
    found: list[bytes] = np.ascontiguousarray(images[:, at : at + 16]).view("V16").ravel().tolist()
    return found


def rows_differing(images: Octets, sides: Octets, old_images: Octets, old_sides: Octets) -> NDArray[np.intp]:
    """Rows in which two chunks differ, those that only one has included."""
    both = min(len(images), len(old_images))
    differs = changed(images[:both], sides[:both], old_images[:both], old_sides[:both])
    return np.concatenate([np.nonzero(differs)[0], np.arange(both, max(len(images), len(old_images)))])


def changed(images: Octets, sides: Octets, old_images: Octets, old_sides: Octets) -> NDArray[np.bool_]:
    """Which slots differ from what they were."""
    found: NDArray[np.bool_] = (images != old_images).any(axis=1) | (sides != old_sides).any(axis=1)
    return found
