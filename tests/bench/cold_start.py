"""From exec to ready, memory per entry, and what scrubbing costs: `python -m tests.bench.cold_start [ENTRIES]`.

Fills a Valkey with random PDQ entries, written straight into the layout (ids are random, everything else is as the
server function would leave it), then starts a process that follows it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access, Command, Link
from hashweir.model import Set
from hashweir.shards._sums import accelerated, chunk_sum
from hashweir.shards.follow import Follower
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SUM_MODULUS
from tests.contract.following import SetClock
from tests.servers.store import ValkeyServer

SHARDS = 16
PREFIX = "weir"
ROUNDS = 2
"""Scrubbing rounds that are measured."""


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


def memory() -> dict[str, int]:
    """Bytes of this process, by the kernel's own sum."""
    rows = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[0] in ("Rss:", "Pss:")}


def cpu_s() -> float:
    """Seconds of processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def tell(**facts: object) -> None:
    """One line to the parent."""
    print(json.dumps(facts), flush=True)


async def follow(url: str, began: float, round_s: float) -> None:
    """The process that is measured."""
    bare = memory()["Rss"]
    store, link = RedisStore(Access(url=url), PREFIX), Link(Access(url=url))
    follower = Follower(store, SetClock(), scrub_round_s=round_s)
    task = asyncio.create_task(follower.run())
    await follower.ready.wait()
    ready = time.time() - began
    entries = sum(shard.count("pdq") for shard in follower.known.shards)
    tell(exec_to_ready_s=round(ready, 2), processor_s=round(cpu_s(), 2), entries=entries)
    while any([table.index.tend() for table in follower.known.tables.by_key.values()]):
        await asyncio.sleep(0.05)
    tell(tended_s=round(time.time() - began, 2), bare_rss=bare, **memory())
    found = follower.known.view().search("pdq", "canonical", [follower.known.shards[3].slot("pdq", 5)[0][:32]], 31)
    assert len(found) == 1, found

    async def server_s() -> float:
        (text,) = await link.exchange(("INFO", "cpu"))
        facts = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
        return float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])

    await asyncio.sleep(round_s)
    here, there, start = cpu_s(), await server_s(), time.monotonic()
    await asyncio.sleep(ROUNDS * round_s)
    spent = time.monotonic() - start
    tell(
        scrub_percent_of_a_core=round(100 * (cpu_s() - here) / spent, 1),
        server_percent_of_a_core=round(100 * (await server_s() - there) / spent, 1),
        **memory(),
    )
    task.cancel()
    await asyncio.wait([task])
    await store.close()
    await link.close()


def main(size: int, named: bool, round_s: float) -> None:
    with ValkeyServer() as server:
        asyncio.run(fill(server.url, size, named))
        arguments = ["follow", server.url, repr(time.time()), repr(round_s)]
        with subprocess.Popen(
            [sys.executable, "-m", "tests.bench.cold_start", *arguments], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            facts = [json.loads(line) for line in child.stdout]
        told = {"entries": size, "names": named, "sha_instructions": accelerated()}
        for some in facts:
            told |= some
            print(json.dumps(some))
        print(f"bytes per entry: {told['Rss'] / size:.1f} (Pss {told['Pss'] / size:.1f})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["follow"]:
        asyncio.run(follow(sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
    else:
        numbers = [argument for argument in sys.argv[1:] if argument != "--names"]
        main(int(numbers[0]) if numbers else 1_000_000, "--names" in sys.argv, 10.0)
