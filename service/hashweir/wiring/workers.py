"""The worker: what judges, with a stream around it, which is Kafka or inside this process."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from importlib.metadata import version
from pathlib import Path
from socket import gethostname
from typing import Any, Literal

from hashweir import __version__
from hashweir.adapters.kafka_admin import KafkaAdmin
from hashweir.adapters.kafka_sink import OUTPUTS, KafkaSink
from hashweir.adapters.kafka_source import KafkaSource
from hashweir.adapters.memory_stream import MemorySink, MemorySource
from hashweir.adapters.ring_files import RingFolder
from hashweir.adapters.tracing import otlp_tracer
from hashweir.canary import CANARY_PDQ
from hashweir.config import Config
from hashweir.lifecycle import Health, HealthServer, Lifecycle, Parts
from hashweir.logs import Logger
from hashweir.metrics import Metrics
from hashweir.pipeline.canaries import Canaries
from hashweir.pipeline.deliver import Delivery
from hashweir.pipeline.emit import LONG_TOPIC, Emitter
from hashweir.pipeline.lookback import LookBack
from hashweir.pipeline.ring import Ring
from hashweir.pipeline.ring_keeper import Keeper
from hashweir.pipeline.worker import Limits as WorkerLimits
from hashweir.pipeline.worker import Worker
from hashweir.ports import Sink, Source, Store, Tracer
from hashweir.shards.layout import shard_of
from hashweir.wiring.clock import SystemClock
from hashweir.wiring.gauges import keep_retention
from hashweir.wiring.judging import Judging, judging, subset
from hashweir.wiring.streams import Stream, kafka_access

VERSIONED = ("numpy", "Pillow", "py-tlsh", "simplejpeg")
"""Libraries that decode and hash: their versions travel with every verdict."""


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
    metrics = Metrics(version=__version__)

    async def retention_s() -> float | None:
        async with KafkaAdmin(access) as admin:  # a new one each time: an idle connection is closed by the broker
            return await admin.retention_s(topic)

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
        pace_s=config.worker.pace_seconds,
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
        background={"retention": lambda: keep_retention(retention_s, topic, metrics, log)},
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
    background: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] | None = None,
) -> tuple[Lifecycle, Judging]:
    clock = SystemClock()
    tracing = tracer(config)
    parts = judging(config, of, metrics, log, keep=True)
    parts.background.update(background or {})
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
        judge=parts.matcher(),
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
        judge=parts.matcher(),
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


def canary_period_s(config: Config) -> float:
    """Seconds between canaries; 0 where none are sent, for instance because their entry is in no followed shard."""
    part = subset(config)
    found = part is None or shard_of(bytes.fromhex(CANARY_PDQ), part.total) in part.numbers
    return config.worker.canary_period_seconds if found else 0.0


def tracer(config: Config) -> Tracer | None:
    """Where spans go; None where they go nowhere. Raises ConfigError where the extra `tracing` is not installed."""
    part = config.tracing
    if not part.endpoint:
        return None
    instance = config.worker.instance or gethostname()
    return otlp_tracer(part.endpoint, part.sample_ratio, config.kafka.group, instance, __version__)


def versions() -> dict[str, str]:
    """Versions of hashweir and of the libraries that decode and hash."""
    return {"hashweir": __version__, **{name: version(name) for name in VERSIONED}}
