"""What metrics cost: the calls of one upload against an upload's processor time, and what a scrape does to the loop.

    python -m tests.bench.metrics

An upload's time is that of a whole worker (this process and its scan process) over an in-process stream and store,
without a broker's client, which would only make the share smaller. The scrape is the real server's, with every closed
label, 64 partitions and 64 shards, asked by another process; lag is how late a timer of 1 ms came back. Medians of
several rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from prometheus_client import generate_latest

from hashweir import wiring
from hashweir.adapters.memory_store import MemoryStore
from hashweir.adapters.sandbox import ProcessSandbox
from hashweir.config import Config
from hashweir.lifecycle import Health, HealthServer
from hashweir.logs import quiet
from hashweir.metrics import Metrics
from tests.pictures import encode, photo

ROUNDS, CALLS, SCRAPES = 7, 5_000, 60
STAGES = ("ingest", "fetch", "scan_wait", "decode", "hash", "lookup", "decide", "publish")
SCRAPER = """
import sys, time, urllib.request
for _ in range(int(sys.argv[2])):
    urllib.request.urlopen(sys.argv[1]).read()
    time.sleep(0.05)
"""


def cost(work: Callable[[], object], calls: int) -> float:
    """Processor seconds of one call."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(calls):
            work()
        rounds.append((time.process_time() - began) / calls)
    return statistics.median(rounds)


def per_upload(made: Metrics) -> Callable[[], None]:
    """What ingest, scan and delivery call for one upload."""
    timings, miss = dict.fromkeys(STAGES, 0.01), made.scan_cache.labels("miss")

    def calls() -> None:
        made.count_taken("hashweir.uploads")
        miss.inc()
        made.observe_stages(timings)
        made.count_judged(
            media="image", outcome="clear", action="none", reason=None, hits=(), dead_letter=None, seconds=0.03
        )

    return calls


async def upload_seconds(media_type: str, contents: list[bytes]) -> float:
    """Processor seconds of a whole worker for each of these uploads."""
    config = Config.model_validate({"scan": {"processes": 1}, "metrics": {"port": 0}, "worker": {"allow_empty": True}})
    store, broker, made = MemoryStore(), wiring.memory_broker(), Metrics()
    await store.create(4)
    lifecycle, parts = wiring.memory_worker(config, broker, store, made, quiet())
    running = asyncio.create_task(lifecycle.run())
    await parts.follower.ready.wait()
    while not broker.records("hashweir.uploads"):
        broker.produce("hashweir.uploads", contents[0], headers=(("content-type", media_type.encode()),))
        await asyncio.sleep(1)
    assert isinstance(parts.sandbox, ProcessSandbox)
    pids = parts.sandbox.pids
    began = time.process_time() + sum(map(_spent, pids))
    for number, content in enumerate(contents):
        headers = (("ce_id", b"%d" % number), ("content-type", media_type.encode()))
        broker.produce("hashweir.uploads", content, headers=headers, partition=number % 4)
    while len(broker.records("hashweir.verdicts")) <= len(contents):  # noqa: ASYNC110 - a bench, not a service
        await asyncio.sleep(0.05)
    assert parts.sandbox.pids == pids
    spent = time.process_time() + sum(map(_spent, pids)) - began
    lifecycle.stop()
    await running
    return spent / len(contents)


def _spent(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def full(made: Metrics) -> None:
    """Every open label at its full load."""
    for number in range(64):
        for gauge in (made.lag, made.oldest_unfinished):
            gauge.labels("hashweir.uploads", str(number)).set(1)
        for gauge in (made.applied_sequence, made.head_sequence, made.shard_slots, made.shard_verified):
            gauge.labels(str(number)).set(1)


async def lags(ended: Callable[[], bool]) -> list[float]:
    """How late a timer of 1 ms is, in seconds, each time until told to end."""
    found, loop = [], asyncio.get_running_loop()
    while not ended():
        due = loop.time() + 0.001
        await asyncio.sleep(0.001)
        found.append(loop.time() - due)
    return found


def scraped(made: Metrics) -> tuple[list[float], list[float]]:
    """Lags without and with somebody who scrapes 20 times a second."""
    server = HealthServer(Health(wiring.SystemClock(), {}), made.registry, "127.0.0.1", 0)
    server.start()
    end = time.monotonic() + 4
    alone = asyncio.run(lags(lambda: time.monotonic() > end))
    url = f"http://127.0.0.1:{server.port}/metrics"
    scraper = subprocess.Popen([sys.executable, "-c", SCRAPER, url, str(SCRAPES)])
    watched = asyncio.run(lags(lambda: scraper.poll() is not None))
    server.stop()
    return alone, watched


def main() -> None:
    """Print all figures."""
    made = Metrics()
    calls = cost(per_upload(made), CALLS)
    jpeg = encode(photo(size=(1200, 900)), "JPEG", quality=90)
    text = (b" a post of a thousand bytes or so, as people write them all day long;" * 15)[:990]
    loads = {
        f"JPEG of {len(jpeg)} bytes": ("image/jpeg", [jpeg + b"%d" % n for n in range(200)]),
        "text of 1 KB": ("text/plain", [b"%010d" % n + text for n in range(400)]),
    }
    for name, (media_type, contents) in loads.items():
        upload = asyncio.run(upload_seconds(media_type, contents))
        print(f"{name}: upload {upload * 1e6:.0f} us, metrics {calls * 1e6:.1f} us: {calls / upload:.2%}")
    full(made)
    page = generate_latest(made.registry)
    render = cost(lambda: generate_latest(made.registry), 5)
    print(f"page: {len(page.splitlines())} lines, {len(page)} bytes, {render * 1e3:.1f} ms to render")
    alone, watched = (float(np.quantile(one, 0.99)) * 1e3 for one in scraped(made))
    print(f"loop lag p99: {alone:.1f} ms alone, {watched:.1f} ms scraped: {watched - alone:+.1f} ms")


if __name__ == "__main__":
    main()
