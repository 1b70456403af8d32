"""A store with many entries, written straight into the layout: seconds for what takes minutes entry by entry.

Ids are random; everything else is as the server function would leave it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access, Command, Link
from hashweir.model import Set
from hashweir.shards._sums import chunk_sum
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SUM_MODULUS

SHARDS = 16
PREFIX = "weir"


def chunk(rng: np.random.Generator, count: int, named: bool) -> tuple[bytes, bytes]:
    """Active entries of set 1 and one batch, added by an import: their times are a few milliseconds apart."""
    slots, sides = np.zeros((count, SLOT_BYTES), np.uint8), np.zeros((count, SIDE_BYTES), np.uint8)
    slots[:, :56] = rng.integers(0, 256, (count, 56), np.uint8)
    slots[:, 59], slots[:, 60], slots[:, 61] = 1, 2, rng.integers(50, 101, count, np.uint8)
    sides[:, :8] = 7
    sides[:, 8:16] = (1_700_000_000_000 + np.arange(count) // 30).astype(">u8").view(np.uint8).reshape(-1, 8)
    sides[:, 16:20] = 255
    if named:
        sides[:, 22:] = rng.integers(97, 123, (count, 18), np.uint8)
    return slots.tobytes(), sides.tobytes()


def dedupe(prefix: str, ids: np.ndarray[Any, Any]) -> list[Command]:
    """Linear hashing as in `hashweir_1.lua`: the place of each entry id (n, 16) under its first 6 bytes."""
    count = max(1, -(-len(ids) // 64))
    power = 1 << (count.bit_length() - 1)
    high = np.ascontiguousarray(ids[:, :4]).view(">u4").ravel().astype(np.int64)
    bucket = np.where(high % (2 * power) < count, high % (2 * power), high % power)
    fields = np.ascontiguousarray(ids[:, :6]).view("V6").ravel().tolist()
    order = np.argsort(bucket, kind="stable")
    commands: list[Command] = []
    for some in np.split(order, np.nonzero(np.diff(bucket[order]))[0] + 1):
        pairs = [part for slot in some.tolist() for part in (fields[slot], slot * 8 + 1)]
        commands.append(("HSET", f"{prefix}d:{bucket[some[0]]}", *pairs))
    return commands


async def fill(url: str, size: int, named: bool) -> None:
    """A store with so many entries."""
    store, link = RedisStore(Access(url=url), PREFIX), Link(Access(url=url, answer_s=60.0))
    await store.create(SHARDS)
    await store.open()
    await store.put_set("first", Set(name="known", owner="a team", origin="own-review", state="active"), 0)
    for shard in range(SHARDS):
        rng, prefix = np.random.default_rng(shard), f"{{{PREFIX}:{shard}}}:"
        count, sums, ids = size // SHARDS + (shard < size % SHARDS), list[int](), list[bytes]()
        for first in range(0, count, CHUNK_SLOTS):
            slots, sides = chunk(rng, min(CHUNK_SLOTS, count - first), named)
            sums.append(chunk_sum(first, slots, sides))
            number = first // CHUNK_SLOTS
            await link.exchange(
                ("SET", f"{prefix}c:pdq:{number}", slots.ljust(CHUNK_SLOTS * SLOT_BYTES, b"\0")),
                ("SET", f"{prefix}s:pdq:{number}", sides.ljust(CHUNK_SLOTS * SIDE_BYTES, b"\0")),
            )
            ids.append(np.frombuffer(slots, np.uint8).reshape(-1, SLOT_BYTES)[:, 32:48].tobytes())
        commands = dedupe(prefix, np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16)) if count else []
        for at in range(0, len(commands), 100):
            await link.exchange(*commands[at : at + 100])
        total = sum(sums) % SUM_MODULUS
        await link.exchange(
            ("SET", f"{prefix}sums:pdq", np.array(sums, ">u8").tobytes()),
            ("HSET", f"{prefix}head", "seq", count, "total", total, "entries", count, "n:pdq", count),
        )
    await store.close()
    await link.close()
