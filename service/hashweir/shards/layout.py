"""How entries lie in a shard: ids, the 64-byte slot, the 40-byte side record and the sums over them.

The same bytes are written by the server function, read by followers and kept in local files, so every constant here
is part of layout version 1. `tests/vectors/layout.json` ties Python and Lua together.

    slot of pdq, sha256, md5, text    value 32 | entry 16 | item 8 | set u32 | state u8 | quality u8 | flags u8 | 0
    slot of tlsh                      value 35 | entry 16 | item 8 | set u24 | state u8 | flags u8
    side record                       batch 8 | added ms u64 | length u32 | flags u8 | 0 | item name 18

Integers are big-endian. The low four bits of a slot's flags are the form; an md5 is padded with zeros to 32 bytes;
a quality of 255 and a length of 2^32-1 mean "unknown".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from hashweir.hashing import HASHERS
from hashweir.model import ENTRY_STATES, FORMS, KINDS, Entry, Kind, framed

LAYOUT = 1
SLOT_BYTES = 64
SIDE_BYTES = 40
CHUNK_SLOTS = 1023
"""Slots per chunk: 65,472 bytes, just under the 64 KiB at which Redis' allocator would round up."""
SUM_MODULUS = 2**52
"""Sums stay exact in Lua's doubles (2^53) even while two of them are being added."""
NAME_BYTES = 18
UNKNOWN_QUALITY = 255
UNKNOWN_LENGTH = 2**32 - 1

_SLOT = struct.Struct(">32s16s8sIBBBx")
_TLSH_SLOT = struct.Struct(">35s16s8sBHBB")
_SIDE = struct.Struct(">8sQIBx18s")


@dataclass(frozen=True, slots=True)
class SlotForm:
    """Byte offsets of one slot form's fields. `set` is `set_bytes` wide; `quality` is None where there is none."""

    value: int
    entry: int
    item: int
    set: int
    set_bytes: int
    state: int
    quality: int | None
    flags: int


COMMON = SlotForm(value=0, entry=32, item=48, set=56, set_bytes=4, state=60, quality=61, flags=62)
TLSH = SlotForm(value=0, entry=35, item=51, set=59, set_bytes=3, state=62, quality=None, flags=63)
SLOT_FORMS: Mapping[Kind, SlotForm] = {kind: TLSH if kind == "tlsh" else COMMON for kind in KINDS}


def shard_of(value: bytes, shards: int) -> int:
    """The shard (0 to shards-1) that holds a hash value."""
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "big") % shards


def entry_id(set_name: str, kind: Kind, form: str, value: bytes) -> str:
    """Entry id as 32 hex: the same hash in the same set is always the same entry."""
    framed_value = len(value).to_bytes(4, "big") + value  # `framed`, of which an import has one a row
    return hashlib.blake2b(_frame(set_name, kind, form) + framed_value, digest_size=16).hexdigest()


@lru_cache(256)
def item_id(set_name: str, item_name: str) -> str:
    """Item id as 16 hex, for a named item of a set."""
    return hashlib.blake2b(_frame(set_name) + framed(item_name.encode()), digest_size=8).hexdigest()


@lru_cache(256)
def _frame(*names: str) -> bytes:
    """What the ids of an import begin with, all of them."""
    return framed(*(name.encode() for name in names))


def slot_sum(slot: int, image: bytes, side: bytes) -> int:
    """A slot's share of its chunk's sum: the first 52 bits of SHA-1(slot number u32, slot, side record).

    SHA-1 because every server's Lua has it; it guards against accidents, not against an attacker with write access.
    """
    return int(hashlib.sha1(slot.to_bytes(4, "big") + image + side, usedforsecurity=False).hexdigest()[:13], 16)


def digest(slots: bytes | memoryview, sides: bytes | memoryview) -> bytes:
    """What tells two copies of a chunk apart: SHA-1 of its slots, then SHA-1 of its side records (40 bytes)."""
    runs = (hashlib.sha1(run, usedforsecurity=False).digest() for run in (slots, sides))
    return b"".join(runs)


def pack(entry: Entry, set_number: int, value: bytes | None = None) -> tuple[bytes, bytes]:
    """Slot and side record of an entry. Raises InputError(bad_value) where its value is malformed.

    `value` is the entry's as bytes, where it was parsed already.
    """
    value = HASHERS[entry.kind].parse(entry.value) if value is None else value
    state, form = ENTRY_STATES.index(entry.state), FORMS.index(entry.form)
    ids = bytes.fromhex(entry.id), bytes.fromhex(entry.item)
    if entry.kind == "tlsh":
        slot = _TLSH_SLOT.pack(value, *ids, set_number >> 16, set_number & 0xFFFF, state, form)
    else:
        quality = UNKNOWN_QUALITY if entry.quality is None else entry.quality
        slot = _SLOT.pack(value, *ids, set_number, state, quality, form)
    length = UNKNOWN_LENGTH if entry.length is None else entry.length
    name = entry.item_name.encode()
    side = _SIDE.pack(
        bytes.fromhex(entry.batch or "00" * 8),
        entry.added_ms,
        length,
        0,
        name if len(name) <= NAME_BYTES else b"",
    )
    return slot, side


def unpack(kind: Kind, image: bytes, side: bytes, set_names: Mapping[int, str]) -> Entry:
    """The entry in a slot. Raises KeyError where its set number is not (yet) known."""
    quality: int | None = None
    if kind == "tlsh":
        value, entry, item, high, low, state, flags = _TLSH_SLOT.unpack(image)
        number = high << 16 | low
    else:
        value, entry, item, number, state, byte, flags = _SLOT.unpack(image)
        quality = None if byte == UNKNOWN_QUALITY else byte
    batch, added_ms, length, _, name = _SIDE.unpack(side)
    return Entry(
        id=entry.hex(),
        set=set_names[number],
        kind=kind,
        form=FORMS[flags & 0x0F],
        value=HASHERS[kind].show(value[: HASHERS[kind].width]),
        item=item.hex(),
        item_name=name.rstrip(b"\0").decode(errors="replace"),  # only damaged ones are not UTF-8
        state=ENTRY_STATES[state],
        quality=quality,
        length=None if length == UNKNOWN_LENGTH else length,
        batch="" if batch == bytes(8) else batch.hex(),
        added_ms=added_ms,
    )
