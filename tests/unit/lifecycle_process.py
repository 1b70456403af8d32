"""A real process for `test_lifecycle`: a worker on a memory stream; at its end it tells what became of the uploads.

Arguments: how long one upload takes, in seconds; `fail` makes a background task end in an error after a moment.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter

from hashweir.adapters.memory_stream import MemoryBroker, MemorySink, MemorySource
from hashweir.errors import Unreachable
from hashweir.lifecycle import Health, HealthServer, Lifecycle, Parts
from hashweir.logs import setup
from hashweir.metrics import Metrics
from hashweir.pipeline.deliver import Delivery, ViewGate
from hashweir.pipeline.emit import Emitter
from hashweir.pipeline.worker import Worker
from tests.unit.pipeline.world import Knowledge, Scripted


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


async def fail() -> None:
    await asyncio.sleep(0.5)
    raise Unreachable("store_unreachable", "for the test")


async def produce(broker: MemoryBroker, seconds: str) -> None:
    """Uploads without an end, faster than they are judged: whenever the signal comes, it comes in full flow."""
    for n in itertools.count():
        headers = ("ce_id", b"u%d" % n), ("ce_source", b"test"), ("content-type", b"text/plain")
        broker.produce("uploads", f"slow {seconds} u{n}".encode(), headers=headers, partition=n % 3)
        if n % 20 == 0:
            await asyncio.sleep(0.01)


async def main(seconds: str, failing: bool) -> int:
    log, clock, metrics = setup(), SystemClock(), Metrics(version="test")
    broker = MemoryBroker(clock)
    broker.create_topic("uploads", 3)
    flow = asyncio.create_task(produce(broker, seconds))
    known = Knowledge()
    gate = ViewGate(known)
    source, sink = MemorySource(broker, "group", "uploads", max_records=10), MemorySink(broker)
    delivery = Delivery(
        judge=Scripted(gate),
        emitter=Emitter(worker="test", versions={}),
        sink=sink,
        clock=clock,
        metrics=metrics,
        log=log,
        default_source="test",
    )
    worker = Worker(source=source, delivery=delivery, gate=gate, clock=clock, metrics=metrics, log=log)
    health = Health(clock, {"verified_head": gate.is_open, "assigned": lambda: worker.assigned})
    server = HealthServer(health, metrics.registry, "127.0.0.1", 0)
    lifecycle = Lifecycle(
        Parts(server=server, sink=sink, source=source, worker=worker, background={"fail": fail} if failing else {}),
        clock=clock,
        log=log,
        drain_s=10.0,
    )
    run = asyncio.create_task(lifecycle.run())
    while not (health.started and server.port):  # noqa: ASYNC110 - set by plain code, no event tells
        await asyncio.sleep(0.01)
    print(json.dumps({"port": server.port}), flush=True)
    code = await run
    flow.cancel()
    written = Counter(dict(record.headers)["ce_id"].decode() for record in broker.records("verdicts"))
    left = {
        "verdicts": sum(written.values()),
        "produced": len(broker.records("uploads")),
        "most_per_upload": max(written.values(), default=0),
        "committed": sum(broker.committed("group").values()),
    }
    print(json.dumps(left), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], "fail" in sys.argv)))
