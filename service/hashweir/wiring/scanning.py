"""Where content by reference comes from, and the scan processes that decode and hash it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from hashweir.adapters.file_media import FileMedia
from hashweir.adapters.sandbox import ProcessSandbox
from hashweir.adapters.sandbox_cache import ScanCache
from hashweir.adapters.sandbox_fences import Fence, reached
from hashweir.adapters.sandbox_lanes import Lanes
from hashweir.config import Config
from hashweir.logs import Logger
from hashweir.metrics import CACHE, FENCES, Metrics
from hashweir.model import Limits, MediaClass
from hashweir.ports import MediaSource, Sandbox

SCAN = "hashweir.pipeline.scan:prepare"
MOST_PROCESSES = 8
LONG: frozenset[MediaClass] = frozenset({"document", "video"})
"""What may have scan processes of its own, for it may take a minute and more."""
BUDGET = 0.8
"""Share of its deadline after which the scan of a video or an animation answers with what it has."""


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
        recycle_s=scan.recycle_seconds,
        recycle_bytes=scan.recycle_resident_bytes,
        cache=cache,
        require=scan.require_fences,
        when_ready=on_ready,
        when_ended=on_ended,
        when_asked=(lambda hit: asked[not hit].inc()) if asked else (lambda hit: None),
    )


def media(config: Config) -> MediaSource | None:
    """Where content by reference is fetched from; None where that is not enabled. Raises ConfigError."""
    root = config.media.file_root
    return FileMedia(Path(root), config.limits.file_bytes) if root else None
