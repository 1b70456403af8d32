"""Look-back: what became known only after an upload was judged is held against it all the same.

    entry becomes active ─► near which of the ring's uploads? ─┐
    set reaches further, former process' uploads ─► near what? ─┼─► decided again as a whole ─► said, if it says more
    judged while capped, or while the view changed ────────────┘     by the view of now          than was said before

An upload is decided again from its fingerprints, by the same code as before, so a late verdict has the body that a
fresh one would have at its position, and a repeat is a repeat. An entry counts as looked back when every verdict that
it leads to is acked; where the process dies before that, its successor looks back with all it saved of the ring.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np

from hashweir.errors import Unreachable
from hashweir.logs import Logger
from hashweir.metrics import Metrics
from hashweir.model import Judged, Scan, Set, Upload, Verdict
from hashweir.pipeline.decide import verdict_id
from hashweir.pipeline.emit import Emitter
from hashweir.pipeline.nearby import near_few, near_known, near_many
from hashweir.pipeline.retry import RetryPolicy
from hashweir.pipeline.ring import Ring
from hashweir.pipeline.ring_keeper import Keeper
from hashweir.ports import Clock, Known, Sink, SlotChange, View
from hashweir.shards.layout import SLOT_FORMS
from hashweir.shards.tables import ACTIVE

HITS, CAPPED = 1, 2
"""Marks of an upload: something is near it (in whatever state), and its action was capped (a degraded view)."""
FEW = 256
"""Up to so many new entries scan the ring one by one; making an index of it costs as much as some hundred scans."""
MOST = 100_000
"""New entries that are held; from there on the ring's uploads look into the view's index instead."""
AT_ONCE = 16
"""Uploads decided again at a time: a flood of copies waits for few acks, and live lookups for few of these."""
LOOK_EVERY_S = 0.2
COLLECT_S = 0.02
RETRY_S = 5.0
_TOGETHER = 1024
_encode = msgspec.json.Encoder(order="deterministic").encode


class Again(Protocol):
    """What is asked of `match.Matcher`."""

    async def again(self, upload: Upload, scan: Scan) -> Judged:
        """The verdict on an upload that was scanned before."""


class LookBack:
    """Looks back for one worker. `remember` and `on_change` are called on the loop that runs `run`."""

    def __init__(
        self,
        *,
        ring: Ring,
        judge: Again,
        emitter: Emitter,
        sink: Sink,
        known: Known,
        usable_view: Callable[[], Awaitable[View]],
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        keeper: Keeper,
    ) -> None:
        """`emitter` says `via: look-back`; `keeper` keeps this ring."""
        self._ring, self._judge, self._emitter, self._sink = ring, judge, emitter, sink
        self._known, self._usable_view = known, usable_view
        self._clock, self._metrics, self._log = clock, metrics, log
        self._keeper = keeper
        self._retry = RetryPolicy()
        self._new: list[SlotChange] = []
        self._late: list[int] = []
        self._sweep = self._capped = False
        self._sets: Mapping[str, Set] | None = None
        self._due = asyncio.Event()

    # ── what it is told ──

    def remember(self, upload: Upload, judged: Judged) -> None:
        """Keep an upload whose verdict was acked. One without any fingerprint can never be found again."""
        if not self._ring.uploads or judged.scan is None or not judged.scan.fingerprints:
            return
        number = self._ring.add(
            upload, judged.scan, at_ms=self._clock.now_ms(), said=_said(judged.verdict), marks=_marks(judged)
        )
        self._capped = self._capped or judged.degraded
        if judged.verdict.position != self._known.view().position:
            # What was changed while it was on its way was looked for before it stood in the ring.
            self._late.append(number)
            self._due.set()

    def on_change(self, change: SlotChange) -> None:
        """Note a change that is visible from now on."""
        active = change.image[SLOT_FORMS[change.kind].state] == ACTIVE  # a damaged byte may be no state at all
        if not active or self._sweep or not len(self._ring):
            return
        self._new.append(change)
        if len(self._new) > MOST:
            self._new, self._sweep = [], True
        self._due.set()

    # ── running ──

    async def run(self) -> None:
        """Look back until cancelled; the ring is saved again and again, and at the end."""
        if await self._keeper.load():
            # What became known while nobody looked is not told: it was there at the start.
            self._sweep = self._capped = True
            self._due.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look(), name="look back")
                tasks.create_task(self._keeper.run(), name="save the ring")
        finally:
            await self._keeper.save()

    async def _look(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._due.wait()
                await asyncio.sleep(COLLECT_S)  # changes come in runs
            except TimeoutError:
                pass  # a policy or a standing changes without an event
            self._due.clear()
            try:
                await self._pass()
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be left out for it
                self._log.error("lookback.failed", error=error, exc_info=error)
                self._sweep = self._capped = True
                await asyncio.sleep(RETRY_S)
            self._measure()

    async def _pass(self) -> None:
        view = await self._usable_view()
        marks = self._policy_changes(view)
        new, self._new = self._new, []
        sweep, self._sweep = self._sweep, False
        late, self._late = self._late, []
        if self._capped and view.standing == "verified":
            marks |= CAPPED
            self._capped = False
        numbers = {*late, *(self._ring.marked(marks) if marks else ())}
        if sweep:
            numbers |= await self._near_anything()
        elif new:
            numbers |= await self._near_entries(new, view)
        seen: set[str] = set()
        newest_first = sorted(numbers, reverse=True)
        for first in range(0, len(newest_first), AT_ONCE):
            some = newest_first[first : first + AT_ONCE]
            await asyncio.gather(*(self._decide_again(number, seen) for number in some))

    def _policy_changes(self, view: View) -> int:
        """Marks of the uploads that the sets' changes since the last time may concern; perhaps all are swept."""
        before, self._sets = self._sets, view.sets
        if before is None:
            self._sweep = self._sweep or len(self._ring) > 0  # what was there when the first of them were judged?
        if before is None or before is view.sets:
            return 0
        marks = 0
        for name, now in view.sets.items():
            was = before.get(name)
            if was is None:
                # Entries of a new set are told one by one; unless it could not be read when they came.
                self._sweep = self._sweep or bool(view.holds(name))
                continue
            weaker = now.state == "off" or (was.state, now.state) == ("active", "shadow")
            # Of one version it is another state where a ruling ends what was kept against a rewound store.
            if weaker or (was.version, was.state) == (now.version, now.state):
                continue
            marks |= HITS
            self._sweep = self._sweep or _reaches(was) != _reaches(now)
        return marks

    async def _decide_again(self, number: int, seen: set[str]) -> None:
        """Decide one upload again, and say so where it is news. `seen` has the ids of those that need not be."""
        result = "failed"
        try:
            if number < self._ring.first:
                return  # overwritten meanwhile
            said, (upload, scan) = self._ring.said(number), self._ring.kept(number)
            name = verdict_id(upload.source, upload.id)
            if name in seen:
                return  # the newest copy of an upload speaks for all
            seen.add(name)
            judged = await self._judge.again(upload, scan)
            digest = _said(judged.verdict)
            if digest != said:
                await self._publish(judged, upload)
            result = "same" if digest == said else judged.verdict.outcome
            self._ring.say(number, digest, _marks(judged))
            self._capped = self._capped or judged.degraded
        except Exception as error:  # noqa: BLE001 - one upload's error ends at that upload
            self._log.error("lookback.failed", error=error, exc_info=error)
        self._metrics.late_verdicts.labels(result).inc()

    async def _publish(self, judged: Judged, upload: Upload) -> None:
        messages, attempt = self._emitter.messages(judged, upload), 0
        while True:
            attempt += 1
            try:
                await self._sink.publish(messages)
            except Unreachable as error:
                self._metrics.retries.labels("sink").inc()
                if attempt == 1:
                    self._log.warning("stream.publish_failed", reason=error.reason)
                await asyncio.sleep(self._retry.delay(attempt, random.random()))
            else:
                return

    # ── finding ──

    async def _near_entries(self, new: Sequence[SlotChange], view: View) -> set[int]:
        tables, began = self._ring.tables(), time.perf_counter()
        find = near_few if len(new) <= FEW else near_many
        found = await asyncio.to_thread(find, tables, new, view.sets)
        self._metrics.look_back_entries.inc(len(new))
        self._metrics.look_back_entry.observe((time.perf_counter() - began) / len(new))
        return found

    async def _near_anything(self) -> set[int]:
        """The uploads that are near whatever is known now."""
        numbers: set[int] = set()
        for block in self._ring.tables():
            for kind, values in block.by_kind.items():
                for first in range(0, len(values.values), _TOGETHER):
                    some = [row.tobytes() for row in values.values[first : first + _TOGETHER]]
                    view = await self._usable_view()
                    rows = await asyncio.to_thread(near_known, view, kind, some)
                    numbers.update(block.numbers(kind, np.array(rows, np.int64) + first).tolist())
        self._metrics.look_back_sweeps.inc()
        return numbers

    def _measure(self) -> None:
        self._metrics.look_back_uploads.set(len(self._ring))
        self._metrics.look_back_bytes.set(self._ring.bytes)
        self._metrics.look_back_oldest.set(self._ring.oldest_ms / 1000)
        self._metrics.look_back_waiting.set(len(self._new))


# ── pure ──


def _said(verdict: Verdict) -> int:
    """What a verdict says of known media, as 64 bits. Only where this changes, a late verdict is due."""
    found = _encode((verdict.action, verdict.hits, verdict.hits_total))
    return int.from_bytes(hashlib.blake2b(found, digest_size=8).digest(), "big")


def _marks(judged: Judged) -> int:
    return HITS * bool(judged.verdict.hits_total) | CAPPED * judged.degraded


def _reaches(one: Set) -> tuple[object, ...]:
    """What decides which uploads a set finds at all."""
    return one.state != "off", one.radius, one.min_quality, one.surfaces, one.forms
