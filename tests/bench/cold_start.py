"""From exec to ready, memory per entry, and what scrubbing costs: `python -m tests.bench.cold_start [ENTRIES]`.

Fills a Valkey with random PDQ entries, then starts a process that follows it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access, Link
from hashweir.shards._sums import accelerated
from hashweir.shards.follow import Follower
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
