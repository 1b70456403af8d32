"""What it costs to compare a chunk with the store's, by who digests it: `python -m tests.bench.scrub [--entries N]`.

Processor time per chunk, in microseconds: of the server, of the follower, and of the follower's loop alone; at as many
chunks a second as ten million entries have in rounds of 10 s. First the server digests, then it hands chunks over.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.shards.follow import Follower
from hashweir.shards.layout import CHUNK_SLOTS
from hashweir.shards.scrub import AT_ONCE
from tests.bench.spent import of_threads
from tests.contract.following import SetClock
from tests.filled import PREFIX, SHARDS, fill
from tests.servers.store import ValkeyServer

CHUNKS_PER_S = 1_220
SECONDS = 5.0


def used_us(pid: int) -> float:
    """Processor time of a process so far."""
    return sum(spent.running for spent in of_threads(pid).values()) / 1e3


async def measured(server: ValkeyServer, near: bool, chunks: int) -> tuple[float, float, float]:
    """Microseconds a chunk: server, follower, loop."""
    store = RedisStore(Access(url=server.url), PREFIX, near=near)
    # A round takes 0.8 of the time that is given for it.
    follower = Follower(store, SetClock(), scrub_round_s=chunks / CHUNKS_PER_S / 0.8)
    following = asyncio.create_task(follower.run())
    await follower.ready.wait()
    await asyncio.sleep(1.0)  # what is digested for the first time takes longer
    await follower.tended.wait()
    before = used_us(server.pid), used_us(os.getpid()), time.thread_time() * 1e6
    await asyncio.sleep(SECONDS)
    after = used_us(server.pid), used_us(os.getpid()), time.thread_time() * 1e6
    following.cancel()
    await asyncio.wait([following])
    await store.close()
    server_us, all_us, loop_us = ((b - a) / SECONDS / CHUNKS_PER_S for a, b in zip(before, after, strict=True))
    return server_us, all_us, loop_us


async def main(entries: int, rounds: int) -> None:
    """Both ways by turns over one store."""
    chunks = SHARDS * -(-entries // SHARDS // CHUNK_SLOTS)
    print(f"{AT_ONCE} chunks at once, {CHUNKS_PER_S} a second; microseconds a chunk")
    with ValkeyServer() as server:
        await fill(server.url, entries, named=False)
        for _ in range(rounds):
            totals = []
            for near in (False, True):
                own, follower, loop = await measured(server, near, chunks)
                totals.append(own + follower)
                name = "handed over" if near else "digested by the server"
                print(
                    f"{name:24}server {own:4.0f}  follower {follower:4.0f}  of which its loop {loop:4.0f}", flush=True
                )
            print(f"total {totals[1] / totals[0]:.2f} of it", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    asyncio.run(main(given.entries, given.rounds))
