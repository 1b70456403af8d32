"""A part of an operation, checked and turned into what a store writes; shared by the real store and its twin."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hashweir.errors import InputError
from hashweir.hashing import HASHERS
from hashweir.model import KINDS, Kind
from hashweir.ports import Edit, EditResult, PackedPart, Part
from hashweir.shards import layout

MOST_EDITS = 256
NAME_LIMIT = 512
"""Bytes of an item's name."""
VERBS: Mapping[Literal["add", "withdraw"], bytes] = {"add": b"A", "withdraw": b"W"}
RESULTS: Mapping[str, EditResult] = {
    "A": "added",
    "R": "reactivated",
    "W": "withdrawn",
    "U": "unchanged",
    "N": "not_found",
}


@dataclass(frozen=True, slots=True)
class PackedEdit:
    """One edit as bytes. Of a withdrawal's slot only the entry id counts; `name` is what outgrows the side record."""

    adds: bool
    kind: Kind
    entry: bytes
    slot: bytes
    side: bytes
    name: bytes


def edits_of(part: PackedPart) -> list[PackedEdit]:
    """The edits of a part, checked as the server function does. Raises InputError(operation_too_large | bad_field)."""
    count = len(part.verbs) // 2
    if not 1 <= count <= MOST_EDITS:
        raise InputError("operation_too_large", f"an operation holds 1 to {MOST_EDITS} changes")
    lengths = len(part.verbs), len(part.slots), len(part.sides)
    if lengths != (2 * count, layout.SLOT_BYTES * count, layout.SIDE_BYTES * count):
        raise InputError("bad_field", "a change is 2 bytes, a slot of 64 and a side record of 40")
    names = dict(part.names)
    edits = []
    for at in range(count):
        verb, number = part.verbs[2 * at], part.verbs[2 * at + 1]
        if verb not in b"AW" or not 1 <= number <= len(KINDS):
            raise InputError("bad_field", f"change {at + 1}: unknown verb or kind")
        kind = KINDS[number - 1]
        slot = part.slots[at * layout.SLOT_BYTES : (at + 1) * layout.SLOT_BYTES]
        side = part.sides[at * layout.SIDE_BYTES : (at + 1) * layout.SIDE_BYTES]
        form = layout.SLOT_FORMS[kind]
        id_ = slot[form.entry : form.entry + 16]
        edits.append(PackedEdit(verb == ord("A"), kind, id_, slot, side, names.get(at, "").encode()))
    return edits


def pack_part(part: Part, shards: int) -> PackedPart:
    """Check a whole part. Raises InputError(operation_too_large | bad_value | bad_field)."""
    if not 1 <= len(part.edits) <= MOST_EDITS:
        raise InputError("operation_too_large", f"{len(part.edits)} changes; 1 to {MOST_EDITS} are allowed")
    if not part.operation or not 0 <= part.shard < shards:
        raise InputError("bad_field", f"operation {part.operation!r} on shard {part.shard} of {shards}")
    rows = [_pack(edit, part.shard, shards) for edit in part.edits]
    names = enumerate(edit.entry.item_name for edit in part.edits)
    return PackedPart(
        operation=part.operation,
        shard=part.shard,
        principal=part.principal,
        verbs=b"".join(VERBS[edit.verb] + bytes([KINDS.index(edit.entry.kind) + 1]) for edit in part.edits),
        slots=b"".join(slot for slot, _ in rows),
        sides=b"".join(side for _, side in rows),
        names=tuple((at, name) for at, name in names if len(name.encode()) > layout.NAME_BYTES),
    )


def _pack(edit: Edit, shard: int, shards: int) -> tuple[bytes, bytes]:
    entry = edit.entry
    try:
        id_ = bytes.fromhex(entry.id)
        if len(id_) != 16:
            raise ValueError("an entry id is 16 bytes")
        if edit.verb == "withdraw":
            at = layout.SLOT_FORMS[entry.kind].entry
            return (bytes(at) + id_).ljust(layout.SLOT_BYTES, b"\0"), bytes(layout.SIDE_BYTES)
        if entry.state == "retired":
            raise ValueError("nothing is added retired")
        name = entry.item_name.encode()
        if len(name) > NAME_LIMIT or b"\0" in name:
            raise ValueError(f"an item's name has at most {NAME_LIMIT} bytes and no NUL")
        if not 0 < edit.set_number < 2**24 or len(entry.item) != 16 or len(entry.batch) not in (0, 16):
            raise ValueError("set number, item or batch is out of range")
        packed = layout.pack(entry, edit.set_number)
    except (ValueError, struct.error) as e:
        raise InputError("bad_field", f"entry {entry.id}: {e}") from e
    value = HASHERS[entry.kind].parse(entry.value)
    if layout.shard_of(value, shards) != shard:
        raise InputError("bad_field", f"entry {entry.id} belongs into another shard than {shard}")
    if layout.entry_id(entry.set, entry.kind, entry.form, value) != entry.id:
        raise InputError("bad_field", f"entry id {entry.id} does not follow from its set, kind, form and value")
    return packed
