"""The one file that names concrete adapters: it turns a configuration into running parts.

`judging` is what every door shares: scan processes, a follower and the matcher over both. The worker adds a stream.
Long because there is one such file, so that a change of adapter is a change of one place.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from socket import gethostname
from typing import Any, Literal

from hashweir import __version__
from hashweir.adapters.copy_file import CopyFile
from hashweir.adapters.embedded_store import embedded_store
from hashweir.adapters.file_media import FileMedia
from hashweir.adapters.kafka_admin import KafkaAdmin, TopicPlan
from hashweir.adapters.kafka_link import Access as KafkaAccess
from hashweir.adapters.kafka_sink import OUTPUTS, KafkaSink
from hashweir.adapters.kafka_source import KafkaSource
from hashweir.adapters.memory_stream import MemoryBroker, MemorySink, MemorySource
from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.adapters.ring_files import RingFolder
from hashweir.adapters.sandbox import ProcessSandbox
from hashweir.adapters.sandbox_cache import ScanCache
from hashweir.adapters.sandbox_fences import Fence, reached
from hashweir.adapters.sandbox_lanes import Lanes
from hashweir.adapters.tracing import otlp_tracer
from hashweir.canary import CANARY_PDQ
from hashweir.config import Config
from hashweir.errors import ConfigError, Unreachable
from hashweir.lifecycle import Health, HealthServer, Lifecycle, Parts
from hashweir.logs import Logger
from hashweir.metrics import CACHE, DOUBTS, FENCES, SET_STATES, STANDINGS, STORE_REASONS, Metrics
from hashweir.model import KINDS, Limits, MediaClass
from hashweir.pipeline.canaries import Canaries
from hashweir.pipeline.deliver import Delivery, ViewGate
from hashweir.pipeline.emit import LONG_TOPIC, Emitter
from hashweir.pipeline.lookback import LookBack
from hashweir.pipeline.match import USABLE, Matcher
from hashweir.pipeline.ring import Ring
from hashweir.pipeline.ring_keeper import Keeper
from hashweir.pipeline.worker import Limits as WorkerLimits
from hashweir.pipeline.worker import Worker
from hashweir.ports import MediaSource, Sandbox, Sink, SlotChange, Source, Standing, Store, Tracer, View
from hashweir.shards.follow import Follower
from hashweir.shards.keep import Saver
from hashweir.shards.layout import shard_of
from hashweir.shards.subset import Subset, parse

SCAN = "hashweir.pipeline.scan:prepare"
TOPICS = ("uploads", LONG_TOPIC, "verdicts", "matches", "dead-letters")
MOST_PROCESSES = 8
LONG: frozenset[MediaClass] = frozenset({"document", "video"})
"""What may have scan processes of its own, for it may take a minute and more."""
BUDGET = 0.8
"""Share of its deadline after which the scan of a video or an animation answers with what it has."""
LOOKUP_THREADS = 2
GAUGES_EVERY_S = 1.0
VERSIONED = ("numpy", "Pillow", "py-tlsh", "simplejpeg")
"""Libraries that decode and hash: their versions travel with every verdict."""


Stream = MemoryBroker
"""A stream inside one process."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()


def store(config: Config) -> RedisStore:
    """The store, not opened yet. Raises ConfigError where `store.url` is missing."""
    require(config, "store.url")
    part = config.store
    access = Access(
        url=part.url,
        username=part.username or None,
        password=part.password.get_secret_value() or None,
        ca_file=part.tls_ca_file or None,
        cert_file=part.tls_cert_file or None,
        key_file=part.tls_key_file or None,
        connect_s=part.connect_budget_seconds,
    )
    return RedisStore(access, part.prefix, replicas=part.wait_replicas)


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[Store]:
    """The store, opened. Raises ConfigError, Unreachable naming the address, Refused(store_not_created)."""
    opened = store(config)
    try:
        await opened.open()
        yield opened
    finally:
        await opened.close()


def sandbox(config: Config, metrics: Metrics | None = None, log: Logger | None = None) -> Sandbox:
    """The scan processes, not started yet: one pool, or two with a lane for what takes long."""
    part = config.scan
    cache = ScanCache(part.cache_scans)
    short = _processes(config, part.processes or min(os.cpu_count() or 1, MOST_PROCESSES), cache, metrics, log)
    if not part.long_processes:
        return short
    return Lanes(short, _processes(config, part.long_processes, cache, metrics, log), LONG)


def _processes(
    config: Config, count: int, cache: ScanCache, metrics: Metrics | None, log: Logger | None
) -> ProcessSandbox:
    scan, limits = config.scan, config.limits

    def on_ready(fences: Iterable[Fence], lacking: Mapping[Fence, str]) -> None:
        if metrics:
            for fence in FENCES:
                metrics.sandbox_level.labels(fence).set(fence in set(fences))
        if log:
            level = reached(fences)
            log.info("scan.started", processes=count, level=level, fences=list(fences), lacking=dict(lacking))

    asked = [metrics.scan_cache.labels(result) for result in CACHE] if metrics else []

    def on_ended(why: str) -> None:
        if metrics:
            metrics.scan_deaths.labels(why).inc()
        if log and why != "recycled":
            log.warning("scan.died", why=why)

    return ProcessSandbox(
        scan=SCAN,
        count=count,
        limits=Limits(
            pixels=limits.pixels,
            side=limits.side_pixels,
            ratio=limits.ratio,
            text_bytes=limits.text_bytes,
            pages=limits.pages,
            page_objects=limits.page_objects,
            video_s=limits.video_seconds,
            video_streams=limits.video_streams,
            video_frames=limits.video_frames,
            video_interval_s=limits.video_interval_seconds,
            video_budget_s=BUDGET * scan.video_deadline_seconds,
            animation_frames=limits.animation_frames,
            animation_budget_s=BUDGET * scan.image_deadline_seconds,
        ),
        deadline_s={
            "image": scan.image_deadline_seconds,
            "text": scan.text_deadline_seconds,
            "document": scan.document_deadline_seconds,
            "video": scan.video_deadline_seconds,
        },
        memory_bytes=scan.memory_bytes,
        recycle_after=scan.recycle_jobs,
        recycle_bytes=scan.recycle_resident_bytes,
        cache=cache,
        require=scan.require_fences,
        when_ready=on_ready,
        when_ended=on_ended,
        when_asked=(lambda hit: asked[not hit].inc()) if asked else (lambda hit: None),
    )


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What every door shares. `background` has to run for as long as anything is judged."""

    sandbox: Sandbox
    follower: Follower
    gate: ViewGate
    matcher_over: Callable[[Callable[[], Awaitable[View]]], Matcher]
    """A matcher that judges by the views it is given."""
    background: dict[str, Callable[[], Coroutine[Any, Any, None]]]
    on_change: list[Callable[[SlotChange], None]]
    """Who else is told of each change once it is visible."""

    @property
    def matcher(self) -> Matcher:
        """A matcher that judges by all that is known."""
        return self.matcher_over(self.gate.usable_view)


def judging(
    config: Config, of: Store, metrics: Metrics, log: Logger, *, allow_empty: bool = False, keep: bool = False
) -> Judging:
    """Scan processes, follower and matcher over a store; nothing is started yet.

    `keep`: begin with the copy in `index.folder`, and keep it there.
    """
    clock = SystemClock()
    listeners: list[Callable[[SlotChange], None]] = []

    def on_change(change: SlotChange) -> None:
        for listener in listeners:
            listener(change)
        if follower.ready.is_set():  # or it was made while nobody was here
            metrics.change_to_live.observe(max(0.0, (clock.now_ms() - change.at_ms) / 1000))

    def on_trouble(reason: str) -> None:
        if reason in STORE_REASONS:
            metrics.store_failures.labels(reason).inc()

    def on_alarm(reason: str, shard: int, sentence: str) -> None:
        log.error("follow.alarm", shard=shard, reason=reason, what=sentence)

    saver = None
    if keep and config.index.folder:
        files = CopyFile(Path(config.index.folder))
        saver = Saver(files, every_s=config.index.save_seconds, clock=clock, log=log)
    follower = Follower(
        of,
        clock,
        only=subset(config),
        saver=saver,
        soft_limit_s=config.index.soft_stale_seconds,
        hard_limit_s=config.index.hard_stale_seconds,
        scrub_round_s=config.index.scrub_round_seconds,
        on_change=on_change,
        on_alarm=on_alarm,
        on_trouble=on_trouble,
    )
    gate = ViewGate(follower.known, allow_empty=allow_empty or config.worker.allow_empty)
    scan = sandbox(config, metrics, log)
    threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")
    matcher_over = partial(_matcher, config, scan, follower, threads, media(config))
    return Judging(
        sandbox=scan,
        follower=follower,
        gate=gate,
        matcher_over=matcher_over,
        background={"follow": follower.run, "gauges": lambda: _gauges(follower, of, saver, scan, metrics, log)},
        on_change=listeners,
    )


def subset(config: Config) -> Subset | None:
    """The shards to follow; None where these are all."""
    return parse(config.shards.only) if config.shards.only else None


def canary_period_s(config: Config) -> float:
    """Seconds between canaries; 0 where none are sent, for instance because their entry is in no followed shard."""
    part = subset(config)
    found = part is None or shard_of(bytes.fromhex(CANARY_PDQ), part.total) in part.numbers
    return config.worker.canary_period_seconds if found else 0.0


def media(config: Config) -> MediaSource | None:
    """Where content by reference is fetched from; None where that is not enabled. Raises ConfigError."""
    root = config.media.file_root
    return FileMedia(Path(root), config.limits.file_bytes) if root else None


def _matcher(
    config: Config,
    scan: Sandbox,
    follower: Follower,
    threads: ThreadPoolExecutor,
    source: MediaSource | None,
    usable_view: Callable[[], Awaitable[View]],
) -> Matcher:
    return Matcher(
        sandbox=scan,
        known=follower.known,
        usable_view=usable_view,
        threads=threads,
        media=source,
        references_at_once=config.media.references_at_once,
    )


async def _gauges(
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


@asynccontextmanager
async def one_shot(config: Config) -> AsyncIterator[Judging]:
    """A matcher with everything loaded and verified, for one command.

    Raises Unreachable, Refused(store_not_created) or ConfigError before anything is judged.
    """
    from hashweir.logs import quiet

    async with open_store(config) as opened:
        parts = judging(config, opened, Metrics(), quiet(), allow_empty=True)
        follow = asyncio.create_task(parts.follower.run())
        try:
            await parts.sandbox.start()
            await _verified(parts.follower, follow, config)
            yield parts
        finally:
            follow.cancel()
            await asyncio.wait([follow])
            await parts.sandbox.stop()


async def _verified(follower: Follower, follow: asyncio.Task[None], config: Config) -> None:
    ready = asyncio.create_task(follower.ready.wait())
    done, _ = await asyncio.wait(
        [ready, follow], timeout=config.index.hard_stale_seconds, return_when=asyncio.FIRST_COMPLETED
    )
    if follow in done:
        follow.result()
    if ready not in done:
        ready.cancel()
        raise follower.trouble or Unreachable("store_unreachable", f"{config.store.url}: not verified in time")


def memory_worker(
    config: Config, broker: Stream, of: Store, metrics: Metrics, log: Logger
) -> tuple[Lifecycle, Judging]:
    """The worker over a stream inside this process: the same pipeline as with Kafka."""
    prefix = config.kafka.topic_prefix
    source = MemorySource(broker, config.kafka.group, f"{prefix}uploads")
    canaries = MemorySink(broker, prefix)
    return _worker(config, source, MemorySink(broker, prefix), canaries, "memory", of, metrics, log)


async def kafka_worker(config: Config, of: Store, log: Logger, *, long: bool = False) -> Lifecycle:
    """The worker over Kafka. Asks the cluster for its id, which stands in for a missing `ce_source`.

    A `long` one reads what others relay, as a group of its own: no rebalance of one lane touches the other.

    Raises ConfigError, Unreachable(stream_unreachable) naming the address.
    """
    access, part = kafka_access(config), config.kafka
    own = LONG_TOPIC if long else "uploads"
    topic = part.topic_prefix + own
    async with KafkaAdmin(access) as admin:
        default_source = await admin.default_source()
        retention_s = await admin.retention_s(topic)
    metrics = Metrics(version=__version__)
    if retention_s is not None:
        metrics.retention.labels(topic).set(retention_s)
    source = KafkaSource(
        access,
        group=f"{part.group}.long" if long else part.group,
        topic=topic,
        instance_id=part.instance_id,
        first_position=part.first_position,
        log=log,
    )
    relay = config.worker.relay_long and not long
    sink = KafkaSink(
        access,
        prefix=part.topic_prefix,
        topics=(*OUTPUTS, LONG_TOPIC) if relay else OUTPUTS,
        largest_bytes=part.topic_max_message_bytes,
        log=log,
    )
    canaries = KafkaSink(access, prefix=part.topic_prefix, topics=(own,), log=log)
    lifecycle, _ = _worker(
        config,
        source,
        sink,
        canaries,
        default_source,
        of,
        metrics,
        log,
        relay_long=relay,
        lane="long" if long else "main",
    )
    return lifecycle


def _worker(
    config: Config,
    source: Source,
    sink: Sink,
    canary_sink: Sink,
    default_source: str,
    of: Store,
    metrics: Metrics,
    log: Logger,
    *,
    relay_long: bool = False,
    lane: Literal["main", "long"] = "main",
) -> tuple[Lifecycle, Judging]:
    clock = SystemClock()
    tracing = tracer(config)
    parts = judging(config, of, metrics, log, keep=True)
    name = config.worker.instance or gethostname()
    canaries = Canaries(
        assignment=lambda: worker.assignment,
        sink=canary_sink,
        known=parts.follower.known,
        clock=clock,
        metrics=metrics,
        log=log,
        worker=name,
        topic=LONG_TOPIC if lane == "long" else "uploads",
        period_s=canary_period_s(config),
    )
    part = config.look_back
    ring = Ring(part.uploads, part.most_bytes)
    files = RingFolder(Path(part.folder)) if part.folder else None
    look_back = LookBack(
        ring=ring,
        judge=parts.matcher,
        emitter=Emitter(worker=name, versions=versions(), via="look-back", lane=lane),
        sink=sink,
        known=parts.follower.known,
        usable_view=parts.gate.usable_view,
        clock=clock,
        metrics=metrics,
        log=log,
        keeper=Keeper(ring, files, every_s=part.save_seconds, clock=clock, metrics=metrics, log=log),
    )
    if part.uploads:
        parts.on_change.append(look_back.on_change)
    delivery = Delivery(
        judge=parts.matcher,
        emitter=Emitter(worker=name, versions=versions(), lane=lane),
        sink=sink,
        clock=clock,
        metrics=metrics,
        log=log,
        tracer=tracing,
        default_source=default_source,
        inline_bytes=config.limits.inline_bytes,
        relay_long=relay_long,
        remember=look_back.remember,
        on_canary=canaries.judged,
    )
    limits = WorkerLimits(in_flight_items=config.worker.in_flight_items, in_flight_bytes=config.worker.in_flight_bytes)
    worker = Worker(
        source=source, delivery=delivery, gate=parts.gate, clock=clock, metrics=metrics, log=log, limits=limits
    )
    checks = {"assigned": lambda: worker.assigned, "known": parts.gate.is_open}
    server = HealthServer(Health(clock, checks), metrics.registry, config.metrics.host, config.metrics.port)
    lifecycle = Lifecycle(
        Parts(
            server=server,
            sandbox=parts.sandbox,
            store=of,
            background=parts.background | ({"canary": canaries.run} if canary_period_s(config) else {}),
            sink=sink,
            source=source,
            worker=worker,
            tracer=tracing,
            look_back=look_back.run if part.uploads else None,
        ),
        clock=clock,
        log=log,
        drain_s=config.worker.drain_seconds,
    )
    return lifecycle, parts


def tracer(config: Config) -> Tracer | None:
    """Where spans go; None where they go nowhere. Raises ConfigError where the extra `tracing` is not installed."""
    part = config.tracing
    if not part.endpoint:
        return None
    instance = config.worker.instance or gethostname()
    return otlp_tracer(part.endpoint, part.sample_ratio, config.kafka.group, instance, __version__)


def memory_broker() -> Stream:
    """A stream inside this process."""
    return MemoryBroker(SystemClock(), default_partitions=4)


@contextmanager
def embedded(config: Config, data: Path | None = None) -> Iterator[Config]:
    """A Valkey server of our own on loopback while the context lasts; yields the configuration that names it.

    In `data` it keeps what it has (append-only file); without, it forgets all in the end. Raises ConfigError where
    the `embedded` extra is not installed, Unreachable(store_unreachable) where the server does not start.
    """
    with embedded_store(data) as url:
        yield config.model_copy(update={"store": config.store.model_copy(update={"url": url})})


def kafka_access(config: Config) -> KafkaAccess:
    """Where the brokers are and how to be let in. Raises ConfigError where `kafka.bootstrap` is missing."""
    require(config, "kafka.bootstrap")
    part = config.kafka
    return KafkaAccess(
        bootstrap=part.bootstrap,
        protocol=part.security_protocol,
        mechanism=part.sasl_mechanism,
        username=part.sasl_username,
        password=part.sasl_password.get_secret_value(),
        ca_file=part.ssl_ca_file,
        cert_file=part.ssl_cert_file,
        key_file=part.ssl_key_file,
        key_password=part.ssl_key_password.get_secret_value(),
        connect_s=part.connect_budget_seconds,
    )


def kafka_admin(config: Config) -> KafkaAdmin:
    """A connection for questions and for making topics, not started yet. Raises ConfigError."""
    return KafkaAdmin(kafka_access(config))


def topic_plans(config: Config) -> list[TopicPlan]:
    """The topics as they should be."""
    part = config.kafka
    return [
        TopicPlan(
            name=part.topic_prefix + name,
            partitions=part.topic_partitions,
            replication=part.topic_replication,
            retention_s=part.topic_retention_seconds,
            max_message_bytes=part.topic_max_message_bytes,
        )
        for name in TOPICS
    ]


def versions() -> dict[str, str]:
    """Versions of hashweir and of the libraries that decode and hash."""
    return {"hashweir": __version__, **{name: version(name) for name in VERSIONED}}


def require(config: Config, *names: str) -> None:
    """Raises ConfigError naming every key (`section.key`) of `names` that has no value, and how to set it."""
    missing = [name for name in names if not getattr(getattr(config, name.split(".")[0]), name.split(".")[1])]
    if missing:
        listed = " and ".join(f"{name} (HASHWEIR_{name.upper().replace('.', '__')})" for name in missing)
        raise ConfigError(f"{listed} must be configured; to try hashweir without, run `hashweir demo`")
