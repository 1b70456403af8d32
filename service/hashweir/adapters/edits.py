"""A part of an operation, checked and turned into what a store writes; shared by the real store and its twin."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from hashweir.errors import InputError
from hashweir.hashing import HASHERS
from hashweir.model import KINDS, Kind
from hashweir.ports import Edit, EditResult, Part
from hashweir.shards import layout

MOST_EDITS = 256
NAME_LIMIT = 512
"""Bytes of an item's name."""
RESULTS: Mapping[str, EditResult] = {
    "A": "added",
    "R": "reactivated",
    "W": "withdrawn",
    "U": "unchanged",
    "N": "not_found",
}


@dataclass(frozen=True, slots=True)
class PackedEdit:
    """One edit as bytes. A withdrawal has no slot and side; `name` is set where it outgrows the side record."""

    adds: bool
    kind: Kind
    entry: bytes
    slot: bytes = b""
    side: bytes = b""
    name: bytes = b""

    def wire(self) -> bytes:
        """The argument of the server function."""
        kind = bytes([KINDS.index(self.kind) + 1])
        if self.adds:
            return b"A" + kind + self.slot + self.side + self.name
        return b"W" + kind + self.entry


def pack_part(part: Part, shards: int) -> list[PackedEdit]:
    """Check a whole part. Raises InputError(operation_too_large | bad_value | bad_field)."""
    if not 1 <= len(part.edits) <= MOST_EDITS:
        raise InputError("operation_too_large", f"{len(part.edits)} changes; 1 to {MOST_EDITS} are allowed")
    if not part.operation or not 0 <= part.shard < shards:
        raise InputError("bad_field", f"operation {part.operation!r} on shard {part.shard} of {shards}")
    return [_pack(edit, part.shard, shards) for edit in part.edits]


def _pack(edit: Edit, shard: int, shards: int) -> PackedEdit:
    entry = edit.entry
    try:
        id_ = bytes.fromhex(entry.id)
        if len(id_) != 16:
            raise ValueError("an entry id is 16 bytes")
        if edit.verb == "withdraw":
            return PackedEdit(adds=False, kind=entry.kind, entry=id_)
        if entry.state == "retired":
            raise ValueError("nothing is added retired")
        name = entry.item_name.encode()
        if len(name) > NAME_LIMIT or b"\0" in name:
            raise ValueError(f"an item's name has at most {NAME_LIMIT} bytes and no NUL")
        if not 0 < edit.set_number < 2**24 or len(entry.item) != 16 or len(entry.batch) not in (0, 16):
            raise ValueError("set number, item or batch is out of range")
        slot, side = layout.pack(entry, edit.set_number)
    except (ValueError, struct.error) as e:
        raise InputError("bad_field", f"entry {entry.id}: {e}") from e
    value = HASHERS[entry.kind].parse(entry.value)
    if layout.shard_of(value, shards) != shard:
        raise InputError("bad_field", f"entry {entry.id} belongs into another shard than {shard}")
    if layout.entry_id(entry.set, entry.kind, entry.form, value) != entry.id:
        raise InputError("bad_field", f"entry id {entry.id} does not follow from its set, kind, form and value")
    long = name if len(name) > layout.NAME_BYTES else b""
    return PackedEdit(adds=True, kind=entry.kind, entry=id_, slot=slot, side=side, name=long)
