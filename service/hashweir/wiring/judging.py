"""What every door shares: scan processes, a follower and the matcher over both.

The worker adds a stream; `one_shot` is enough for a single command.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hashweir.adapters.copy_file import CopyFile
from hashweir.config import Config
from hashweir.errors import Unreachable
from hashweir.logs import Logger, quiet
from hashweir.metrics import STORE_REASONS, Metrics
from hashweir.pipeline.deliver import ViewGate
from hashweir.pipeline.match import Matcher
from hashweir.ports import MediaSource, Sandbox, SlotChange, Store, View
from hashweir.shards.follow import Follower
from hashweir.shards.keep import Saver
from hashweir.shards.subset import Subset, parse
from hashweir.wiring.clock import SystemClock
from hashweir.wiring.gauges import keep_gauges
from hashweir.wiring.scanning import media, sandbox
from hashweir.wiring.stores import open_store

LOOKUP_THREADS = 2


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

    def on_not_saved(reason: str) -> None:
        metrics.save_failures.labels(reason).inc()

    saver = None
    if keep and config.index.folder:
        files = CopyFile(Path(config.index.folder))
        saver = Saver(files, every_s=config.index.save_seconds, clock=clock, log=log, when_failed=on_not_saved)
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
        background={"follow": follower.run, "gauges": lambda: keep_gauges(follower, of, saver, scan, metrics, log)},
        on_change=listeners,
    )


def subset(config: Config) -> Subset | None:
    """The shards to follow; None where these are all."""
    return parse(config.shards.only) if config.shards.only else None


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


@asynccontextmanager
async def one_shot(config: Config) -> AsyncIterator[Judging]:
    """A matcher with everything loaded and verified, for one command.

    Raises Unreachable, Refused(store_not_created) or ConfigError before anything is judged.
    """
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
