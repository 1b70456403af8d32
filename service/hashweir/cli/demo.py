"""`hashweir demo`: the whole service on this machine, fed with generated uploads, some of them edited copies.

Real are the store (Valkey), the scan processes, the follower and the pipeline; only the stream is in-process. What
was planted is known, so the summary can say what was missed (a planted edit without its hit) and what is false (a
hit on anything else).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveFloat
from msgspec import Struct

from hashweir.cli import FAILED, INTERRUPTED, OK, Json, run, settings
from hashweir.cli.demo_media import Sample
from hashweir.cli.demo_plan import PICTURE_SET, TEXT_SET, Planned, item_name, make, original, originals, plan, strangers
from hashweir.cli.demo_view import Board, Progress
from hashweir.cli.output import emit
from hashweir.errors import HashweirError
from hashweir.model import Upload, Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from hashweir.config import Config
    from hashweir.ports import Sandbox, Store
    from hashweir.sets.read import Row
    from hashweir.wiring import Stream

SECONDS = 12.0
LEAST = 320
"""Uploads where the rate is not given: enough that every edit comes up nine times."""
AHEAD = 400
"""Uploads that are generated before the stream starts, so that generating them does not slow the scans down."""
PATIENCE_S = 60.0


class Summary(Struct, frozen=True, kw_only=True):
    """What a run found. `missed` are planted edits without a hit on their own item; times are per upload."""

    uploads: int
    planted: int
    matched: int
    missed: int
    false: int
    unscanned: int
    unjudged: int
    p50_ms: float
    p99_ms: float
    seconds: float
    per_second: float
    seed: int
    transport: str = "in-process"


def demo(
    *,
    seconds: Annotated[PositiveFloat, Parameter(help="how long the stream of uploads lasts")] = SECONDS,
    rate: Annotated[PositiveFloat | None, Parameter(help="uploads per second")] = None,
    seed: Annotated[int, Parameter(help="the same seed gives the same uploads")] = 1,
    json: Json = False,
) -> int:
    """Everything embedded on this machine: generated uploads with planted edits, judged live.

    Exit code 1 where a planted edit was missed, anything else matched, or a verdict is lacking.
    """
    from hashweir import wiring

    with wiring.embedded(settings()) as config:
        summary = run(_Demo(config, seconds, rate or LEAST / seconds, seed).run())
    if summary is None:
        return INTERRUPTED
    emit(summary, as_json=json, human=lambda out: _tell(out, summary))
    return FAILED if summary.missed or summary.false or summary.unjudged else OK


class _Demo:
    def __init__(self, config: Config, seconds: float, rate: float, seed: int) -> None:
        self._config, self._rate, self._seed = config, rate, seed
        self._plan = {one.name: one for one in plan(seed, max(1, round(seconds * rate)))}
        self._sent: dict[str, int] = {}
        self._latencies: list[int] = []
        self._progress = Progress(len(self._plan), seed)
        self._items: dict[str, str] = {}
        self._ended = 0.0

    async def run(self) -> Summary | None:
        """The whole run; None where it was interrupted. Raises HashweirError where a part did not start."""
        from hashweir import wiring
        from hashweir.logs import setup
        from hashweir.metrics import Metrics

        log = setup("error")
        store = wiring.store(self._config)
        await store.create(self._config.store.shards)
        broker = wiring.memory_broker()
        lifecycle, parts = wiring.memory_worker(self._config, broker, store, Metrics(), log)
        with Board(self._progress), ThreadPoolExecutor(2, thread_name_prefix="generate") as threads:
            running = asyncio.create_task(lifecycle.run())
            work = asyncio.create_task(self._work(store, parts.sandbox, broker, threads))
            await asyncio.wait([running, work], return_when=asyncio.FIRST_COMPLETED)
            ended_by_itself = running.done()
            lifecycle.stop()
            work.cancel()
            code = await running
            with suppress(asyncio.CancelledError):
                await work
        if ended_by_itself:
            if code != OK:
                raise HashweirError("internal_error", "the worker ended early; its log is above")
            return None
        return self._summary()

    async def _work(self, store: Store, sandbox: Sandbox, broker: Stream, threads: ThreadPoolExecutor) -> None:
        self._progress.stage = "filling the sets"
        await self._fill(store, sandbox, threads)
        self._progress.stage = "generating uploads"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._produce(broker, threads))
            tasks.create_task(self._read(broker))

    # ── what is known ──

    async def _fill(self, store: Store, sandbox: Sandbox, threads: ThreadPoolExecutor) -> None:
        """Two sets, each with its originals' fingerprints, and strangers beside the pictures."""
        from hashweir.sets import commands
        from hashweir.sets.read import Row

        for name in (PICTURE_SET, TEXT_SET):
            await commands.create(store, commands.LOCAL, name=name, owner="demo", origin="own-review")
        rows: dict[str, list[Row]] = {
            PICTURE_SET: [
                Row(kind="pdq", value=value, item=f"stranger-{number}", quality=100)
                for number, value in enumerate(strangers(self._seed))
            ],
            TEXT_SET: [],
        }
        loop = asyncio.get_running_loop()

        async def fill(is_text: bool, number: int) -> None:
            sample = await loop.run_in_executor(threads, original, self._seed, is_text, number)
            rows[TEXT_SET if is_text else PICTURE_SET].extend(await _rows(sandbox, sample, item_name(is_text, number)))

        await asyncio.gather(*(fill(*one) for one in originals()))
        for name, lines in rows.items():
            await commands.import_rows(store, commands.LOCAL, name, enumerate(lines, start=1), labels=("synthetic",))
            await commands.activate(store, commands.LOCAL, name)
        self._progress.known = sum(map(len, rows.values()))

    # ── the stream ──

    async def _produce(self, broker: Stream, threads: ThreadPoolExecutor) -> None:
        uploads = self._generated(threads)
        ready = [one async for one in _first(uploads, AHEAD, self._progress)]
        self._progress.stage = "streaming"
        self._progress.began = time.monotonic()
        topic = f"{self._config.kafka.topic_prefix}uploads"
        number = 0
        async for planned, sample in _chain(ready, uploads):
            due = self._progress.began + number / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            headers = (
                ("ce_id", planned.name.encode()),
                ("ce_source", b"demo"),
                ("ce_surface", b"post"),
                ("content-type", sample.media_type.encode()),
            )
            record = broker.produce(topic, sample.content, key=planned.name.encode(), headers=headers)
            self._sent[planned.name] = record.timestamp_ms
            number += 1
            self._progress.sent = number

    async def _generated(self, threads: ThreadPoolExecutor) -> AsyncIterator[tuple[Planned, Sample]]:
        """The planned uploads in order, generated a little ahead of who takes them."""
        loop = asyncio.get_running_loop()
        pending: list[tuple[Planned, asyncio.Future[Sample]]] = []
        for planned in self._plan.values():
            pending.append((planned, loop.run_in_executor(threads, make, self._seed, planned)))
            if len(pending) > 8:
                first, sample = pending.pop(0)
                yield first, await sample
        for planned, sample in pending:
            yield planned, await sample

    async def _read(self, broker: Stream) -> None:
        """Take every verdict off the stream, until there is one for each upload or nothing moves any more."""
        from hashweir.shards.layout import item_id

        self._items = {
            item_id(TEXT_SET if is_text else PICTURE_SET, item_name(is_text, number)): item_name(is_text, number)
            for is_text, number in originals()
        }
        topic = f"{self._config.kafka.topic_prefix}verdicts"
        read = dict.fromkeys(broker.partitions(topic), 0)
        moved = time.monotonic()
        while self._progress.judged < len(self._plan) and time.monotonic() - moved < PATIENCE_S:
            await broker.wait(0.5)
            for partition, offset in read.items():
                records = broker.read(partition, offset, 1000)
                read[partition] += len(records)
                for record in records:
                    verdict = msgspec.json.decode(record.value, type=Verdict)
                    self._latencies.append(record.timestamp_ms - self._sent[verdict.upload])
                    self._judge(verdict)
                    moved = time.monotonic()
            if self._progress.stage != "streaming":
                moved = time.monotonic()
        self._ended = time.monotonic()

    def _judge(self, verdict: Verdict) -> None:
        planned, progress = self._plan[verdict.upload], self._progress
        active = [hit for hit in verdict.hits if hit.state == "active"]
        right = [hit for hit in active if self._items.get(hit.item) == planned.original]
        wrong = len(active) > len(right)
        progress.judged += 1
        progress.unscanned += verdict.outcome == "unscanned"
        progress.false += wrong
        if planned.original is not None:
            progress.planted += 1
            progress.matched += bool(right)
            if not right:
                progress.missed_edits.append(f"{planned.name} ({planned.edit})")
        if active:
            progress.hit(planned.name, planned.edit or "not planted", active[0])

    def _summary(self) -> Summary:
        """Uploads without a verdict are `unjudged`, and missed where they were planted."""
        progress = self._progress
        planted = sum(one.original is not None for one in self._plan.values())
        latencies = sorted(self._latencies)
        seconds = max(self._ended - progress.began, 0.001)
        return Summary(
            uploads=progress.judged,
            planted=planted,
            matched=progress.matched,
            missed=planted - progress.matched,
            false=progress.false,
            unscanned=progress.unscanned,
            unjudged=len(self._plan) - progress.judged,
            p50_ms=_quantile(latencies, 0.5),
            p99_ms=_quantile(latencies, 0.99),
            seconds=round(seconds, 2),
            per_second=round(progress.judged / seconds, 1),
            seed=self._seed,
        )


async def _rows(sandbox: Sandbox, sample: Sample, name: str) -> list[Row]:
    """Rows for an original's canonical perceptual fingerprints, computed as for every upload."""
    from hashweir.sets.read import Row

    scan = await sandbox.scan(Upload(source="demo", id=name, media_type=sample.media_type, content=sample.content))
    return [
        Row(kind=one.kind, form=one.form, value=one.value, item=name, quality=one.quality, length=one.length)
        for one in scan.fingerprints
        if (one.kind, one.form) in (("pdq", "canonical"), ("tlsh", "normal"))
    ]


async def _first(
    uploads: AsyncIterator[tuple[Planned, Sample]], most: int, progress: Progress
) -> AsyncIterator[tuple[Planned, Sample]]:
    while progress.generated < most:
        try:
            one = await anext(uploads)
        except StopAsyncIteration:
            return
        progress.generated += 1
        yield one


async def _chain(
    ready: list[tuple[Planned, Sample]], rest: AsyncIterator[tuple[Planned, Sample]]
) -> AsyncIterator[tuple[Planned, Sample]]:
    while ready:
        yield ready.pop(0)
    async for one in rest:
        yield one


def _quantile(ordered: list[int], share: float) -> float:
    return float(ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]) if ordered else 0.0


def _tell(out: Console, summary: Summary) -> None:
    out.print(
        f"{summary.uploads} uploads in {summary.seconds} s; {summary.planted} edited copies planted: "
        f"{summary.matched} matched, {summary.missed} missed, {summary.false} false; {summary.unscanned} unscanned; "
        f"from upload to verdict {summary.p50_ms:.0f} ms in the middle, {summary.p99_ms:.0f} ms at the 99th "
        f"percentile ({summary.transport} stream, seed {summary.seed})"
    )
