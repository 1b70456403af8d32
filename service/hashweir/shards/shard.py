"""One shard in memory: its chunks byte for byte, and the sums that say whether they are what the store has.

Pure state. It follows the store, right or wrong; what of it may be used is for `known` and `follow` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hashweir.model import KINDS, Kind
from hashweir.ports import Chunk, Head, Position, SlotChange
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SUM_MODULUS, slot_sum


class Gap(Exception):
    """A change does not follow the one before it: something is missing or belongs to another history."""


@dataclass(slots=True)
class _Run:
    """A chunk: slots and side records in use, their sum, and the sequence up to which changes are in."""

    slots: bytearray
    sides: bytearray
    sum: int
    seq: int

    def __len__(self) -> int:
        return len(self.slots) // SLOT_BYTES


def chunk_sum(first: int, slots: bytes | bytearray, sides: bytes | bytearray) -> int:
    """Sum of a chunk whose first slot has the number `first`: 0 to 2^52-1."""
    pairs = zip(range(0, len(slots), SLOT_BYTES), range(0, len(sides), SIDE_BYTES), strict=True)
    return (
        sum(
            slot_sum(number, bytes(slots[slot : slot + SLOT_BYTES]), bytes(sides[side : side + SIDE_BYTES]))
            for number, (slot, side) in enumerate(pairs, first)
        )
        % SUM_MODULUS
    )


class Shard:
    """The slots and side records of every kind at one position. Not locked: one thread writes.

    Other threads may call `slot`: each of its two reads is one copy of a run of bytes.
    """

    def __init__(self, number: int) -> None:
        """An empty shard at epoch 0, sequence 0, which no store ever has."""
        self.number = number
        self.position = Position(epoch=0, seq=0)
        self.total = 0
        """Sum of all chunk sums mod 2^52."""
        self._runs: dict[Kind, list[_Run]] = {kind: [] for kind in KINDS}

    def counts(self) -> dict[Kind, int]:
        """Slots in use per kind, withdrawn ones included; kinds without slots are left out."""
        return {kind: count for kind in KINDS if (count := self.count(kind))}

    def count(self, kind: Kind) -> int:
        """Slots in use of one kind."""
        runs = self._runs[kind]
        return (len(runs) - 1) * CHUNK_SLOTS + len(runs[-1]) if runs else 0

    def sums(self, kind: Kind) -> list[int]:
        """One sum per chunk."""
        return [run.sum for run in self._runs[kind]]

    def chunk(self, kind: Kind, number: int) -> tuple[bytes, bytes]:
        """Copies of a chunk's slots and side records; empty where there is none."""
        runs = self._runs[kind]
        return (bytes(runs[number].slots), bytes(runs[number].sides)) if number < len(runs) else (b"", b"")

    def slot(self, kind: Kind, slot: int) -> tuple[bytes, bytes]:
        """A slot's image (64 bytes) and side record (40). Raises IndexError where it was never used."""
        number, within = divmod(slot, CHUNK_SLOTS)
        run = self._runs[kind][number]
        if within >= len(run):
            raise IndexError(slot)
        side, image = within * SIDE_BYTES, within * SLOT_BYTES
        return bytes(run.slots[image : image + SLOT_BYTES]), bytes(run.sides[side : side + SIDE_BYTES])

    def apply(self, change: SlotChange) -> bool:
        """Take the next change; False where the chunk was read later than it and so has it already.

        Raises Gap where its sequence is not the next one, its epoch another, its slot beyond the next free one, or
        its bytes no slot and side record.
        The shard is then as it was.
        """
        if change.position != Position(epoch=self.position.epoch, seq=self.position.seq + 1):
            raise Gap(f"shard {self.number}: {change.position} does not follow {self.position}")
        number, within = divmod(change.slot, CHUNK_SLOTS)
        runs = self._runs[change.kind]
        used = len(runs[number]) if number < len(runs) else 0
        covered = number < len(runs) and change.position.seq <= runs[number].seq
        if covered and within >= used:
            raise Gap(f"shard {self.number}: {change.kind} slot {change.slot} is not in the chunk that was read")
        if (len(change.image), len(change.side)) != (SLOT_BYTES, SIDE_BYTES):
            raise Gap(f"shard {self.number}: a change is not a slot and a side record")
        if not covered:
            if within > used or number > len(runs) or change.slot > self.count(change.kind):
                raise Gap(f"shard {self.number}: {change.kind} slot {change.slot} is beyond the next free one")
            if number == len(runs):
                runs.append(_Run(bytearray(), bytearray(), 0, 0))
            before = slot_sum(change.slot, *self.slot(change.kind, change.slot)) if within < used else 0
            grown = slot_sum(change.slot, change.image, change.side) - before
            run = runs[number]
            run.sides[within * SIDE_BYTES : (within + 1) * SIDE_BYTES] = change.side
            run.slots[within * SLOT_BYTES : (within + 1) * SLOT_BYTES] = change.image
            run.sum = (run.sum + grown) % SUM_MODULUS
            self.total = (self.total + grown) % SUM_MODULUS
        self.position = change.position
        return not covered

    def differing(self, kind: Kind, sums: Sequence[int]) -> list[int]:
        """Numbers of the chunks whose sums are not these; chunks that only one side has are among them."""
        mine = self.sums(kind)
        longest = max(len(mine), len(sums))
        return [n for n in range(longest) if n >= len(mine) or n >= len(sums) or mine[n] != sums[n]]

    def agrees(self, head: Head) -> bool:
        """Whether position, counts and total are those of a head."""
        there = {kind: count for kind, count in head.counts.items() if count}
        return (self.position, self.total, self.counts()) == (head.position, head.total, there)

    def replace(self, kind: Kind, number: int, chunk: Chunk) -> None:
        """Put a chunk that was read in place of the one there; an empty one cuts off it and all after it.

        Raises Gap where it would leave a hole before it. The sum is computed, not taken over.
        """
        runs = self._runs[kind]
        if number > len(runs) or (number and number == len(runs) and len(runs[-1]) < CHUNK_SLOTS):
            raise Gap(f"shard {self.number}: {kind} chunk {number} would leave a hole")
        if not chunk.slots:
            gone = runs[number:]
            del runs[number:]
            self.total = (self.total - sum(run.sum for run in gone)) % SUM_MODULUS
            return
        total = chunk_sum(number * CHUNK_SLOTS, chunk.slots, chunk.sides)
        run = _Run(bytearray(chunk.slots), bytearray(chunk.sides), total, chunk.position.seq)
        before = 0
        if number < len(runs):
            before = runs[number].sum
            runs[number] = run
        else:
            runs.append(run)
        self.total = (self.total + total - before) % SUM_MODULUS

    def rebase(self, position: Position) -> None:
        """Begin again from this position: changes after it are taken, except those that a chunk read later has.

        Call it before `replace`: a chunk that is kept may have been read in a history that is over, so its own
        sequence says nothing any more.
        """
        self.position = position
        for runs in self._runs.values():
            for run in runs:
                run.seq = 0

    def intact(self, kind: Kind, number: int) -> bool:
        """Whether a chunk's bytes still give the sum kept for it. Costs a SHA-1 per slot (about 1 ms a chunk)."""
        run = self._runs[kind][number]
        return chunk_sum(number * CHUNK_SLOTS, run.slots, run.sides) == run.sum
