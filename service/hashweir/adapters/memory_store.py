"""Shards and sets in this process: the twin of `adapters/redis.py`, with the same answers. Tests use it.

Long because it is the whole seam, once more.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from msgspec.structs import replace

from hashweir.adapters.edits import PackedEdit, edits_of, pack_part
from hashweir.adapters.redis_replies import new_epoch
from hashweir.errors import InputError, Refused
from hashweir.model import ENTRY_STATES, Batch, Kind, Set
from hashweir.ports import Applied, Chunk, EditResult, Head, PackedPart, Part, Position, SetsState, SlotChange
from hashweir.shards.layout import (
    CHUNK_SLOTS,
    LAYOUT,
    SIDE_BYTES,
    SLOT_BYTES,
    SLOT_FORMS,
    SUM_MODULUS,
    digest,
    slot_sum,
)

_RETIRED = ENTRY_STATES.index("retired")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class _Shard:
    number: int
    changes: deque[SlotChange]
    epoch: int = field(default_factory=new_epoch)
    seq: int = 0
    opening: Position | None = None
    """Where this history began, unless it is the first: it wakes who waits for changes after an earlier one."""
    slots: dict[Kind, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    sums: dict[Kind, list[int]] = field(default_factory=dict)
    places: dict[bytes, tuple[Kind, int]] = field(default_factory=dict)
    names: dict[bytes, bytes] = field(default_factory=dict)
    answers: dict[str, tuple[tuple[tuple[bool, bytes], ...], Applied]] = field(default_factory=dict)

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq)

    def opened_after(self, position: Position) -> bool:
        return self.opening is not None and self.opening > position

    def newer(self, than: Position) -> list[SlotChange]:
        """What came after a position; a walk from the newest on, for a tail is short and the whole may be long."""
        return list(takewhile(lambda change: change.position > than, reversed(self.changes)))[::-1]

    def apply_edit(self, edit: PackedEdit, now_ms: int) -> EditResult:
        place = self.places.get(edit.entry)
        if place is None:
            if not edit.adds:
                return "not_found"
            rows = self.slots.setdefault(edit.kind, [])
            self.places[edit.entry] = edit.kind, len(rows)
            self._write(edit.kind, len(rows), edit.slot, edit.side, now_ms)
            self._name(edit)
            return "added"
        kind, slot = place
        image, side = self.slots[kind][slot]
        if (image[SLOT_FORMS[kind].state] == _RETIRED) is not edit.adds or kind != edit.kind:
            return "unchanged"
        if edit.adds:
            self._write(kind, slot, edit.slot, edit.side, now_ms)
            self._name(edit)
            return "reactivated"
        at = SLOT_FORMS[kind].state
        self._write(kind, slot, image[:at] + bytes([_RETIRED]) + image[at + 1 :], side, now_ms)
        return "withdrawn"

    def _name(self, edit: PackedEdit) -> None:
        if edit.name:
            at = SLOT_FORMS[edit.kind].item
            self.names[edit.slot[at : at + 8]] = edit.name

    def _write(self, kind: Kind, slot: int, image: bytes, side: bytes, now_ms: int) -> None:
        rows, sums = self.slots.setdefault(kind, []), self.sums.setdefault(kind, [])
        difference = slot_sum(slot, image, side)
        if slot == len(rows):
            rows.append((image, side))
            if slot % CHUNK_SLOTS == 0:
                sums.append(0)
        else:
            difference -= slot_sum(slot, *rows[slot])
            rows[slot] = image, side
        chunk = slot // CHUNK_SLOTS
        sums[chunk] = (sums[chunk] + difference) % SUM_MODULUS
        self.tell(kind, slot, image, side, now_ms)

    def tell(self, kind: Kind, slot: int, image: bytes, side: bytes, now_ms: int) -> None:
        self.seq += 1
        self.changes.append(
            SlotChange(
                shard=self.number,
                position=self.position,
                kind=kind,
                slot=slot,
                image=image,
                side=side,
                at_ms=now_ms,
            )
        )

    def head(self, now_ms: int, replication_id: str) -> Head:
        return Head(
            layout=LAYOUT,
            position=self.position,
            counts={kind: len(rows) for kind, rows in self.slots.items()},
            total=sum(sum(sums) for sums in self.sums.values()) % SUM_MODULUS,
            time_ms=now_ms,
            role="master",
            replication_id=replication_id,
        )


class MemoryStore:
    """A `ports.Store` in one process and event loop. Operation answers never expire; nothing survives it.

    `now_ms` is the server's clock.
    """

    def __init__(self, *, stream_length: int = 100_000, now_ms: Callable[[], int] = _now_ms) -> None:
        """An empty store that is still to be created."""
        self.shards = 0
        self._stream_length = stream_length
        self._now_ms = now_ms
        self._replication_id = secrets.token_hex(20)
        self._shards: list[_Shard] = []
        self._sets: dict[str, Set] = {}
        self._set_answers: dict[str, tuple[Set, int, Set]] = {}
        self._batches: dict[str, Batch] = {}
        self._sets_position = Position(new_epoch(), 0)
        self._changed = asyncio.Condition()

    async def open(self) -> None:
        """Raises Refused(store_not_created)."""
        if not self._shards:
            raise Refused("store_not_created")
        self.shards = len(self._shards)

    async def create(self, shards: int) -> bool:
        """Make an empty deployment; False where one exists. Raises InputError(bad_field)."""
        if not 1 <= shards <= 1024:
            raise InputError("bad_field", f"{shards} shards; 1 to 1024 are allowed")
        if self._shards:
            self.shards = len(self._shards)
            return False
        self._shards = [_Shard(number=n, changes=deque(maxlen=self._stream_length)) for n in range(shards)]
        self.shards = shards
        return True

    async def apply(self, part: Part) -> Applied:
        """Apply a part whole, once, or not at all. Raises InputError, Refused."""
        return await self.apply_packed(pack_part(part, self.shards))

    async def apply_packed(self, part: PackedPart) -> Applied:
        """The same with bytes. Raises as `apply`."""
        edits = edits_of(part)
        shard = self._shard(part.shard)
        content = tuple((edit.adds, edit.entry) for edit in edits)
        known = shard.answers.get(part.operation)
        if known is not None:
            if known[0] != content:
                raise Refused("store_refused", "this operation id was used for other changes")
            return replace(known[1], repeated=True)
        now_ms = self._now_ms()
        results = tuple(shard.apply_edit(edit, now_ms) for edit in edits)
        applied = Applied(results=results, position=shard.position, repeated=False)
        shard.answers[part.operation] = content, applied
        await self._tell()
        return applied

    async def new_epoch(self, shard: int | None) -> Position:
        """Begin another history with what is there. Raises Refused."""
        if shard is None:
            self._shard(0)
            self._sets_position = replace(self._sets_position, epoch=new_epoch())
            await self._tell()
            return self._sets_position
        held = self._shard(shard)
        held.epoch = new_epoch(above=held.epoch)
        held.opening = held.position
        held.changes.clear()
        await self._tell()
        return held.position

    async def mend_chunk(
        self, shard: int, kind: Kind, number: int, seen: Chunk, right: tuple[bytes, bytes] | None
    ) -> Position:
        """Write what gives the chunk's sum, or accept what is there. Raises Refused(store_changed | bad_field)."""
        held, now = self._shard(shard), await self.read_chunk(shard, kind, number)
        if not now.slots or (now.slots, now.sides) != (seen.slots, seen.sides):
            raise Refused("store_changed", "the chunk was changed meanwhile")
        slots, sides = right or (now.slots, now.sides)
        if (len(slots), len(sides)) != (len(now.slots), len(now.sides)):
            raise Refused("bad_field", "these are not the slots and side records of this chunk")
        rows = [
            (slots[at * SLOT_BYTES : (at + 1) * SLOT_BYTES], sides[at * SIDE_BYTES : (at + 1) * SIDE_BYTES])
            for at in range(len(slots) // SLOT_BYTES)
        ]
        first = number * CHUNK_SLOTS
        total = sum(slot_sum(at, *row) for at, row in enumerate(rows, first)) % SUM_MODULUS
        if right and total != now.sum:
            raise Refused("bad_field", "this does not give the sum that is kept")
        held.sums[kind][number] = total
        for at, row in enumerate(rows, first):
            held.slots[kind][at] = row
            if right is None:
                held.tell(kind, at, *row, self._now_ms())
        await self._tell()
        return held.position

    async def put_set(self, operation: str, changed: Set, expected_version: int) -> Set:
        """Create or replace a set. Raises Refused(set_exists | set_not_found | set_changed)."""
        self._shard(0)
        policy = replace(changed, number=0, version=0)
        answer = self._set_answers.get(operation)
        if answer is not None:
            if answer[:2] != (policy, expected_version):
                raise Refused("store_refused", "this operation id was used for another change")
            return answer[2]
        now = self._sets.get(changed.name)
        if expected_version == 0 and now is not None:
            raise Refused("set_exists", changed.name)
        if expected_version != 0 and now is None:
            raise Refused("set_not_found", changed.name)
        if now is not None and now.version != expected_version:
            raise Refused("set_changed", f"{changed.name} is at version {now.version}")
        self._sets_position = replace(self._sets_position, seq=self._sets_position.seq + 1)
        number = len(self._sets) + 1 if now is None else now.number
        stored = replace(changed, number=number, version=self._sets_position.seq)
        self._sets[changed.name] = stored
        self._set_answers[operation] = policy, expected_version, stored
        await self._tell()
        return stored

    async def put_batch(self, batch_id: str, batch: Batch) -> None:
        """Store a provenance record; the first one of an id stays. Raises Refused."""
        self._shard(0)
        self._batches.setdefault(batch_id, batch)

    async def read_batches(self, batch_ids: Sequence[str]) -> dict[str, Batch]:
        """The provenance records that exist."""
        return {id_: self._batches[id_] for id_ in batch_ids if id_ in self._batches}

    async def head(self, shard: int) -> Head:
        """A shard's head. Raises Refused."""
        return self._shard(shard).head(self._now_ms(), self._replication_id)

    async def heads(self) -> list[Head]:
        """The heads of all shards."""
        now_ms = self._now_ms()
        return [shard.head(now_ms, self._replication_id) for shard in self._shards]

    async def sums(self, shard: int, kind: Kind) -> list[int]:
        """One sum per chunk. Raises Refused."""
        return list(self._shard(shard).sums.get(kind, ()))

    async def read_chunk(self, shard: int, kind: Kind, number: int) -> Chunk:
        """One chunk; empty beyond the last one. Raises Refused."""
        held = self._shard(shard)
        rows = held.slots.get(kind, [])[number * CHUNK_SLOTS : (number + 1) * CHUNK_SLOTS]
        return Chunk(
            slots=b"".join(slot for slot, _ in rows),
            sides=b"".join(side for _, side in rows),
            sum=held.sums[kind][number] if rows else 0,
            position=held.position,
        )

    async def digests(self, shard: int, kind: Kind, first: int, count: int) -> list[bytes]:
        """What `read_chunk` would give, digested. Raises Refused."""
        last = min(first + count, len(self._shard(shard).sums.get(kind, ())))
        chunks = [await self.read_chunk(shard, kind, number) for number in range(first, last)]
        return [digest(chunk.slots, chunk.sides) for chunk in chunks]

    async def read_changes(self, after: Mapping[int, Position], wait_ms: int, most: int) -> list[SlotChange]:
        """Changes after the positions. Raises Refused."""

        def read() -> list[SlotChange]:
            return [change for n, p in after.items() for change in self._shard(n).newer(p)[:most]]

        def ready() -> bool:
            return bool(read()) or any(self._shard(n).opened_after(p) for n, p in after.items())

        await self._wait(ready, wait_ms)
        return read()

    async def find(self, shard: int, entry_ids: Sequence[str]) -> dict[str, tuple[Kind, int]]:
        """Where these entries stand. Raises Refused."""
        places = self._shard(shard).places
        return {id_: places[bytes.fromhex(id_)] for id_ in entry_ids if bytes.fromhex(id_) in places}

    async def read_names(self, shard: int, items: Sequence[str]) -> dict[str, str]:
        """Item names too long for a side record. Raises Refused."""
        names = self._shard(shard).names
        return {item: names[bytes.fromhex(item)].decode() for item in items if bytes.fromhex(item) in names}

    async def read_sets(self) -> SetsState:
        """All sets. Raises Refused."""
        self._shard(0)
        return SetsState(position=self._sets_position, sets=tuple(self._sets.values()), time_ms=self._now_ms())

    async def wait_sets(self, after: Position, wait_ms: int) -> bool:
        """Wait until the sets' position differs from `after`. Raises Refused."""
        self._shard(0)
        return await self._wait(lambda: self._sets_position != after, wait_ms)

    async def close(self) -> None:
        """Nothing to close."""

    def _shard(self, number: int) -> _Shard:
        if not self._shards:
            raise Refused("store_not_created")
        return self._shards[number]

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, ready: Callable[[], bool], wait_ms: int) -> bool:
        try:
            async with asyncio.timeout(wait_ms / 1000), self._changed:
                await self._changed.wait_for(ready)
        except TimeoutError:
            pass
        return ready()
