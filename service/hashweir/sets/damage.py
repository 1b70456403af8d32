"""A chunk that does not give its sum, and the arithmetic by which a proposal is known to be what it held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from hashweir.model import KINDS, Kind, Value
from hashweir.ports import Chunk, Store
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SUM_MODULUS, slot_sum

Row = tuple[bytes, bytes]
"""A slot and its side record."""


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
        slots, sides = _cut(self.chunk.slots, SLOT_BYTES, count), _cut(self.chunk.sides, SIDE_BYTES, count)
        return list(zip(slots, sides, strict=True))


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
        yield count, len(there), None if missing(seen, seen.rows) == 0 else seen


def _cut(text: bytes, width: int, count: int) -> list[bytes]:
    text = text.ljust(count * width, b"\0")
    return [text[at : at + width] for at in range(0, count * width, width)]


def missing(damaged: Damaged, rows: Sequence[Row]) -> int:
    """By how much these rows miss the sum that is kept, mod 2^52."""
    first = damaged.number * CHUNK_SLOTS
    return (damaged.chunk.sum - sum(slot_sum(first + at, *row) for at, row in enumerate(rows))) % SUM_MODULUS


def one_of(
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


def distance(one: Row, other: Row) -> int:
    """In how many bytes two rows differ."""
    return sum(a != b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def one_byte(row: Row, at: int, values: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """The row of this place with one byte changed by xor with each of these values."""
    whole = bytearray(b"".join(row))
    for byte, kept in enumerate(bytes(whole)):
        for value in values:
            whole[byte] = kept ^ value
            yield at, (bytes(whole[:SLOT_BYTES]), bytes(whole[SLOT_BYTES:]))
        whole[byte] = kept
