"""Follow a store's shards and sets into memory, and know at any moment how far the copy may be trusted.

One task reads changes of all shards with one blocking read, applies them, asks all heads, and only then publishes: in
the quiet case nothing is visible that a head has not confirmed. Another task waits for the sets. A third looks for
damage that no sequence shows. A fourth does the tables' upkeep, in threads. Long because they share one state.

    read changes ─► apply ─► ask heads ─► publish ─► re-read what is doubtful ─┐
          ▲                                                                    │
          └────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress

from hashweir.errors import ConfigError, HashweirError, Refused, Unreachable
from hashweir.ports import Clock, SlotChange, Store
from hashweir.shards.keep import Saver
from hashweir.shards.known import LiveKnown, Trust
from hashweir.shards.reread import Rereader
from hashweir.shards.scrub import Scrubber
from hashweir.shards.shard import Gap
from hashweir.shards.subset import Subset
from hashweir.shards.table import Table
from hashweir.shards.trust import Alarms, Followed, OnAlarm, ShardStats

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_TEND_S = 0.1
_REST = 3.0
"""Merging rests this many times as long as it worked: an import then costs a quarter of a core for it, not all of one,
and the tail that searches scan is a few times longer."""
_HURRY = 1 / 16
"""Without a rest where a table has grown by more than this share: what was just loaded has no slices at all."""
AT_ONCE = 256
"""Changes that are applied, or told, before others on the loop have their turn: a millisecond."""
_APART_S = 0.04
"""From one read that brought more than that to the next: what a step costs besides, 2 ms, is paid for fewer of them."""

OnChange = Callable[[SlotChange], None]


def _yielding() -> None:
    """The calling thread takes what others leave of the processors. On Linux a thread has a priority of its own.

    Only for what computes without the interpreter: a thread that waits for a processor with it makes all others wait.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # where a sandbox forbids it, it merges all the same
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10))


def _ignore(*_: object) -> None:
    """Where nobody listens."""


class Follower:
    """Keeps `known` live while `run` runs. Everything happens on the loop that runs it."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        only: Subset | None = None,
        saver: Saver | None = None,
        soft_limit_s: float = 10.0,
        hard_limit_s: float = 300.0,
        ask_s: float = 1.0,
        scrub_round_s: float = 10.0,
        most: int = 1000,
        on_change: OnChange = _ignore,
        on_alarm: OnAlarm = _ignore,
        on_trouble: Callable[[str], None] = _ignore,
    ) -> None:
        """Of the store's shards all are followed, or `only` some; a `saver` begins with a saved copy.

        Ages are judged by `clock.monotonic`. Heads are asked after every change and at least every `ask_s`. Every
        chunk is compared with the store's once in `scrub_round_s` seconds. `most` bounds the changes of a shard per
        read. `on_change` is called for each applied change once it is visible, also for those found by a re-read, but
        not for what was there at the start. `on_alarm` gets a reason code, a shard (-1 for the sets) and a sentence,
        when an alarm begins; `on_trouble` the reason each time that the store gives no answer or a refusal. None may
        raise or block.
        """
        self.known = LiveKnown(clock, soft_limit_s, hard_limit_s)
        self.ready = asyncio.Event()
        """Set once everything was verified for the first time."""
        self.tended = asyncio.Event()
        """Set while no upkeep of tables is due, as last seen."""
        self.trouble: HashweirError | None = None
        """Why the store gave no answer last time; None while it answers."""
        self.alarms = Alarms(on_alarm)
        self._store, self._clock = store, clock
        self._saver = saver
        self._only, self._ask_s, self._most = only, ask_s, most
        self._on_change, self._on_trouble = on_change, on_trouble
        self._chunks = Rereader(store, clock, self.alarms)
        self._scrubber = Scrubber(store, self._chunks, self.known.tables, self.alarms, scrub_round_s)
        self._followed: list[Followed] = []
        self._by_number: dict[int, Followed] = {}
        self._opened = asyncio.Event()
        self._partial = False
        self._sets_at = 0.0
        self._sets_rewound = False
        self._no_sets = set[int]()
        """Numbers that entries name and no set has: damage that was accepted. Nobody asks for them again."""

    # ── what others read ──

    def stats(self) -> tuple[ShardStats, ...]:
        """One line per shard, for metrics."""
        return tuple(one.stats() for one in self._followed)

    async def run(self) -> None:
        """Follow until cancelled. An unreachable store is waited for; what was verified stays and ages.

        Raises ConfigError(shards_mismatch) where the store has not as many shards as those to follow are of.
        """
        try:
            await self._run()
        except asyncio.CancelledError:
            if self._saver:
                await self._saver.last()
            raise

    async def _run(self) -> None:
        upkeep = [self._repeat(self._scrub), self._tend(), *([self._saver.run()] if self._saver else [])]
        try:
            async with asyncio.TaskGroup() as tasks:
                for work in (self._repeat(self._step), self._repeat(self._step_sets), *upkeep):
                    tasks.create_task(work)
        except* ConfigError as group:
            error = group.exceptions[0]
        else:
            return
        raise error

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step for ever. Where the store fails it, pause for longer and longer, up to a second."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                await step()
                pause = _FIRST_PAUSE_S
            except (Unreachable, Refused) as error:
                self.trouble = error
                self._on_trouble(error.reason)
                if error.reason == "store_not_created":
                    self._emptied()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    # ── shards ──

    async def _step(self) -> None:
        if not self._opened.is_set():
            await self._open()
        now = self._clock.monotonic()
        if due := [one for one in self._followed if one.reread and one.retry_at <= now]:
            await self._chunks.reread(due)
        behind = [one for one in self._followed if one.behind]
        # A doubt that the next head can end is not slept on; one that a re-read has to end has its own pause.
        urgent = bool(behind) or any(one.doubt and not one.reread for one in self._followed)
        wait_s = 0.0 if urgent else min([self._ask_s, *(0.05 for one in self._followed if one.reread)])
        changes = await self._read(wait_s)
        read_at = self._clock.monotonic()
        self._partial = True
        await self._take(changes, behind)
        if any(one.doubt for one in self._followed):
            self._publish()  # before anything that may take long: from here on nobody may use it
        await self._fill()
        asked_at = self._clock.monotonic()
        heads = await self._store.heads()
        if len(heads) != self._store.shards:
            raise Refused("store_not_created")
        for one in self._followed:
            one.compare(heads[one.shard.number], asked_at)
        for change in changes:
            self._by_number[change.shard].live_s = (heads[change.shard].time_ms - change.at_ms) / 1000
        self.trouble = None
        self._partial = False
        self._publish()
        await self._tell()
        if len(changes) > AT_ONCE and not any(one.doubt for one in self._followed):
            await asyncio.sleep(read_at + _APART_S - self._clock.monotonic())

    async def _open(self) -> None:
        await self._store.open()
        there = self._store.shards
        if self._only and self._only.total != there:
            text = f"shards.only is {self._only}, but the store has {there} shards"
            raise ConfigError(text, "shards_mismatch")
        try:
            self.known.begin(there, self._only)
        except ValueError as e:
            raise Refused("store_layout", str(e)) from None
        followed = [Followed(shard) for shard in self.known.shards]
        if self._saver:
            await self._saver.load(self.known, followed, await self._store.heads())
        self._followed = followed
        self._by_number = {one.shard.number: one for one in self._followed}
        self._opened.set()

    async def _read(self, wait_s: float) -> Sequence[SlotChange]:
        after = {one.shard.number: one.shard.position for one in self._followed if not one.reread}
        if not after:
            await asyncio.sleep(wait_s)
            return ()
        try:
            return await self._store.read_changes(after, int(wait_s * 1000), self._most)
        except Refused as error:
            if error.reason != "store_refused":
                raise
            # A record that can't be read blocks the stream for good; the chunks lead around it.
            for one in self._followed:
                one.distrust("damaged")
            self._publish()
            raise

    async def _take(self, changes: Sequence[SlotChange], behind: Sequence[Followed]) -> None:
        """Apply what was read. A shard whose head promised more, and that gave nothing, lost what it promised.

        In small steps: whoever shares the loop has a turn in between, and sees nothing of what is half done.
        """
        given = {change.shard for change in changes}
        for one in behind:
            if one.shard.number not in given:
                one.distrust("gap")
        for number in sorted(given):
            one, own = self._by_number[number], [change for change in changes if change.shard == number]
            try:
                while own and not one.reread:
                    taken = one.take(own[:AT_ONCE])
                    self._chunks.applied += own[:taken]
                    own = own[taken:]
                    await asyncio.sleep(0)
            except Gap:
                one.distrust("gap")

    async def _fill(self) -> None:
        """Fetch what applied entries name and nobody has read yet: their batches, and sets that are newer."""
        if missing := self.known.missing_batches():
            self.known.put_batches(await self._store.read_batches(missing), missing)
        if lacking := self.known.lacks_sets() - self._no_sets:
            with suppress(Refused):  # `_step_sets` says so. Withdrawals have to go on, whatever a set says.
                await self._read_sets()
                self._no_sets |= lacking

    def _emptied(self) -> None:
        """The store answers that nothing was ever made there. What it had is gone."""
        for one in self._followed:
            if one.loaded and one.doubt is None:
                one.rewound = True
                one.distrust("missing")
        self._publish()

    # ── sets ──

    async def _step_sets(self) -> None:
        await self._opened.wait()
        await self._read_sets()
        self._publish()
        asked_at = self._clock.monotonic()
        while not await self._store.wait_sets(self.known.sets_position, int(self._ask_s * 1000)):
            self._sets_at = asked_at
            asked_at = self._clock.monotonic()

    async def _read_sets(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            found = await self._store.read_sets()
        except Refused as error:
            # Those verified last stay, and age: what can't be read may be that a set was switched off.
            if error.reason == "store_refused":
                self.alarms.judge("store_refused", -1, True, str(error))
            raise
        self.alarms.active.pop(("store_refused", -1), None)
        self._sets_rewound = self.known.put_sets(found)
        self._sets_at = asked_at
        self.alarms.judge(
            "store_rewound", -1, self._sets_rewound, "the store lost changes of sets: run `hashweir sets reconcile`"
        )

    # ── damage and upkeep ──

    async def _scrub(self) -> None:
        await self.ready.wait()
        await self._scrubber.round(self._followed)

    async def _tend(self) -> None:
        """Do what tables need, one bounded piece after the other, beside serving and applying."""
        await self.ready.wait()  # slices of what is still loading would have to be made again
        merging = ThreadPoolExecutor(1, "merging", _yielding)
        try:
            await self._tend_by(merging)
        finally:
            merging.shutdown(wait=False)

    async def _tend_by(self, merging: Executor) -> None:
        loop, tended = asyncio.get_running_loop(), dict[Table, tuple[int, int]]()
        while True:
            before, tended = tended, {}
            for table in list(self.known.tables.by_key.values()):
                now = tended[table] = len(table), len(table.index)
                was, _ = before.get(table, (0, 0))
                if before.get(table) != now:
                    self.tended.clear()
                    began = loop.time()
                    while await loop.run_in_executor(merging, table.index.tend):
                        if len(table) * (1 - _HURRY) < was:
                            await asyncio.sleep((loop.time() - began) * _REST)
                        began = loop.time()
            if (work := self.known.compaction()) is not None:
                await asyncio.to_thread(work.build)
                work.finish()
            self.tended.set()
            await asyncio.sleep(_TEND_S)

    # ── saying so ──

    def _publish(self) -> None:
        """Show what was applied, unless it is half complete: then the step that made it so will."""
        for one in self._followed:
            text = "the store lost changes that were seen here: run `hashweir sets reconcile`"
            self.alarms.judge("store_rewound", one.shard.number, one.rewound, text)
        doubtful = any(one.doubt for one in self._followed)
        if self._partial and not doubtful:
            return
        loaded = bool(self._followed) and self.known.sets_position.epoch != 0
        loaded = loaded and all(one.loaded for one in self._followed)
        self.known.publish(
            Trust(
                loaded=loaded,
                doubtful=doubtful,
                rewound=self._sets_rewound or any(one.rewound for one in self._followed),
                verified_at=min([self._sets_at, *(one.verified_at for one in self._followed)]),
                as_of_ms=min((one.as_of_ms for one in self._followed), default=0),
            )
        )
        if loaded and not doubtful and not self._partial:
            self.ready.set()

    async def _tell(self) -> None:
        """Tell what is visible by now, and let go of what no longer is."""
        applied = self._chunks.take_applied()
        for first in range(0, len(applied), AT_ONCE):
            for change in applied[first : first + AT_ONCE]:
                self._on_change(change)
            await asyncio.sleep(0)
        more = True
        while more:
            await asyncio.sleep(0)
            more = self.known.sweep()
