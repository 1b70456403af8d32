"""What is known equals a dictionary of what was written, on every store, whatever goes wrong in between.

Long because each way in which a store can be wrong is a test of its own against the same dictionary.
"""

from __future__ import annotations

import asyncio
import copy
import random
import threading
from itertools import islice

import pytest
from msgspec.structs import replace

from hashweir.adapters.memory_store import MemoryStore
from hashweir.hashing import HASHERS
from hashweir.model import KINDS, Batch, Entry, Kind
from hashweir.ports import Accept, Edit, Query, SlotChange, Store, View
from tests.contract.following import KNOWN, Between, SetClock, caught_up, finds, following, found_ids, until
from tests.contract.stores import SHARDS, Deployments, entries, part, shard_of

SEED = 4
POOL = list(islice(entries(SEED), 40))


class Writer:
    """Writes entries of set `known` and remembers which are active."""

    def __init__(self, store: Store, number: int) -> None:
        self.store, self.number = store, number
        self.active: set[str] = set()
        self.operations = 0

    async def add(self, *some: Entry) -> None:
        await self._write("add", some)
        self.active |= {entry.id for entry in some}

    async def withdraw(self, *some: Entry) -> None:
        await self._write("withdraw", some)
        self.active -= {entry.id for entry in some}

    async def _write(self, verb: str, some: tuple[Entry, ...]) -> None:
        self.operations += 1
        for shard in range(SHARDS):
            edits = [
                Edit(verb="add" if verb == "add" else "withdraw", entry=entry, set_number=self.number)
                for entry in some
                if shard_of(entry) == shard
            ]
            if edits:
                await self.store.apply(part(f"{id(self)}-{self.operations}", *edits, shard=shard))


async def begun(store: Store) -> Writer:
    """A store with the set `known`."""
    stored = await store.put_set("first", KNOWN, 0)
    return Writer(store, stored.number)


def counted(view: View, active: set[str]) -> None:
    """Each item has as many entries as the dictionary says; all of one kind and form."""
    for kind, form in {(entry.kind, entry.form) for entry in POOL}:
        items = [*sorted({entry.item for entry in POOL}), "ff" * 8]
        wanted = [
            sum((one.item, one.kind, one.form) == (item, kind, form) for one in POOL if one.id in active)
            for item in items
        ]
        assert view.count_entries(kind, form, items) == wanted


def there(entry: Entry) -> list[Entry]:
    """Nothing but this entry, as a store gives it back: it keeps long names elsewhere."""
    name = entry.item_name if len(entry.item_name.encode()) <= 18 else ""
    return [replace(entry, item_name=name)]


def together(view: View) -> None:
    """Values of several uploads in one search are found as in one search per upload."""
    for kind, form in {(entry.kind, entry.form) for entry in POOL}:
        values = [HASHERS[kind].parse(one.value) for one in POOL if (one.kind, one.form) == (kind, form)]
        queries = [Query(value, 150 * (number % 3), number // 2) for number, value in enumerate(values)]
        found = view.search_many(kind, form, queries, lambda query, entry, distance: True)
        for upload in {one.upload for one in queries}:
            own = [one for one in queries if one.upload == upload]
            alone = view.search(kind, form, [one.value for one in own], 300, _within(own))
            assert [(near.entry, near.distance) for near in found if queries[near.query].upload == upload] == [
                (near.entry, near.distance) for near in alone
            ]


def _within(queries: list[Query]) -> Accept:
    return lambda query, entry, distance: distance <= queries[query].radius


async def test_a_view_equals_a_dictionary_and_stays_as_it_was(fresh: Deployments) -> None:
    """After any operations the view finds the active entries, and a view taken earlier what was active then."""
    rng = random.Random(SEED)
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        async with following(await deployment.connect()) as follower:
            old = []
            for _ in range(25):
                some = rng.sample(POOL, rng.randint(1, 12))
                await (writer.add(*some) if rng.random() < 0.6 else writer.withdraw(*some))
                view = await caught_up(follower, store)
                assert found_ids(view, POOL) == writer.active
                kinds = {entry.kind for entry in POOL if entry.id in writer.active}
                assert view.holds("known") == kinds
                counted(view, writer.active)
                together(view)
                for entry in POOL:
                    assert finds(view, entry) == (there(entry) if entry.id in writer.active else [])
                old.append((view, set(writer.active), view.position))
            for view, active, position in old:
                assert view.position == position
                counted(view, active)
                for entry in POOL:
                    assert finds(view, entry) == (there(entry) if entry.id in active else [])
            # A follower that begins now reads chunks where the other one read changes.
            async with following(await deployment.connect()) as late:
                view = await caught_up(late, store)
                assert (found_ids(view, POOL), view.position) == (writer.active, follower.known.view().position)


async def test_a_search_in_a_thread_sees_one_state_while_changes_arrive(fresh: Deployments) -> None:
    """A view gives the same answer all the time that it is held, however the slots are overwritten."""
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        await writer.add(*POOL[:20])
        async with following(await deployment.connect()) as follower:
            view = await caught_up(follower, store)
            before, done = [finds(view, entry) for entry in POOL], asyncio.Event()

            def look() -> list[list[list[Entry]]]:
                odd = []
                while not done.is_set():
                    if (found := [finds(view, entry) for entry in POOL]) != before:
                        odd.append(found)
                return odd

            looking = asyncio.create_task(asyncio.to_thread(look))
            for turn in range(10):
                await writer.withdraw(*POOL[turn:20])
                await writer.add(*POOL[turn:])
            await caught_up(follower, store)
            done.set()
            assert await looking == []
            assert found_ids(follower.known.view(), POOL) == writer.active


async def test_sets_and_batches_come_along(fresh: Deployments) -> None:
    """A set that is switched off is off within a second; an entry's batch is there when the entry is."""
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        entry = POOL[0]
        async with following(await deployment.connect(), ask_s=1.0) as follower:
            await caught_up(follower, store)
            batch = Batch(origin="vetted-exchange", labels=("a label",))
            await store.put_batch(entry.batch, batch)
            seen: list[Batch | None] = []
            await writer.add(entry)
            await until(lambda: finds(follower.known.view(), entry))
            seen.append(follower.known.view().batch(entry.batch))
            assert seen == [batch]
            before = follower.known.view().position
            await store.put_set("off", replace(KNOWN, state="off"), 1)
            assert await until(lambda: follower.known.view().sets["known"].state == "off") < 1.0
            assert follower.known.view().position != before
            # The very first entry of a new set does not wait for the sets' own turn.
            other = await store.put_set("other", replace(KNOWN, name="other"), 0)
            theirs = next(entries(set_name="other"))
            await Writer(store, other.number).add(theirs)
            await until(lambda: finds(follower.known.view(), theirs), 0.5)


async def test_nothing_is_usable_before_the_first_verified_head(fresh: Deployments) -> None:
    """Before that, and before a store exists at all, the view is empty and says so."""
    async with fresh() as deployment:
        store = await deployment.connect(create=False)
        async with following(store) as follower:
            assert follower.known.view().standing == "empty"
            await until(lambda: follower.trouble is not None)
            assert follower.trouble is not None
            assert follower.trouble.reason == "store_not_created"
            await store.create(SHARDS)
            await asyncio.wait_for(follower.ready.wait(), 5)
            assert follower.known.view().standing == "verified"


async def test_sets_that_cant_be_read_leave_those_verified_last() -> None:
    """They age, as with a silent store, and an alarm says why; entries of known sets come and go all the while."""
    store, clock = MemoryStore(), SetClock()
    await store.create(SHARDS)
    writer, between = await begun(store), Between(store)
    async with following(between, clock) as follower:
        await writer.add(*POOL[:6])
        await caught_up(follower, store)
        between.unreadable = True
        other = await store.put_set("other", replace(KNOWN, name="other"), 0)
        theirs = next(entries(set_name="other"))
        await Writer(store, other.number).add(theirs)
        await writer.withdraw(POOL[0])
        await until(lambda: found_ids(follower.known.view(), POOL) == writer.active)
        await until(lambda: follower.alarms.active == {("store_refused", -1): "a set of a newer version"})
        assert follower.known.view().standing == "verified"
        clock.ahead += 11
        await until(lambda: follower.known.view().standing == "degraded")
        await writer.withdraw(POOL[1])
        await until(lambda: found_ids(follower.known.view(), POOL) == writer.active)
        assert not finds(follower.known.view(), theirs)
        between.unreadable = False
        view = await caught_up(follower, store)
        assert (view.standing, follower.alarms.active) == ("verified", {})
        assert finds(view, theirs)


async def test_a_set_that_never_was_is_asked_for_once() -> None:
    """An entry may name it, where damage was accepted."""
    store = MemoryStore()
    await store.create(SHARDS)
    writer, between = await begun(store), Between(store)
    async with following(between, ask_s=0.02) as follower:
        await caught_up(follower, store)
        await Writer(store, 99).add(POOL[0])
        await caught_up(follower, store)
        before = between.sets_read
        for entry in POOL[1:6]:
            await writer.add(entry)
            await caught_up(follower, store)
        assert between.sets_read == before


async def test_age_is_judged_even_while_nobody_follows() -> None:
    """Soft limit: degraded, under another position, for actions are capped. Hard limit: stale."""
    store, clock = MemoryStore(), SetClock()
    await store.create(SHARDS)
    between = Between(store)
    async with following(between, clock, soft_limit_s=10, hard_limit_s=300) as follower:
        await caught_up(follower, store)
        before = follower.known.view()
        between.down = True
        await until(lambda: follower.trouble is not None)
        assert follower.known.view().standing == "verified"
        clock.ahead = 10.5
        assert follower.known.view().standing == "degraded"
        assert follower.known.view().position != before.position
        assert before.standing == "verified"
        clock.ahead = 301
        assert follower.known.view().standing == "stale"
        between.down = False
        await until(lambda: follower.known.view().standing == "verified")
        assert follower.known.view().position == before.position


def dropped(changes: list[SlotChange]) -> list[SlotChange]:
    """One change is missing in the middle."""
    return changes[:1] + changes[2:]


def trimmed(changes: list[SlotChange]) -> list[SlotChange]:
    """The stream was cut behind the follower's back."""
    return []


def flipped(changes: list[SlotChange]) -> list[SlotChange]:
    """A bit of a record is not what was written."""
    return [replace(one, image=bytes([one.image[0] ^ 1]) + one.image[1:]) for one in changes]


def misplaced(changes: list[SlotChange]) -> list[SlotChange]:
    """A record says another slot."""
    return [replace(one, slot=one.slot + 1) for one in changes]


@pytest.mark.parametrize("fault", [dropped, trimmed, flipped, misplaced])
async def test_a_stream_that_lies_is_found_and_mended_by_chunks(fresh: Deployments, fault: object) -> None:
    """Doubtful from detection until the chunks that differ were read again; then the dictionary again."""
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        between = Between(await deployment.connect())
        async with following(between) as follower:
            await writer.add(*POOL[:10])
            await caught_up(follower, store)
            between.standings.clear()
            between.edit_changes = fault  # type: ignore[assignment]
            await writer.withdraw(*POOL[:4])
            await writer.add(*POOL[10:20])
            took = await until(lambda: between.standings, 2)
            between.edit_changes = list
            view = await caught_up(follower, store)
            assert took < 2
            assert set(between.standings) == {"doubtful"}
            assert (view.standing, found_ids(view, POOL)) == ("verified", writer.active)
            assert follower.alarms.active == {}


async def test_another_server_with_the_same_history_is_verified_again(fresh: Deployments) -> None:
    """A replication id alone changes nothing, once the totals are equal at the same sequence."""
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        between = Between(await deployment.connect())
        async with following(between) as follower:
            await writer.add(*POOL[:10])
            await caught_up(follower, store)
            between.standings.clear()
            before = follower.known.view().as_of_ms
            between.edit_head = lambda _, head: replace(head, replication_id="another")
            await writer.withdraw(POOL[0])
            view = await caught_up(follower, store)
            await until(lambda: follower.known.view().as_of_ms > before)
            assert (view.standing, between.standings, follower.alarms.active) == ("verified", [], {})
            assert found_ids(view, POOL) == writer.active


def snapshot(store: MemoryStore) -> dict[str, object]:
    """All that a memory store would find in an append-only file of this moment."""
    kept = ("_shards", "_sets", "_sets_position", "_batches")
    return {name: copy.deepcopy(getattr(store, name)) for name in kept}


def restore(store: MemoryStore, was: dict[str, object]) -> None:
    """Start the store again from an older file: an older state, the same epochs, another replication id."""
    for name, value in copy.deepcopy(was).items():
        setattr(store, name, value)
    store._replication_id = random.Random().randbytes(20).hex()


@pytest.mark.parametrize("beyond", [False, True], ids=["back", "back and further than before"])
async def test_a_store_that_went_back_resurrects_nothing(beyond: bool) -> None:
    """Withdrawals seen are kept, actions capped, the alarm raised, until a new epoch; only later adds return."""
    store, alarms = MemoryStore(), list[str]()
    await store.create(SHARDS)
    writer = await begun(store)
    between = Between(store)
    async with following(between, on_alarm=lambda reason, *_: alarms.append(reason)) as follower:
        await writer.add(*POOL[:20])
        verified = await caught_up(follower, store)
        was = snapshot(store)
        await writer.withdraw(*POOL[:5])
        await writer.add(*POOL[20:25])
        await store.put_set("off", replace(KNOWN, state="off"), 1)
        await caught_up(follower, store)
        await between.hold()
        between.standings.clear()
        restore(store, was)
        if beyond:
            await writer.add(*POOL[25:])
        between.gate.set()
        view = await caught_up(follower, store)
        assert set(between.standings) == {"doubtful"}
        assert (view.standing, follower.known.view().rewound) == ("degraded", True)
        assert "store_rewound" in alarms
        expected = {entry.id for entry in (*POOL[5:20], *(POOL[25:] if beyond else ()))}
        assert found_ids(view, POOL) == expected
        assert view.sets["known"].state == "off"
        # Somebody adds one of them again: a later change.
        await writer.withdraw(POOL[0])
        await writer.add(POOL[0])
        view = await caught_up(follower, store)
        assert found_ids(view, POOL) == expected | {POOL[0].id}
        assert view.standing == "degraded"
        # One follower that saw the withdrawals and one that did not never share a position.
        async with following(store) as late:
            assert (await caught_up(late, store)).position != view.position
        assert verified.position != view.position
        # Somebody rules that the store is right.
        for shard in store._shards:
            shard.epoch += 1
            shard.changes.clear()
        store._sets_position = replace(store._sets_position, epoch=store._sets_position.epoch + 1)
        await until(lambda: follower.known.view().standing == "verified")
        view = await caught_up(follower, store)
        assert found_ids(view, POOL) == expected | {entry.id for entry in POOL[:5]}
        assert view.sets["known"].state == "active"
        assert follower.alarms.active == {}


@pytest.mark.slow
async def test_random_faults_never_bring_a_withdrawal_back() -> None:
    """Adds, withdrawals, lost records and rewinds by chance: usable views hold no entry withdrawn and not re-added.

    The model: what the follower verified as withdrawn stays so until an add that comes after.
    """
    for seed in range(30):
        rng = random.Random(seed)
        store = MemoryStore()
        await store.create(SHARDS)
        writer = await begun(store)
        between = Between(store)
        async with following(between, ask_s=0.05) as follower:
            await caught_up(follower, store)
            saved, banned = [(snapshot(store), set(writer.active))], set[str]()
            for _ in range(15):
                some = rng.sample(POOL[:12], rng.randint(1, 6))
                match rng.choice(["add", "add", "withdraw", "withdraw", "save", "rewind", "lose", "damage"]):
                    case "add":
                        # An add of what the store has as active changes nothing there, so nothing here.
                        effective = {entry.id for entry in some} - writer.active
                        await writer.add(*some)
                        await caught_up(follower, store)
                        banned -= effective
                    case "withdraw":
                        gone = {entry.id for entry in some} & writer.active
                        await writer.withdraw(*some)
                        await caught_up(follower, store)
                        banned |= gone
                    case "save":
                        saved.append((snapshot(store), set(writer.active)))
                    case "rewind":
                        was, active = rng.choice(saved)
                        restore(store, was)
                        writer.active = set(active)
                        writer.operations += 100
                    case "lose":
                        effective = {entry.id for entry in some} - writer.active
                        between.edit_changes = dropped
                        await writer.add(*some)
                        await caught_up(follower, store)
                        between.edit_changes = list
                        banned -= effective
                    case _:
                        gone = {entry.id for entry in some} & writer.active
                        between.edit_changes = flipped
                        await writer.withdraw(*some)
                        await asyncio.sleep(0)
                        between.edit_changes = list
                        await caught_up(follower, store)
                        banned |= gone
                view = await caught_up(follower, store)
                found = found_ids(view, POOL)
                assert not found & banned, seed
                assert found <= writer.active, seed
                if not follower.known.view().rewound:
                    assert found == writer.active, seed


async def test_an_epoch_that_was_left_is_a_rewind_and_not_a_ruling() -> None:
    """A store that goes back behind its reconciliation has not been reconciled."""
    store = MemoryStore()
    await store.create(SHARDS)
    writer = await begun(store)
    async with following(store) as follower:
        await writer.add(*POOL[:6])
        await caught_up(follower, store)
        was = snapshot(store)
        for shard in store._shards:
            shard.epoch += 1
            shard.changes.clear()
        await caught_up(follower, store)
        await writer.withdraw(*POOL[:3])
        view = await caught_up(follower, store)
        assert view.standing == "verified"
        restore(store, was)
        await until(lambda: follower.known.view().standing == "degraded")
        view = await caught_up(follower, store)
        assert found_ids(view, POOL) == {entry.id for entry in POOL[3:6]}


async def test_a_ruling_is_a_doubt_of_its_shard_alone(fresh: Deployments) -> None:
    """What wakes the reader is no damage, and the other shards' streams go on."""
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        await writer.add(*POOL[:6])
        troubles = list[str]()
        watched = Between(await deployment.connect())
        async with following(watched, ask_s=5.0, on_trouble=troubles.append) as follower:
            await caught_up(follower, store)
            watched.standings.clear()
            await store.new_epoch(0)
            view = await caught_up(follower, store)
            assert found_ids(view, POOL) == writer.active
            assert (troubles, len(watched.standings)) == ([], len(KINDS))


async def test_stopping_is_clean_while_the_store_does_not_answer() -> None:
    """Cancelled in whatever await, a follower ends at once."""
    store = MemoryStore()
    await store.create(SHARDS)
    between = Between(store)
    async with following(between) as follower:
        await caught_up(follower, store)
        between.gate.clear()
    assert len(asyncio.all_tasks()) == 1


async def test_changes_are_told_once_when_they_are_visible() -> None:
    """The hook hears of every change after the start, those that a re-read found included."""
    store = MemoryStore()
    await store.create(SHARDS)
    writer = await begun(store)
    await writer.add(*POOL[:3])
    between = Between(store)
    told = list[tuple[int, Kind, int, bytes]]()
    async with following(
        between, on_change=lambda one: told.append((one.shard, one.kind, one.slot, one.image))
    ) as follower:
        await caught_up(follower, store)
        assert told == []
        await writer.add(*POOL[3:9])
        await caught_up(follower, store)
        between.edit_changes = trimmed
        await writer.withdraw(*POOL[3:6])
        await until(lambda: any(one.doubt for one in follower.stats()))
        between.edit_changes = list
        await caught_up(follower, store)
        assert len(told) == len(set(told)) == 9


async def test_upkeep_and_compaction_run_beside_following(fresh: Deployments) -> None:
    """Tables are tended in threads, one at a time, and made anew without their garbage; views stay what they are."""
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        async with following(await deployment.connect()) as follower:
            tables = follower.known.tables
            tables._least_garbage = 20
            await writer.add(*POOL[:20])
            first = await caught_up(follower, store)
            before, threads, running = dict(tables.by_key), set[int](), list[int]()
            for table in before.values():

                def tend(most: list[int] = running) -> bool:
                    threads.add(threading.get_ident())
                    most.append(1)
                    assert len(most) == 1
                    most.clear()
                    return False

                table.index.tend = tend  # type: ignore[method-assign]
            for turn in range(14):
                await writer.withdraw(*POOL[:20])
                await writer.add(*POOL[turn:20])
            await until(lambda: all(tables.by_key[key] is not table for key, table in before.items()))
            assert threads
            assert threading.get_ident() not in threads
            view = await caught_up(follower, store)
            assert found_ids(view, POOL) == writer.active
            assert found_ids(first, POOL) == {entry.id for entry in POOL[:20]}
            assert all(len(table) < 40 for table in tables.by_key.values())


def test_the_pool_has_every_kind() -> None:
    """So that the tests above say something of each."""
    assert {entry.kind for entry in POOL} == set(KINDS)
