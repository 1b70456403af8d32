"""The commands on sets, on every store: what they answer, what they leave, and that repeating them is safe.

Long because every command is held to the same laws on the same stores.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack

import msgspec
import pytest

from hashweir.adapters.memory_store import MemoryStore
from hashweir.errors import InputError, OutcomeUnknown, Refused, Unreachable
from hashweir.model import Action, Set, SetEvent
from hashweir.ports import Applied, PackedPart, Part, Store
from hashweir.sets import commands, held, write
from hashweir.sets.commands import LOCAL
from hashweir.sets.read import Line, Reader, Row, show_line
from hashweir.shards.layout import item_id
from tests.contract.stores import Deployments, deployments


@pytest.fixture(scope="module", params=["memory", pytest.param("valkey", marks=pytest.mark.store)])
def fresh(request: pytest.FixtureRequest) -> Iterator[Deployments]:
    with ExitStack() as stack:
        yield deployments(request.param, stack)


@pytest.fixture
async def store(fresh: Deployments) -> AsyncIterator[Store]:
    async with fresh() as deployment:
        yield await deployment.connect()


def pdq(n: int) -> str:
    return hashlib.sha256(f"picture {n}".encode()).hexdigest()


def tlsh(n: int) -> str:
    return "T1" + hashlib.sha512(f"text {n}".encode()).hexdigest()[:70].upper()


def some(count: int, **fields: object) -> list[Row]:
    return [msgspec.structs.replace(Row(kind="pdq", value=pdq(n)), **fields) for n in range(count)]


async def make(store: Store, name: str = "demo", ceiling: Action = "review") -> Set:
    made = await commands.create(
        store, LOCAL, name=name, owner="team", origin="own-review", ceiling=ceiling, surfaces=("post",)
    )
    return made.set


async def exported(store: Store, name: str = "demo", *, only_active: bool = False) -> list[Line]:
    runs = commands.export(store, LOCAL, name, only_active=only_active)
    return sorted([line async for run in runs for line in run], key=lambda line: line.entry or "")


async def test_a_set_is_born_in_shadow_and_turned_on_and_off(store: Store) -> None:
    made = await make(store)
    assert (made.state, made.number, made.version > 0) == ("shadow", 1, True)
    on = await commands.activate(store, LOCAL, "demo")
    assert (on.set.state, on.changed, on.unapproved) == ("active", True, True)
    assert [(e.what, e.set) for e in on.events] == [("set_activated", "demo")]
    again = await commands.activate(store, LOCAL, "demo")
    assert (again.changed, again.unapproved, again.events, again.set) == (False, False, (), on.set)
    gone = await commands.off(store, LOCAL, "demo")
    assert (gone.set.state, gone.changed, gone.unapproved) == ("off", True, False)
    assert [e.what for e in gone.events] == ["set_off"]
    assert (await commands.find_set(store, "demo")) == gone.set


async def test_a_missing_set_says_what_to_do(store: Store) -> None:
    with pytest.raises(Refused, match=r"none exist; create it with `hashweir sets create x --owner"):
        await commands.find_set(store, "x")
    await make(store, "one")
    await make(store, "two")
    for work in (
        commands.activate(store, LOCAL, "x"),
        commands.add(store, LOCAL, "x", some(1)),
        commands.withdraw(store, LOCAL, "x", some(1), reason="r"),
    ):
        with pytest.raises(Refused, match="no set 'x'; sets that exist: one, two; create it"):
            await work
    with pytest.raises(Refused, match="no set 'x'"):
        await exported(store, "x")


async def test_create_checks_and_repeats(store: Store) -> None:
    with pytest.raises(InputError, match="Bad Name"):
        await commands.create(store, LOCAL, name="Bad Name", owner="t", origin="own-review")
    with pytest.raises(InputError):
        await commands.create(store, LOCAL, name="x", owner="t", origin="own-review", radius={"pdq": 300})
    with pytest.raises(Refused, match="never goes above"):
        await commands.create(store, LOCAL, name="x", owner="t", origin="government-referral", ceiling="hold")
    first = await commands.create(store, LOCAL, name="x", owner="t", origin="own-review", operation="op-1")
    again = await commands.create(store, LOCAL, name="x", owner="t", origin="own-review", operation="op-1")
    assert first.set == again.set
    with pytest.raises(Refused) as refused:
        await commands.create(store, LOCAL, name="x", owner="t", origin="own-review")
    assert refused.value.reason == "set_exists"


async def test_one_person_may_not_activate_above_review(store: Store) -> None:
    await make(store, ceiling="hold")
    for principal, permitted in (("local", False), ("somebody", True)):
        with pytest.raises(Refused) as refused:
            await commands.activate(store, principal, "demo", allow_local_activation=permitted)
        assert refused.value.reason == "not_allowed"
    on = await commands.activate(store, LOCAL, "demo", allow_local_activation=True)
    assert (on.set.state, on.unapproved) == ("active", True)


async def test_add_withdraw_and_add_again(store: Store) -> None:
    await make(store)
    await commands.activate(store, LOCAL, "demo")
    rows = some(3, item="march", labels=("a", "b"), note="seen")
    added = await commands.add(store, LOCAL, "demo", rows)
    assert added.outcomes == {"added": 3}
    assert [e.result for e in added.entries] == ["added"] * 3
    assert [e.what for e in added.events] == ["entry_activated"] * 3
    assert {e.item for e in added.events} == {item_id("demo", "march")}
    assert (await commands.add(store, LOCAL, "demo", rows)).outcomes == {"unchanged": 3}
    gone = await commands.withdraw(store, LOCAL, "demo", rows[:1], [added.entries[1].entry], reason="overturned")
    assert gone.outcomes == {"withdrawn": 2}
    assert [(e.what, e.item) for e in gone.events] == [("entry_withdrawn", added.events[0].item)] * 2
    assert [line.state for line in await exported(store)].count("retired") == 2
    assert len(await exported(store, only_active=True)) == 1
    assert (await commands.withdraw(store, LOCAL, "demo", rows[:1], reason="again")).outcomes == {"unchanged": 1}
    back = await commands.add(store, LOCAL, "demo", rows)
    assert back.outcomes == {"reactivated": 2, "unchanged": 1}
    assert await held.tally(store, await commands.find_set(store, "demo")) == {"pdq": {"active": 3}}


async def test_additions_to_a_set_that_does_not_count_are_no_news(store: Store) -> None:
    await make(store)
    assert (await commands.add(store, LOCAL, "demo", some(2))).events == ()
    gone = await commands.withdraw(store, LOCAL, "demo", some(1), reason="r")
    assert [e.what for e in gone.events] == ["entry_withdrawn"]


async def test_withdrawing_by_hash_means_all_its_forms(store: Store) -> None:
    await make(store)
    both = [Row(kind="tlsh", value=tlsh(1), form=form) for form in ("raw", "normal")]
    await commands.add(store, LOCAL, "demo", both)
    named = Row(kind="text_tlsh", value=tlsh(1).lower())
    assert (await commands.withdraw(store, LOCAL, "demo", [named], reason="r")).outcomes == {"withdrawn": 2}
    await commands.add(store, LOCAL, "demo", both)
    assert (await commands.withdraw(store, LOCAL, "demo", both[:1], reason="r")).outcomes == {"withdrawn": 1}


async def test_what_is_not_held_is_named(store: Store) -> None:
    await make(store)
    await make(store, "other")
    there = await commands.add(store, LOCAL, "other", some(1))
    gone = await commands.withdraw(
        store, LOCAL, "demo", [Row(kind="pdq", value=pdq(0))], [there.entries[0].entry], reason="r"
    )
    assert gone.outcomes == {"not_found": 2}
    assert gone.missing == (f"pdq:{pdq(0)}", there.entries[0].entry)
    assert len(await exported(store, "other", only_active=True)) == 1
    with pytest.raises(InputError):
        await commands.withdraw(store, LOCAL, "demo", [], ["nonsense"], reason="r")
    with pytest.raises(Refused, match="second person"):
        await commands.withdraw(store, LOCAL, "demo", some(257), reason="r")


def a_file(count: int) -> bytes:
    rows = [f"pdq,{pdq(n)},item {n // 3},a|b,{50 + n % 51}" for n in range(count)]
    bad = ["pdq,zz,,,", f"pdq,{pdq(0)},,,", "raw_text,hello,,,"]
    return "\n".join(["kind,value,item,labels,quality", *rows[:10], *bad, *rows[10:]]).encode()


async def test_import_reports_bad_rows_and_does_the_rest(store: Store) -> None:
    await make(store)
    await commands.activate(store, LOCAL, "demo")
    news: list[SetEvent] = []
    refused: list[int] = []

    async def publish(events: Sequence[SetEvent]) -> None:
        news.extend(events)

    dry = await commands.import_rows(store, LOCAL, "demo", Reader(io.BytesIO(a_file(700))), dry_run=True)
    assert (dry.dry_run, dry.operations, dry.outcomes) == (True, 0, {})
    assert await exported(store) == []
    done = await commands.import_rows(
        store,
        LOCAL,
        "demo",
        Reader(io.BytesIO(a_file(700))),
        publish=publish,
        rejected=lambda line, _: refused.append(line),
    )
    assert done.report == dry.report
    assert (done.report.rows, done.report.accepted) == (703, 700)
    assert done.report.rejected == {"bad_value": 1, "duplicate_row": 1, "unknown_kind": 1}
    assert refused == [12, 13, 14]
    assert (done.outcomes, done.operations, done.entries, done.events) == ({"added": 700}, 4, (), ())
    assert len({e.entry for e in news}) == 700
    found = await exported(store)
    assert len(found) == 700
    assert {line.labels for line in found} == {("a", "b")}
    assert len({line.item for line in found}) == 234


async def test_what_is_exported_imports_to_the_same(store: Store) -> None:
    await make(store)
    rows = [
        *some(40, item="short", labels=("x",), quality=80),
        Row(
            kind="tlsh",
            value=tlsh(1),
            form="normal",
            length=700,
            item="a name that is longer than 18 bytes, می\u200cخواهم",
        ),
        Row(kind="tlsh", value=tlsh(2), state="shadow", note="waits"),
        Row(kind="md5", value=pdq(1)[:32], origin="vetted-exchange"),
        Row(kind="text", value=pdq(2)),
        Row(kind="sha256", value=pdq(3), state="quarantined"),
    ]
    rows = list({(r.kind, r.value): r for r in rows}.values())
    assert (await commands.add(store, LOCAL, "demo", rows)).outcomes == {"added": len(rows)}
    first = await exported(store)
    assert len(first) == len(rows)
    twin = MemoryStore()
    await twin.create(7)
    await twin.open()
    await make(twin)
    data = b"".join(map(show_line, first))
    done = await commands.import_rows(twin, LOCAL, "demo", Reader(io.BytesIO(data)))
    assert done.report.rejected == {}
    undated = [msgspec.structs.replace(line, added_ms=None) for line in first]
    assert [msgspec.structs.replace(line, added_ms=None) for line in await exported(twin)] == undated


async def test_bulk_imports_carry_everything(store: Store) -> None:
    """Long names, several kinds, quality, notes and withdrawals, through operations that hold one shard each."""
    await make(store)
    rows = [
        *(Row(kind="pdq", value=pdq(n), item=f"item {n % 50} with a name for people", quality=60) for n in range(500)),
        *(Row(kind="tlsh", value=tlsh(n), form="normal", length=700 + n, note=f"note {n % 3}") for n in range(200)),
        *(Row(kind="md5", value=pdq(n)[:32], item="Müller") for n in range(100)),
    ]
    done = await commands.import_rows(store, LOCAL, "demo", enumerate(rows, 1))
    assert (done.outcomes, done.entries) == ({"added": 800}, ())
    twin = MemoryStore()
    await twin.create(7)
    await twin.open()
    await make(twin)
    for outcomes in ({"added": 800}, {"unchanged": 790, "withdrawn": 10}):
        lines = b"".join(map(show_line, await exported(store)))
        assert (await commands.import_rows(twin, LOCAL, "demo", Reader(io.BytesIO(lines)))).outcomes == outcomes
        same = [[msgspec.structs.replace(line, added_ms=None) for line in await exported(one)] for one in (store, twin)]
        assert same[0] == same[1]
        await commands.withdraw(store, LOCAL, "demo", rows[495:505], reason="overturned")


async def test_a_cancelled_bulk_import_leaves_no_task_behind(store: Store) -> None:
    """What was under way ends with it; repeated, it is completed."""
    await make(store)
    started = asyncio.Event()

    class Slow(Torn):
        async def apply_packed(self, part: PackedPart) -> Applied:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError

    before = asyncio.all_tasks()
    importing = asyncio.create_task(
        commands.import_rows(Slow(store, []), LOCAL, "demo", Reader(io.BytesIO(a_file(700))))  # type: ignore[arg-type]
    )
    await started.wait()
    importing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await importing
    assert asyncio.all_tasks() == before
    done = await commands.import_rows(store, LOCAL, "demo", Reader(io.BytesIO(a_file(700))))
    assert done.outcomes == {"added": 700}


async def test_a_retired_row_withdraws(store: Store) -> None:
    await make(store)
    await commands.add(store, LOCAL, "demo", some(2))
    done = await commands.add(store, LOCAL, "demo", some(3, state="retired"))
    assert done.outcomes == {"not_found": 1, "withdrawn": 2}


class Torn:
    """A store whose writes take effect, or not, and whose answers get lost."""

    def __init__(self, store: Store, faults: Sequence[str]) -> None:
        self._store = store
        self._faults = list(faults)
        self.applied: list[Part] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def apply(self, part: Part) -> Applied:
        self.applied.append(part)
        return await self._torn(lambda: self._store.apply(part))

    async def apply_packed(self, part: PackedPart) -> Applied:
        return await self._torn(lambda: self._store.apply_packed(part))

    async def _torn(self, apply: Callable[[], Awaitable[Applied]]) -> Applied:
        fault = self._faults.pop(0) if self._faults else ""
        if fault == "before":
            raise Unreachable("store_unreachable", "gone before")
        applied = await apply()
        if fault == "after":
            raise OutcomeUnknown("outcome_unknown", "gone after")
        return applied


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "FIRST_PAUSE_S", 0.0)


@pytest.mark.usefixtures("no_pauses")
async def test_lost_answers_are_asked_for_again_under_the_same_id(store: Store) -> None:
    await make(store)
    torn = Torn(store, ["after", "before", "after", "after", "before"])
    done = await commands.add(torn, LOCAL, "demo", some(20))  # type: ignore[arg-type]
    assert done.outcomes == {"added": 20}
    assert len({part.operation for part in torn.applied}) == 1
    assert sum(len(p.edits) for p in {(p.operation, p.shard): p for p in torn.applied}.values()) == 20


@pytest.mark.usefixtures("no_pauses")
async def test_a_torn_import_is_completed_by_repeating_it(store: Store) -> None:
    await make(store)
    data = a_file(600)
    torn = Torn(store, [""] * 2 + ["after", "before"] * 30)
    with pytest.raises(Unreachable, match="repeat the same command with --operation monday") as torn_off:
        await commands.import_rows(
            torn,  # type: ignore[arg-type]
            LOCAL,
            "demo",
            Reader(io.BytesIO(data)),
            operation="monday",
        )
    assert "512 entries are done" in str(torn_off.value)
    done = await commands.import_rows(store, LOCAL, "demo", Reader(io.BytesIO(data)), operation="monday")
    assert done.outcomes == {"added": 600}
    assert len(await exported(store)) == 600
    again = await commands.import_rows(store, LOCAL, "demo", Reader(io.BytesIO(data)), operation="monday")
    assert again.outcomes == done.outcomes


async def test_a_set_that_changes_meanwhile_is_judged_again(store: Store) -> None:
    await make(store)

    class Raced(Torn):
        """Somebody raises the ceiling between this command's read and its write."""

        async def put_set(self, operation: str, changed: Set, expected_version: int) -> Set:
            now = await commands.find_set(store, "demo")
            if now.ceiling == "review":
                await store.put_set("other", msgspec.structs.replace(now, ceiling="block"), now.version)
            return await store.put_set(operation, changed, expected_version)

    with pytest.raises(Refused) as refused:
        await commands.activate(Raced(store, []), LOCAL, "demo")  # type: ignore[arg-type]
    assert refused.value.reason == "not_allowed"
    assert (await commands.off(Raced(store, []), LOCAL, "demo")).set.ceiling == "block"  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_pauses")
async def test_a_set_is_switched_off_though_answers_get_lost(store: Store) -> None:
    await make(store)

    class Deaf(Torn):
        async def put_set(self, operation: str, changed: Set, expected_version: int) -> Set:
            done = await store.put_set(operation, changed, expected_version)
            if self._faults and self._faults.pop():
                raise OutcomeUnknown("outcome_unknown", "lost")
            return done

    gone = await commands.off(Deaf(store, ["lost"] * 3), LOCAL, "demo")  # type: ignore[arg-type]
    assert gone.changed
    assert gone.set == await commands.find_set(store, "demo")
    with pytest.raises(OutcomeUnknown, match="repeat the same command with --operation sos"):
        await commands.create(
            Deaf(store, ["lost"] * 99),  # type: ignore[arg-type]
            LOCAL,
            name="x",
            owner="t",
            origin="own-review",
            operation="sos",
        )


async def test_a_corrected_file_under_an_old_operation_id_is_not_swallowed(store: Store) -> None:
    await make(store)
    await commands.add(store, LOCAL, "demo", some(2), operation="monday")
    done = await commands.add(store, LOCAL, "demo", [Row(kind="pdq", value=pdq(9))], operation="monday")
    assert done.outcomes == {"added": 1}
    assert len(await exported(store)) == 3
