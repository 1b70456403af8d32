"""From exec to ready, memory per entry, what scrubbing costs: `python -m tests.bench.cold_start [ENTRIES] [--file]`.

Fills a Valkey with random PDQ entries, then starts a process that follows it. With `--file` a first process follows it
and saves what it knows as it ends; the one that is measured begins with that file, page cache warm.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hashweir.adapters.copy_file import CopyFile
from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access, Link
from hashweir.logs import quiet
from hashweir.model import Kind
from hashweir.ports import Chunk
from hashweir.shards._sums import accelerated
from hashweir.shards.follow import Follower
from hashweir.shards.keep import Saver
from tests.contract.following import SetClock
from tests.filled import PREFIX, fill
from tests.servers.store import ValkeyServer

ROUNDS = 2
"""Scrubbing rounds that are measured."""


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


class Counting(RedisStore):
    """Counts the chunks that are read."""

    chunks = 0

    async def read_chunk(self, shard: int, kind: Kind, number: int) -> Chunk:
        self.chunks += 1
        return await super().read_chunk(shard, kind, number)


def saver(folder: str) -> Saver | None:
    """Keeps the state in a folder, if there is one, at the end."""
    return Saver(CopyFile(Path(folder)), every_s=1e6, clock=SetClock(), log=quiet()) if folder else None


async def save(url: str, folder: str) -> None:
    """The process that came before."""
    store = RedisStore(Access(url=url), PREFIX)
    follower = Follower(store, SetClock(), saver=saver(folder))
    task = asyncio.create_task(follower.run())
    await follower.ready.wait()
    await asyncio.sleep(0.5)
    await follower.tended.wait()
    began, written = time.monotonic(), Path(folder) / "known.copy"
    task.cancel()
    await asyncio.wait([task])
    tell(saved_s=round(time.monotonic() - began, 2), file_bytes=written.stat().st_size)
    await store.close()


async def follow(url: str, began: float, round_s: float, folder: str) -> None:
    """The process that is measured."""
    bare = memory()["Rss"]
    store, link = Counting(Access(url=url), PREFIX), Link(Access(url=url))
    follower = Follower(store, SetClock(), scrub_round_s=round_s, saver=saver(folder))
    task = asyncio.create_task(follower.run())
    await follower.ready.wait()
    ready = time.time() - began
    entries = sum(shard.count("pdq") for shard in follower.known.shards)
    tell(exec_to_ready_s=round(ready, 2), processor_s=round(cpu_s(), 2), entries=entries, chunks_read=store.chunks)
    await asyncio.sleep(0.2)
    await follower.tended.wait()
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


def main(size: int, named: bool, round_s: float, file: bool) -> None:
    with ValkeyServer() as server, tempfile.TemporaryDirectory() as spare:
        asyncio.run(fill(server.url, size, named))
        folder = spare if file else ""
        if file:
            subprocess.run([sys.executable, "-m", "tests.bench.cold_start", "save", server.url, folder], check=True)
        arguments = ["follow", server.url, repr(time.time()), repr(round_s), folder]
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
        asyncio.run(follow(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5]))
    elif sys.argv[1:2] == ["save"]:
        asyncio.run(save(*sys.argv[2:4]))
    else:
        numbers = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
        main(int(numbers[0]) if numbers else 1_000_000, "--names" in sys.argv, 10.0, "--file" in sys.argv)
