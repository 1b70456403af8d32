"""Bytes per entry, import rate and the price of a head, on real servers: `python -m tests.bench.store [ENTRIES]`."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import sys
import time
from typing import Any

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access, Link
from hashweir.model import Entry
from hashweir.ports import Edit, Part
from hashweir.shards import layout
from tests.servers.store import RedisServer, ValkeyServer

SHARDS = 16
SEED = 1


def parts(size: int) -> list[Part]:
    """Random PDQ entries without names, sorted by shard, as an import sends them."""
    rng = random.Random(SEED)
    edits: list[list[Edit]] = [[] for _ in range(SHARDS)]
    for _ in range(size):
        value = rng.randbytes(32)
        entry = Entry(
            id=layout.entry_id("known", "pdq", "canonical", value),
            set="known",
            kind="pdq",
            form="canonical",
            value=value.hex(),
            item=rng.randbytes(8).hex(),
            quality=rng.randrange(101),
            batch="11" * 8,
            added_ms=1_700_000_000_000,
        )
        edits[layout.shard_of(value, SHARDS)].append(Edit(verb="add", entry=entry, set_number=1))
    return [
        Part(operation=f"{shard}-{at}", shard=shard, principal="bench", edits=tuple(rows[at : at + 256]))
        for shard, rows in enumerate(edits)
        for at in range(0, len(rows), 256)
    ]


async def info(link: Link, section: str) -> dict[str, str]:
    (text,) = await link.exchange(("INFO", section))
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)


async def cpu_s(link: Link) -> float:
    """Seconds of processor time that the server has used: unlike a clock, no neighbour on the machine adds to it."""
    usage = await info(link, "cpu")
    return float(usage["used_cpu_user"]) + float(usage["used_cpu_sys"])


async def timed(repeats: int, what: Any) -> float:
    """Seconds per call."""
    began = time.perf_counter()
    for _ in range(repeats):
        await what()
    return (time.perf_counter() - began) / repeats


async def measure(server: RedisServer | ValkeyServer, size: int) -> dict[str, Any]:
    store, link = RedisStore(Access(url=server.url), "weir"), Link(Access(url=server.url))
    await store.create(SHARDS)
    await store.open()
    before = int((await info(link, "memory"))["used_memory"])
    work = parts(size)
    busy = await cpu_s(link)
    began = time.perf_counter()
    for part in work:
        await store.apply(part)
    seconds = time.perf_counter() - began
    busy = await cpu_s(link) - busy
    after = int((await info(link, "memory"))["used_memory"])
    kinds = {"slots": "c:pdq:", "sides": "s:pdq:", "dedupe": "d:", "changes": "changes", "answers": "op:"}
    weights = {}
    for name, middle in kinds.items():
        (keys,) = await link.exchange(("KEYS", f"*}}:{middle}*"))
        weights[name] = sum(await link.exchange(*(("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys))) / size
    head_s = await timed(500, store.heads)
    chunk_s = await timed(200, lambda: store.read_chunk(0, "pdq", 0))
    one = [Part(operation=f"one-{n}", shard=0, principal="b", edits=(work[0].edits[0],)) for n in range(500)]
    again = iter(one)
    repeat_s = await timed(500, lambda: store.apply(next(again)))
    await store.close()
    await link.close()
    return {
        "server": server.version().split(" sha")[0],
        "entries": size,
        "bytes_per_entry": round((after - before) / size, 1),
        "of_which": {name: round(weight, 1) for name, weight in weights.items()},
        "import_per_s": round(size / seconds),
        "server_cpu_us_per_edit": round(busy / size * 1e6, 1),
        "heads_of_16_us": round(head_s * 1e6),
        "chunk_read_us": round(chunk_s * 1e6),
        "part_of_one_us": round(repeat_s * 1e6),
    }


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    print(json.dumps({"seed": SEED, "cpus": os.cpu_count(), "machine": platform.machine()}))
    for kind in (ValkeyServer, RedisServer):
        with kind() as server:
            print(json.dumps(asyncio.run(measure(server, size)), indent=1))


if __name__ == "__main__":
    main()
