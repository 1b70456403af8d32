"""What the keys of `hashweir_1.lua` hold, as values."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from hashweir.errors import Refused
from hashweir.model import KINDS, Batch, Set
from hashweir.ports import Head, Position, SlotChange
from hashweir.shards.layout import LAYOUT, SIDE_BYTES, SLOT_BYTES

HEAD_FIELDS = ("layout", "epoch", "seq", "total", *(f"n:{kind}" for kind in KINDS))
_TIME_BYTES = 8
_CHANGE = struct.Struct(f">BI{SLOT_BYTES}s{SIDE_BYTES}s")


def new_epoch(above: int = 0) -> int:
    """64 random bits. Stream ids begin with them and 0-0 is none, so they are never 0.

    `above` an earlier epoch, where there is room: XREAD wakes for larger ids only.
    """
    room = 2**64 - 1 - above
    return above + 1 + secrets.randbelow(room) if room > 2**32 else secrets.randbelow(above - 1) + 1


def milliseconds(now: Sequence[bytes]) -> int:
    """The reply of TIME as milliseconds since 1970."""
    return int(now[0]) * 1000 + int(now[1]) // 1000


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Raises Refused(store_refused) where this can't be read here: damaged, or written by a newer version."""
    try:
        yield
    except (TypeError, ValueError, struct.error, msgspec.MsgspecError) as error:
        raise Refused("store_refused", f"{what} can't be read by this version: {error}") from None


def check_layout(layout: bytes) -> None:
    """Raises Refused(store_layout) where another version made the store."""
    if layout != b"%d" % LAYOUT:
        raise Refused("store_layout", f"the store has layout {layout.decode()}, this program {LAYOUT}")


def read_head(row: Sequence[bytes | None], time_ms: int, role: str, replication_id: str) -> Head:
    """A head from its `HEAD_FIELDS`. Raises Refused(store_not_created | store_layout | store_refused)."""
    layout, epoch, seq, total, *counts = row
    if layout is None or epoch is None or seq is None or total is None:
        raise Refused("store_not_created")
    check_layout(layout)
    with readable("a head"):
        return Head(
            layout=int(layout),
            position=Position(int(epoch), int(seq)),
            counts={kind: int(count) for kind, count in zip(KINDS, counts, strict=True) if count is not None},
            total=int(total),
            time_ms=time_ms,
            role=role,
            replication_id=replication_id,
        )


def read_record(shard: int, id_: bytes, fields: Sequence[bytes], after: Position) -> list[SlotChange]:
    """The changes of one record of a change stream, those up to a position left out. An epoch's first record has none.

    Raises Refused(store_refused) for a record that no writer of ours wrote.
    """
    try:
        epoch, last = map(int, id_.split(b"-"))
        at_ms = int.from_bytes(fields[1][:_TIME_BYTES], "big")
        rows = list(_CHANGE.iter_unpack(memoryview(fields[1])[_TIME_BYTES:]))
        # Who stands within the epoch is past its first record. An empty one there would be read again and again.
        if len(fields[1]) < _TIME_BYTES or (not rows and after.epoch == epoch and after.seq):
            raise ValueError("a record has changes")
        changes = [
            SlotChange(
                shard=shard,
                position=Position(epoch, seq),
                kind=KINDS[kind],
                slot=slot,
                image=image,
                side=side,
                at_ms=at_ms,
            )
            for seq, (kind, slot, image, side) in enumerate(rows, last - len(rows) + 1)
        ]
    except (ValueError, IndexError, struct.error):
        raise Refused("store_refused", f"shard {shard}: the change {id_!r} is damaged") from None
    return changes if after.epoch != epoch else [change for change in changes if change.position.seq > after.seq]


def read_set(stored: bytes) -> Set:
    """A set as it is stored: number, version and policy. Raises Refused(store_refused)."""
    with readable(f"the set {stored[:80].decode(errors='replace')}..."):
        number, version, policy = stored.split(b" ", 2)
        plain = msgspec.json.decode(policy, type=Set)
        return msgspec.structs.replace(plain, number=int(number), version=int(version))


def read_batch(batch_id: str, stored: bytes) -> Batch:
    """A provenance record. Raises Refused(store_refused)."""
    with readable(f"the batch {batch_id}"):
        return msgspec.json.decode(stored, type=Batch)


def read_sums(stored: bytes) -> list[int]:
    """Chunk sums, 8 bytes each. Raises Refused(store_refused)."""
    with readable("the sums of chunks"):
        return list(struct.unpack(f">{len(stored) // 8}Q", stored))
