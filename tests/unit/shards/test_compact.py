"""Views stay as they were and memory stays bounded, however often slots change and tables are compacted."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from itertools import count, cycle

import pytest
from msgspec.structs import replace

from hashweir.hashing import HASHERS
from hashweir.model import Entry, Kind, Set
from hashweir.ports import Position, SetsState, SlotChange
from hashweir.shards.compact import Compaction
from hashweir.shards.known import LiveKnown, Trust
from hashweir.shards.layout import pack
from hashweir.shards.table import Table
from hashweir.shards.tables import Tables
from hashweir.shards.view import KnownView
from tests.contract.following import SetClock, finds
from tests.contract.stores import entries, shard_of

KINDS: tuple[Kind, ...] = ("pdq", "tlsh", "md5")
POOL = [entry for entry, _ in zip(entries(3, kinds=KINDS), range(60), strict=False)]


class World:
    """A copy that is fed changes directly, and what it must hold."""

    def __init__(self, least_garbage: int) -> None:
        self.known = LiveKnown(SetClock(), tables=Tables(least_garbage))
        self.known.begin(2)
        here = Set(name="known", owner="a team", origin="own-review", state="active", number=7)
        self.known.put_sets(SetsState(position=Position(epoch=1, seq=1), sets=(here,), time_ms=0))
        for shard in self.known.shards:
            shard.rebase(Position(epoch=1, seq=0))
        self.places: dict[str, int] = {}
        self.active: dict[str, Entry] = {}
        self._free = {(shard, kind): count() for shard in (0, 1) for kind in KINDS}
        self._turn = count()

    def change(self, entry: Entry, active: bool) -> None:
        """Add an entry, or withdraw it where it is active."""
        shard = self.known.shards[shard_of(entry)]
        if entry.id not in self.places:
            self.places[entry.id] = next(self._free[shard.number, entry.kind])
        now = replace(entry, state="active" if active else "retired", added_ms=next(self._turn))
        image, side = pack(now, 7)
        position = Position(epoch=1, seq=shard.position.seq + 1)
        shard.apply(
            SlotChange(
                shard=shard.number,
                position=position,
                kind=entry.kind,
                slot=self.places[entry.id],
                image=image,
                side=side,
                at_ms=0,
            )
        )
        if active:
            name = now.item_name if len(now.item_name.encode()) <= 18 else ""
            self.active[entry.id] = replace(now, item_name=name)
        else:
            self.active.pop(entry.id, None)

    def publish(self) -> KnownView:
        """Make it visible."""
        self.known.publish(Trust(loaded=True, doubtful=False, verified_at=0.0))
        return self.known.view()

    def compact(self) -> int:
        """Compact what is due; how many tables that was."""
        done = 0
        while (work := self.known.compaction()) is not None:
            work.build()
            work.finish()
            done += 1
        return done


def seen(view: KnownView) -> dict[str, Entry]:
    """All that a view finds of the pool, and its counts checked against that."""
    found = {one.id: one for entry in POOL for one in finds(view, entry)}
    for kind in KINDS:
        form = next(entry.form for entry in POOL if entry.kind == kind)
        items = sorted({entry.item for entry in POOL})
        counts = [sum(one.item == item and one.kind == kind for one in found.values()) for item in items]
        assert view.count_entries(kind, form, items) == counts
    return found


@pytest.mark.slow
def test_views_stay_as_they_were_over_changes_and_compactions() -> None:
    """A view finds what was active when it was made, for as long as it is held, whatever moves meanwhile."""
    rng, world, held = random.Random(5), World(least_garbage=8), list[tuple[KnownView, dict[str, Entry]]]()
    compacted = 0
    for turn in range(60):
        work = world.known.compaction() if turn % 3 else None
        if work is not None:
            work.build()
        for entry in rng.sample(POOL, rng.randint(1, 9)):
            world.change(entry, rng.random() < 0.6)
        if work is not None:  # what changed since it was begun is brought after
            work.finish()
            compacted += 1
        view = world.publish()
        assert seen(view) == world.active
        assert view.holds("known") == {entry.kind for entry in world.active.values()}
        held.append((view, dict(world.active)))
        if len(held) > 4:
            del held[rng.randrange(len(held))]
        for old, active in held:
            assert seen(old) == active
        for shard in world.known.shards:
            for kind in KINDS:
                if shard.count(kind):
                    assert shard.snapshot(kind, 0).intact()
    assert compacted > 8


def test_threads_search_one_state_while_tables_are_compacted() -> None:
    """The thread's answers never change, though every one of its rows is garbage in the end."""
    world = World(least_garbage=4)
    for entry in POOL:
        world.change(entry, True)
    view = world.publish()
    before, odd, done = seen(view), list[object](), threading.Event()

    def look() -> None:
        # With a rest after each: threads that never pause would leave the writer no interpreter.
        for entry in cycle(POOL):
            if (now := finds(view, entry)) != [before[entry.id]]:
                odd.append(now)
            if done.wait(0.001):
                return

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        for entry in POOL:
            world.change(entry, turn % 2 == 1)
        world.publish()
        world.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert odd == []
    assert seen(view) == before
    assert seen(world.publish()) == world.active


@pytest.mark.slow
def test_memory_does_not_grow_over_200_compactions() -> None:
    """Old tables end with their last view, and a table is as large as what it holds."""
    world, old = World(least_garbage=30), list[weakref.ref[Table]]()
    for entry in POOL:
        world.change(entry, True)
    world.publish()
    compactions, turn, rows = 0, 0, list[int]()
    while compactions < 200:
        turn += 1
        for entry in POOL:
            world.change(entry, turn % 2 == 0)
        world.publish()
        old.extend(weakref.ref(table) for table in world.known.tables.by_key.values() if table.garbage > 30)
        compactions += world.compact()
        rows.append(sum(len(table) for table in world.known.tables.by_key.values()))
    world.publish()
    world.publish()
    world.publish()
    gc.collect()
    assert [one for one in old if one() is not None] == []
    assert max(rows[len(rows) // 2 :]) <= max(rows[: len(rows) // 2])
    assert len(world.known.tables._leaving) <= 2 * len(POOL)


def test_a_compaction_that_is_given_up_changes_nothing() -> None:
    """Built and dropped, as when the follower is cancelled."""
    world = World(least_garbage=4)
    for entry in POOL:
        world.change(entry, True)
        world.change(entry, False)
        world.change(entry, True)
    before = seen(world.publish())
    work = world.known.compaction()
    assert isinstance(work, Compaction)
    work.build()
    assert seen(world.publish()) == before == world.active


def test_values_are_of_their_kinds() -> None:
    """So that every slot form is among them."""
    assert {HASHERS[entry.kind].width for entry in POOL} == {32, 35, 16}
