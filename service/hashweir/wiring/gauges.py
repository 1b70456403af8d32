"""The gauges of what is known and of the process, set once a second; and of the retention, asked for now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hashweir.logs import Logger
from hashweir.metrics import DOUBTS, SET_STATES, STANDINGS, STORE_REASONS, Metrics
from hashweir.model import KINDS
from hashweir.pipeline.match import USABLE
from hashweir.ports import Sandbox, Standing, Store
from hashweir.shards.follow import Follower
from hashweir.shards.keep import Saver

GAUGES_EVERY_S = 1.0
RETENTION_EVERY_S = 300.0
"""Who raises a retention because uploads are about to expire waits so long for the alert to end."""


async def keep_gauges(
    follower: Follower, of: Store, saver: Saver | None, scan: Sandbox, metrics: Metrics, log: Logger
) -> None:
    """Keep the gauges of what is known and of the process up to date, and say when the standing changes."""
    before: Standing = "empty"
    loop = asyncio.get_running_loop()
    while True:
        view = follower.known.view()
        if view.standing != before:
            tell = log.info if view.standing == "verified" else log.warning
            why, missing = str(follower.trouble or ""), view.missing
            tell("follow.standing", standing=view.standing, before=before, why=why, shards_missing=missing)
            before = view.standing
        for standing in STANDINGS:
            metrics.standing.labels(standing).set(standing == view.standing)
        for kind in KINDS:
            metrics.index_entries.labels(kind).set(sum(one.count(kind) for one in follower.known.shards))
        for state in SET_STATES:
            metrics.sets.labels(state).set(sum(one.state == state for one in view.sets.values()))
        stats = follower.stats()
        metrics.copy_saved.set(saver.saved_ms / 1000 if saver else 0)
        numbers = {one.shard for one in stats}
        for number in range(of.shards if stats else 0):
            metrics.shard_followed.labels(str(number)).set(number in numbers)
        for one, shard in zip(stats, follower.known.shards, strict=True):
            metrics.applied_sequence.labels(str(one.shard)).set(one.applied_seq)
            metrics.head_sequence.labels(str(one.shard)).set(one.head_seq)
            metrics.shard_slots.labels(str(one.shard)).set(sum(shard.counts().values()))
            metrics.shard_verified.labels(str(one.shard)).set(one.as_of_ms / 1000)
        for doubt in DOUBTS:
            metrics.shards_doubtful.labels(doubt).set(sum(one.doubt == doubt for one in stats))
        for reason in STORE_REASONS:
            metrics.store_alarms.labels(reason).set(sum(code == reason for code, _ in follower.alarms.active))
        if view.standing in USABLE:
            metrics.last_verified.set(view.as_of_ms / 1000)
        load = scan.load()
        metrics.scan_processes.set(load.processes)
        metrics.scan_busy.set(load.busy)
        metrics.scan_waiting.set(load.waiting)
        metrics.scan_resident.set(load.resident_bytes)
        due = loop.time() + GAUGES_EVERY_S
        await asyncio.sleep(GAUGES_EVERY_S)
        metrics.loop_lag.observe(max(0.0, loop.time() - due))


async def keep_retention(ask: Callable[[], Awaitable[float | None]], topic: str, metrics: Metrics, log: Logger) -> None:
    """Keep the gauge of the topic's retention up to date; `ask` gives seconds, or None for records that stay for ever.

    Where it fails, by an outage or for want of the right to ask, that is said once and the last value stays.
    """
    failing = False
    while True:
        try:
            seconds = await ask()
        except Exception as error:  # noqa: BLE001 - a gauge must never end the worker
            if not failing:
                log.warning("stream.retention_unknown", topic=topic, error=error)
            failing = True
        else:
            failing = False
            # -1 is Kafka's own word for it.
            metrics.retention.labels(topic).set(-1 if seconds is None else seconds)
        await asyncio.sleep(RETENTION_EVERY_S)
