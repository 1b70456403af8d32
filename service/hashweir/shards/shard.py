"""One shard in memory: which row each of its slots is, and the sums that say whether they are what the store has.

It follows the store, right or wrong; what of it may be used is for `known` and `follow` to say.

A *kept* withdrawal is an entry that was seen withdrawn and that the store, after it lost part of its history, has as
active. The shard holds what the store has (or no sum would agree); no search finds the entry.

Long because rows, sums and kept withdrawals change together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hashweir.model import KINDS, Kind
from hashweir.ports import Chunk, Head, Position, SlotChange
from hashweir.shards._sums import chunk_sum
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SLOT_FORMS, SUM_MODULUS, slot_sum
from hashweir.shards.records import Octets
from hashweir.shards.runs import arrays, by_chunk, changed, entries_of, rows_differing, run_length, shares
from hashweir.shards.snapshot import Snapshot
from hashweir.shards.tables import ACTIVE, Refs, Tables

_NO_ROWS: Refs = np.zeros(0, np.uint32)
_AT_ONCE = 8 * CHUNK_SLOTS
"""Slots per step of what goes through a whole shard: a fraction of a millisecond."""


class Gap(Exception):
    """A change does not follow the one before it: something is missing or belongs to another history."""


@dataclass(slots=True)
class _Slots:
    """One kind: the row of each slot (with room to grow), and per chunk its sum and the sequence that it has."""

    refs: Refs = field(default_factory=lambda: _NO_ROWS)
    count: int = 0
    sums: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)

    def resize(self, count: int) -> None:
        if count > len(self.refs):
            grown = np.zeros(max(256, count, len(self.refs) * 9 // 8), np.uint32)
            grown[: self.count] = self.refs[: self.count]
            self.refs = grown
        self.count = count


class Shard:
    """The slots of every kind at one position, as rows of tables that all shards share. One thread changes it."""

    def __init__(self, number: int, tables: Tables) -> None:
        """An empty shard at epoch 0, sequence 0, which no store ever has."""
        self.number = number
        self.position = Position(epoch=0, seq=0)
        self.total = 0
        """Sum of all chunk sums mod 2^52."""
        self.kept: set[bytes] = set()
        """Ids (16 bytes) of the entries whose withdrawal is kept against the store. Changed here alone."""
        self._kept_digest: bytes | None = None
        self._tables = tables
        self._kinds: dict[Kind, _Slots] = {kind: _Slots() for kind in KINDS}

    def counts(self) -> dict[Kind, int]:
        """Slots in use per kind, withdrawn ones included; kinds without slots are left out."""
        return {kind: slots.count for kind, slots in self._kinds.items() if slots.count}

    def count(self, kind: Kind) -> int:
        """Slots in use of one kind."""
        return self._kinds[kind].count

    def sums(self, kind: Kind) -> list[int]:
        """One sum per chunk."""
        return list(self._kinds[kind].sums)

    def refs(self, kind: Kind) -> Refs:
        """The row of each slot; may be written to, by who moves rows."""
        slots = self._kinds[kind]
        return slots.refs[: slots.count]

    def saved(self, kind: Kind) -> tuple[Refs, list[int], list[int]]:
        """Copies of the references of all slots, of the sums and of the sequences of all chunks."""
        slots = self._kinds[kind]
        return self.refs(kind).copy(), list(slots.sums), list(slots.seqs)

    def adopt(
        self, position: Position, kept: Iterable[bytes], kinds: Mapping[Kind, tuple[Refs, list[int], list[int]]]
    ) -> None:
        """Begin with what another process had, in place of nothing. Checked by `restored`: one sum per chunk."""
        self.position, self.kept, self._kept_digest = position, set(kept), None
        for kind, (refs, sums, seqs) in kinds.items():
            self._kinds[kind] = _Slots(refs, len(refs), sums, seqs)
        self.total = sum(sum(slots.sums) for slots in self._kinds.values()) % SUM_MODULUS

    def snapshot(self, kind: Kind, number: int) -> Snapshot:
        """A chunk as it is now; empty where there is none."""
        slots, first = self._kinds[kind], number * CHUNK_SLOTS
        refs = self.refs(kind)[first : first + CHUNK_SLOTS].copy()
        total = slots.sums[number] if number < len(slots.sums) else 0
        return Snapshot(kind, first, refs, total, self._tables.reading())

    def slot(self, kind: Kind, slot: int) -> tuple[bytes, bytes]:
        """A slot's image (64 bytes) and side record (40). Raises IndexError where it was never used."""
        if not 0 <= slot < self.count(kind):
            raise IndexError(slot)
        images, sides = self._tables.reading().take(kind, self.refs(kind)[slot : slot + 1])
        return images.tobytes(), sides.tobytes()

    def apply(self, change: SlotChange) -> bool:
        """Take the next change; False where the chunk was read later than it and so has it already.

        Raises Gap where its sequence is not the next one, its epoch another, its slot beyond the next free one, or
        its bytes no slot and side record.
        The shard is then as it was.
        """
        if change.position != Position(epoch=self.position.epoch, seq=self.position.seq + 1):
            raise Gap(f"shard {self.number}: {change.position} does not follow {self.position}")
        kind, slot, fields = change.kind, change.slot, SLOT_FORMS[change.kind]
        slots, number = self._kinds[kind], slot // CHUNK_SLOTS
        covered = number < len(slots.sums) and change.position.seq <= slots.seqs[number]
        if covered and slot >= slots.count:
            raise Gap(f"shard {self.number}: {kind} slot {slot} is not in the chunk that was read")
        if (len(change.image), len(change.side)) != (SLOT_BYTES, SIDE_BYTES):
            raise Gap(f"shard {self.number}: a change is not a slot and a side record")
        if slot > slots.count:
            raise Gap(f"shard {self.number}: {kind} slot {slot} is beyond the next free one")
        before = self.slot(kind, slot) if slot < slots.count else None
        self.position = change.position
        entry = change.image[fields.entry : fields.entry + 16]
        shown = change.image[fields.state] == ACTIVE and entry in self.kept
        if shown:
            # The store said so after its loss was seen: somebody meant it.
            self.kept.discard(entry)
            self._kept_digest = None
        now = before if covered and before else (change.image, change.side)
        if now != before or shown:
            self._put(kind, slot, *now)
        if covered:
            return False
        self._grow(kind, number, slot_sum(slot, *now) - (slot_sum(slot, *before) if before else 0))
        return True

    def extend(self, changes: Sequence[SlotChange]) -> int:
        """Take the first of these changes, as many as can be taken at once; how many. 0 where `apply` has to judge."""
        kind = changes[0].kind
        slots, count = self._kinds[kind], self.count(kind)
        taken = run_length(changes, self.position, count, slots.seqs)
        if self.kept:
            entry = slice(SLOT_FORMS[kind].entry, SLOT_FORMS[kind].entry + 16)
            taken = next((n for n, one in enumerate(changes[:taken]) if one.image[entry] in self.kept), taken)
        if taken < 2:
            return 0
        some = changes[:taken]
        images, sides = b"".join(one.image for one in some), b"".join(one.side for one in some)
        rows, at = arrays(images, sides), np.fromiter((one.slot for one in some), np.int64, taken)
        differences = shares(at, images, sides)
        put = at >= count
        slots.resize(max(count, int(at.max()) + 1))
        if not put.all():
            old = np.nonzero(~put)[0]
            refs = slots.refs[at[old]]
            before = self._tables.reading().take(kind, refs)
            differences[old] -= shares(at[old], *(column.tobytes() for column in before))
            put[old] = differs = changed(rows[0][old], rows[1][old], *before)
            self._tables.retire(kind, refs[differs], before[0][differs])
        if put.any():
            slots.refs[at[put]] = self._tables.add(kind, rows[0][put], rows[1][put], self.kept)
        for number, difference in by_chunk(at, differences):
            self._grow(kind, number, difference)
        self.position = some[-1].position
        return taken

    def _grow(self, kind: Kind, number: int, difference: int) -> None:
        """Add to a chunk's sum and the total."""
        slots = self._kinds[kind]
        if number == len(slots.sums):
            slots.sums.append(0)
            slots.seqs.append(0)
        slots.sums[number] = (slots.sums[number] + difference) % SUM_MODULUS
        self.total = (self.total + difference) % SUM_MODULUS

    def differing(self, kind: Kind, sums: Sequence[int]) -> list[int]:
        """Numbers of the chunks whose sums are not these; chunks that only one side has are among them."""
        mine = self._kinds[kind].sums
        longest = max(len(mine), len(sums))
        return [n for n in range(longest) if n >= len(mine) or n >= len(sums) or mine[n] != sums[n]]

    def agrees(self, head: Head) -> bool:
        """Whether position, counts and total are those of a head."""
        there = {kind: count for kind, count in head.counts.items() if count}
        return (self.position, self.total, self.counts()) == (head.position, head.total, there)

    def replace(self, kind: Kind, number: int, chunk: Chunk, total: int | None = None) -> list[int]:
        """Put a chunk that was read in place of the one there; the numbers of the slots that differ.

        An empty one cuts off it and all after it. Raises Gap where it would leave a hole, before it or behind it,
        ValueError where its bytes are no slots and side records. `total` is its bytes' sum, where it was computed
        already; the store's is never taken over.
        """
        slots, first = self._kinds[kind], number * CHUNK_SLOTS
        used, last = len(chunk.slots) // SLOT_BYTES, number >= len(slots.sums) - 1
        if number > len(slots.sums) or first > slots.count or (used and used < CHUNK_SLOTS and not last):
            raise Gap(f"shard {self.number}: {kind} chunk {number} would leave a hole")
        if total is None:
            total = chunk_sum(first, chunk.slots, chunk.sides)
        images, sides = arrays(chunk.slots, chunk.sides)
        old = self.refs(kind)[first : first + CHUNK_SLOTS if used else None].copy()
        before = self._tables.reading().take(kind, old)
        unlike = rows_differing(images, sides, *before)
        left = unlike[unlike < len(old)]
        self._tables.retire(kind, old[left], before[0][left])
        slots.resize(first + used if last or not used else slots.count)
        here = unlike[unlike < used]
        if here.size:
            slots.refs[first + here] = self._tables.add(kind, images[here], sides[here], self.kept)
        gone = sum(slots.sums[number : number + 1] if used else slots.sums[number:])
        if used:
            slots.sums[number : number + 1] = [total]
            slots.seqs[number : number + 1] = [chunk.position.seq]
        else:
            del slots.sums[number:], slots.seqs[number:]
        self.total = (self.total + total - gone) % SUM_MODULUS
        return list((first + unlike).tolist())

    def rebase(self, position: Position) -> None:
        """Begin again from this position: changes after it are taken, except those that a chunk read later has.

        Call it before `replace`: a chunk that is kept may have been read in a history that is over, so its own
        sequence says nothing any more.
        """
        self.position = position
        for slots in self._kinds.values():
            slots.seqs = [0] * len(slots.seqs)

    # ── withdrawals kept against the store ──

    def keep(self, kind: Kind, number: int) -> None:
        """Keep every withdrawal of this chunk, as it is now, whatever a re-read will say of the same entries."""
        first, fields = number * CHUNK_SLOTS, SLOT_FORMS[kind]
        _, images, _ = self._hidden(kind, first, first + CHUNK_SLOTS)
        self.kept.update(entries_of(kind, images[images[:, fields.state] != ACTIVE]))
        self._kept_digest = None

    def settle(self) -> Iterator[None]:
        """After a re-read, in small steps: forget kept withdrawals on which the store agrees."""
        still = set[bytes]()
        for kind, _, images, _ in self._suppressed(self.kept):
            still.update(entries_of(kind, images))
            yield
        if still != self.kept:
            self.kept, self._kept_digest = still, None

    def kept_digest(self) -> bytes:
        """The same for the same entries kept, empty for none. Made anew only after they changed: they may be many."""
        if self._kept_digest is None:
            # Ids are digests: their sums tell sets of them apart, in any order, in a tenth of the time of sorting.
            sums = np.frombuffer(b"".join(self.kept), "<u8").reshape(-1, 2).sum(axis=0)
            self._kept_digest = hashlib.blake2b(sums.tobytes(), digest_size=16).digest() if self.kept else b""
        return self._kept_digest

    def release(self) -> Iterator[tuple[Kind, NDArray[np.int64], Octets, Octets]]:
        """Take the store's word for everything again, in small steps: it was reconciled.

        Each gives slots that are active again: kind, numbers, slots, side records.
        """
        kept, self.kept, self._kept_digest = self.kept, set(), None
        for kind, at, images, sides in self._suppressed(kept):
            if at.size:
                refs = self.refs(kind)
                self._tables.retire(kind, refs[at], images)
                refs[at] = self._tables.add(kind, images, sides, self.kept)
            yield kind, at, images, sides

    def _suppressed(self, kept: Set[bytes]) -> Iterator[tuple[Kind, NDArray[np.int64], Octets, Octets]]:
        """Active slots whose entry is kept withdrawn: kind, numbers, slots, side records. Some chunks at a time."""
        for kind, fields in SLOT_FORMS.items():
            for first in range(0, self.count(kind) if kept else 0, _AT_ONCE):
                at, images, sides = self._hidden(kind, first, first + _AT_ONCE)
                here = images[:, fields.state] == ACTIVE
                here[here] = [entry in kept for entry in entries_of(kind, images[here])]
                yield kind, at[here], images[here], sides[here]

    def _hidden(self, kind: Kind, first: int, end: int) -> tuple[NDArray[np.int64], Octets, Octets]:
        """Numbers, images and side records of those slots, of a range, that no search finds."""
        refs = self.refs(kind)[first:end]
        at = np.nonzero(self._tables.hidden(kind, refs))[0]
        return first + at, *self._tables.reading().take(kind, refs[at])

    def _put(self, kind: Kind, slot: int, image: bytes, side: bytes) -> None:
        """A new row for a slot, in place of the one that it may have."""
        slots = self._kinds[kind]
        if slot < slots.count:
            refs = slots.refs[slot : slot + 1]
            self._tables.retire(kind, refs, self._tables.reading().take(kind, refs)[0])
        slots.resize(max(slots.count, slot + 1))
        slots.refs[slot : slot + 1] = self._tables.add(kind, *arrays(image, side), self.kept)
