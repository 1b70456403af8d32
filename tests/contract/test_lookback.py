"""What becomes known after an upload is said of it all the same, once, in the words of a fresh judgement.

Long because all laws need one world, made here: a stream, a store, and workers with folders.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import pytest
from msgspec.structs import replace

from hashweir.adapters.memory_sandbox import MemorySandbox
from hashweir.adapters.memory_store import MemoryStore
from hashweir.adapters.memory_stream import MemoryBroker, MemorySink
from hashweir.errors import Refused
from hashweir.hashing import HASHERS
from hashweir.logs import quiet
from hashweir.metrics import Metrics
from hashweir.model import Entry, Message, Record, Scan, Set
from hashweir.pipeline import lookback
from hashweir.pipeline.deliver import Delivery, ViewGate
from hashweir.pipeline.emit import Emitter
from hashweir.pipeline.ingest import UPLOAD_JSON
from hashweir.pipeline.lookback import LookBack
from hashweir.pipeline.match import Matcher
from hashweir.pipeline.retry import Brake
from hashweir.pipeline.ring import Ring
from hashweir.pipeline.ring_keeper import Keeper
from hashweir.ports import Edit
from hashweir.shards.layout import SLOT_FORMS
from tests.contract.following import Between, SetClock, caught_up, following, until
from tests.contract.stores import SHARDS, entries, in_shard, part, shard_of
from tests.contract.test_known import restore, snapshot

KNOWN = Set(name="known", owner="a team", origin="own-review", state="active", ceiling="block")


class Folder:
    """Where a ring is kept, in memory; a copy of `files` is what a SIGKILL leaves."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.taken = False

    def load(self) -> Iterable[tuple[str, bytes]]:
        if self.taken:
            raise Refused("ring_in_use")
        return sorted(self.files.items())

    def write(self, files: Mapping[str, bytes], gone: Iterable[str]) -> None:
        self.files.update(files)
        for name in gone:
            self.files.pop(name, None)


class Gated(MemorySink):
    """A sink that lets nothing through while its gate is closed."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    async def publish(self, messages: Any) -> None:
        self.asked += 1
        await self.gate.wait()
        await super().publish(messages)


class World:
    """One worker's judging and looking back over a store, fed record by record."""

    def __init__(self, store: Between, clock: SetClock, follower: Any, folder: Folder | None, uploads: int) -> None:
        self.store, self.clock, self.follower = store, clock, follower
        self.broker, self.metrics = MemoryBroker(clock), Metrics()
        self.sink = Gated(self.broker)
        self.gate = ViewGate(follower.known, allow_empty=True, look_every_s=0.01)
        self.threads = ThreadPoolExecutor(1)
        self.matcher = Matcher(
            sandbox=MemorySandbox(lambda *_: Scan(media_class=None, media_type=None)),
            known=follower.known,
            usable_view=self.gate.usable_view,
            threads=self.threads,
        )
        ring = Ring(uploads, 2**30)
        self.look_back = LookBack(
            ring=ring,
            judge=self.matcher,
            emitter=Emitter(worker="w", versions={}, via="look-back"),
            sink=self.sink,
            known=follower.known,
            usable_view=self.gate.usable_view,
            clock=clock,
            metrics=self.metrics,
            log=quiet(),
            keeper=Keeper(ring, folder, every_s=0.05, clock=clock, metrics=self.metrics, log=quiet()),
        )
        self.delivery = Delivery(
            judge=self.matcher,
            emitter=Emitter(worker="w", versions={}),
            sink=self.sink,
            clock=clock,
            metrics=self.metrics,
            log=quiet(),
            default_source="test",
            remember=self.look_back.remember,
        )
        self.sent = 0

    async def upload(self, name: str, *given: Mapping[str, Any]) -> None:
        """Deliver one upload that consists of fingerprints, until its verdict is acked."""
        self.sent += 1
        record = Record(
            topic="uploads",
            partition=0,
            offset=self.sent,
            timestamp_ms=self.clock.now_ms(),
            value=json.dumps({"fingerprints": list(given)}).encode(),
            headers=(("ce_id", name.encode()), ("content-type", UPLOAD_JSON.encode())),
        )
        assert await self.delivery.deliver(record, Brake(), lambda: True)

    def said(self, via: str = "", topic: str = "verdicts") -> dict[str, list[Message]]:
        """Every verdict by upload, in order; of one way only where `via` names it."""
        found: dict[str, list[Any]] = defaultdict(list)
        for record in self.broker.records(topic):
            if via in ("", dict(record.headers)["via"].decode()):
                found[json.loads(record.value)["upload"]].append(record)
        return found

    def value(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"hashweir_{name}", labels) or 0.0

    async def looked_back(self, count: float) -> None:
        """Wait until so many new entries count as looked back, or were swept, and nothing is left to do."""
        await until(lambda: self.value("look_back_entries_total") >= count or self.value_of_sweeps())
        await self.quiet()

    def value_of_sweeps(self) -> float:
        """How often the ring's uploads looked into the index."""
        return self.value("look_back_sweeps_total")

    async def quiet(self) -> None:
        """Wait until the look-back has made a whole round in which it found nothing to do."""
        rounds = 0
        original, look_back = self.look_back._pass, self.look_back

        async def counting() -> None:
            nonlocal rounds
            idle = not (look_back._new or look_back._late or look_back._sweep)
            await original()
            rounds = rounds + 1 if idle else 0

        look_back._pass = counting  # type: ignore[method-assign]
        try:
            await until(lambda: rounds >= 2, 20)
        finally:
            look_back._pass = original  # type: ignore[method-assign]

    async def fresh(self, name: str, *given: Mapping[str, Any]) -> bytes:
        """The body that a live judgement of the same upload gives now."""
        await self.upload(name, *given)
        body: bytes = self.said("live")[name][-1].value
        return body


class Deployment:
    """A store with one set, and its writer."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.between = Between(self.store)
        self.known = KNOWN
        self.operations = 0

    async def create(self, known: Set = KNOWN) -> None:
        await self.store.create(SHARDS)
        await self.store.open()
        self.known = await self.store.put_set("first", known, 0)

    async def change(self, **fields: Any) -> None:
        """Change the set's policy."""
        self.operations += 1
        changed = Set(**{**{name: getattr(self.known, name) for name in self.known.__struct_fields__}, **fields})
        self.known = await self.store.put_set(f"policy {self.operations}", changed, self.known.version)

    async def write(self, verb: Any, *some: Entry) -> None:
        """Add or withdraw entries, as many operations as it takes."""
        for shard in range(SHARDS):
            mine = [one for one in some if shard_of(one) == shard]
            for first in range(0, len(mine), 256):
                self.operations += 1
                edits = [Edit(verb=verb, entry=one, set_number=self.known.number) for one in mine[first : first + 256]]
                await self.store.apply(part(f"write {self.operations}", *edits, shard=shard))

    @asynccontextmanager
    async def worker(self, folder: Folder | None = None, uploads: int = 1_000) -> AsyncIterator[World]:
        """A worker that has caught up."""
        clock = SetClock()
        async with following(self.between, clock) as follower:
            world = World(self.between, clock, follower, folder, uploads)
            follower._on_change = world.look_back.on_change
            await caught_up(follower, self.store)
            running = asyncio.create_task(world.look_back.run())
            try:
                yield world
                assert not running.done(), running
            finally:
                running.cancel()
                await asyncio.wait([running])
                world.threads.shutdown()


def given(entry: Entry, bits: int = 0) -> dict[str, Any]:
    """The fingerprint of an upload that is this entry, up to some bits."""
    value = HASHERS[entry.kind].parse(entry.value)
    if bits:
        value = (int.from_bytes(value, "big") ^ ((1 << bits) - 1)).to_bytes(len(value), "big")
    one: dict[str, Any] = {"kind": entry.kind, "form": entry.form, "value": HASHERS[entry.kind].show(value)}
    if entry.kind == "pdq":
        one["quality"] = 100
    if entry.kind in ("tlsh", "text"):
        one["length"] = entry.length
    return one


def no_two_bodies(world: World) -> None:
    """No upload has two bodies at one position, whichever way they were said."""
    for name, copies in world.said().items():
        bodies = defaultdict(set)
        for one in copies:
            bodies[json.loads(one.value)["position"]].add(one.value)
        assert all(len(same) == 1 for same in bodies.values()), f"{name} has two bodies at one position"


async def test_an_entry_after_its_upload_gives_one_late_verdict() -> None:
    """With the body, ids and topics of a fresh judgement; of other uploads nothing is said."""
    deployment = Deployment()
    await deployment.create()
    some = list(zip(range(10), entries(3), strict=False))
    async with deployment.worker() as world:
        for n, entry in some:
            await world.upload(f"near {n}", given(entry, 20 if entry.kind == "pdq" else 0))
            await world.upload(f"far {n}", given(next(entries(100 + n, kinds=[entry.kind]))))
        await deployment.write("add", *(entry for _, entry in some))
        await world.looked_back(10)
        late = world.said("look-back")
        assert set(late) == {f"near {n}" for n, _ in some}
        for n, entry in some:
            (one,) = late[f"near {n}"]
            assert one.value == await world.fresh(f"near {n}", given(entry, 20 if entry.kind == "pdq" else 0))
            assert json.loads(one.value)["outcome"] == "match"
            (match,) = world.said("look-back", "matches")[f"near {n}"]
            assert match.value == one.value
        assert not world.broker.records("dead-letters")
        assert world.value("late_verdicts_total", result="match") == 10
        no_two_bodies(world)


@pytest.mark.slow
@pytest.mark.parametrize(("few", "most"), [(10_000, 10_000), (0, 10_000), (0, 20)])
async def test_whichever_way_is_searched(monkeypatch: pytest.MonkeyPatch, few: int, most: int) -> None:
    """A bulk import under traffic: in the end what was said of each upload last is what would be said of it now."""
    monkeypatch.setattr(lookback, "FEW", few)
    monkeypatch.setattr(lookback, "MOST", most)
    rng = random.Random(few + most)
    deployment = Deployment()
    await deployment.create()
    pool = [entry for _, entry in zip(range(400), entries(5), strict=False)]
    async with deployment.worker() as world:
        uploads = {f"u{n}": given(rng.choice(pool)) for n in range(120)}
        importing = asyncio.create_task(deployment.write("add", *pool[:300]))
        for name, one in uploads.items():
            await world.upload(name, one)
        await importing
        await caught_up(world.follower, deployment.store)
        await world.quiet()
        last = {name: json.loads(copies[-1].value) for name, copies in world.said().items()}
        for name, one in uploads.items():
            now = json.loads(await world.fresh(name, one))
            assert all(now[key] == last[name][key] for key in ("action", "hits", "fingerprints")), name
        said = {name: len(copies) for name, copies in world.said("look-back").items()}
        assert set(said.values()) <= {1}, "more than one late verdict of an upload that one entry hits"
        no_two_bodies(world)


async def test_a_change_while_an_upload_is_on_its_way() -> None:
    """Judged before, acked after the entry was there: neither way may miss it."""
    deployment = Deployment()
    await deployment.create()
    entry = next(entries(7))
    async with deployment.worker() as world:
        world.sink.gate.clear()
        uploading = asyncio.create_task(world.upload("u", given(entry)))
        await until(lambda: world.sink.asked == 1)
        await deployment.write("add", entry)
        await caught_up(world.follower, deployment.store)
        await asyncio.sleep(0.1)
        world.sink.gate.set()
        await uploading
        await until(lambda: any(json.loads(one.value)["outcome"] == "match" for one in world.said()["u"]))
        no_two_bodies(world)


async def test_what_was_judged_while_stale_is_judged_again() -> None:
    """A store that is silent caps actions; once it answers, the capped verdicts are said again, in full."""
    deployment = Deployment()
    await deployment.create()
    old, new = (entry for _, entry in zip(range(2), entries(9, kinds=["pdq"]), strict=False))
    await deployment.write("add", old)
    async with deployment.worker() as world:
        deployment.between.down = True
        world.clock.ahead += 11
        await world.upload("capped", given(old))
        await world.upload("unknown", given(new))
        said = {name: json.loads(copies[0].value) for name, copies in world.said().items()}
        assert (said["capped"]["action"], said["unknown"]["outcome"]) == ("review", "clear")
        await deployment.write("add", new)
        deployment.between.down = False
        await until(lambda: len(world.said("look-back")) == 2)
        late = {name: [json.loads(one.value) for one in copies] for name, copies in world.said("look-back").items()}
        assert {name: copies[-1]["action"] for name, copies in late.items()} == {"capped": "hold", "unknown": "hold"}
        assert [dict(one.headers)["degraded"] for one in world.said()["capped"]] == [b"true", b"false"]
        no_two_bodies(world)


@pytest.mark.parametrize("before", ["shadow", "off"])
async def test_a_set_that_begins_to_count(before: Any) -> None:
    """Entries that stood in a set without effect take effect on uploads from before it was activated."""
    deployment = Deployment()
    await deployment.create(Set(name="known", owner="a team", origin="own-review", state=before))
    entry = next(entries(11))
    await deployment.write("add", entry)
    async with deployment.worker() as world:
        await world.upload("u", given(entry))
        await world.upload("far", given(next(entries(12))))
        await world.quiet()
        assert not world.said("look-back")
        await deployment.change(state="active")
        await until(lambda: world.said("look-back")["u"])
        assert json.loads(world.said()["u"][-1].value)["outcome"] == "match"
        await deployment.write("withdraw", entry)
        await deployment.change(state="off")
        await caught_up(world.follower, deployment.store)
        await world.quiet()
        late = world.said("look-back")
        assert {name: len(copies) for name, copies in late.items()} == {"u": 1}, "a withdrawal says nothing"


@pytest.mark.parametrize("what", ["an entry", "a set"])
async def test_what_a_ruling_makes_active_again(what: str) -> None:
    """Switched off, which the store lost; kept off against it; active once somebody rules that the store is right."""
    deployment = Deployment()
    await deployment.create()
    store, entry = deployment.store, next(entries(11))
    await deployment.write("add", entry)
    was = snapshot(store)
    if what == "an entry":
        await deployment.write("withdraw", entry)
    else:
        await deployment.change(state="off")
    async with deployment.worker() as world:
        await world.upload("u", given(entry))
        restore(store, was)
        await until(lambda: world.follower.known.view().standing == "degraded")
        await world.quiet()
        assert not world.said("look-back")
        for shard in (*range(SHARDS), None):
            await store.new_epoch(shard)
        await until(lambda: world.said("look-back")["u"])
        assert json.loads(world.said()["u"][-1].value)["outcome"] == "match"


@pytest.mark.parametrize("uploads", [0, 1])
async def test_a_damaged_state_that_was_accepted(uploads: int) -> None:
    """It is no state at all, so it says nothing of any upload; and ends neither following nor looking back."""
    deployment = Deployment()
    await deployment.create()
    store, (damaged, entry) = deployment.store, islice(in_shard(0, kinds=["pdq"]), 2)
    await deployment.write("add", damaged)
    async with deployment.worker() as world:
        for n in range(uploads):
            await world.upload(f"u{n}", given(damaged))
        image, side = store._shards[0].slots["pdq"][0]
        at = SLOT_FORMS["pdq"].state
        store._shards[0].slots["pdq"][0] = image[:at] + b"\xee" + image[at + 1 :], side
        await store.mend_chunk(0, "pdq", 0, await store.read_chunk(0, "pdq", 0), None)
        await caught_up(world.follower, store)
        await world.upload("v", given(entry))
        await deployment.write("add", entry)
        await until(lambda: world.said("look-back")["v"])
        assert set(world.said("look-back")) == {"v"}


async def test_a_set_that_can_be_read_only_later() -> None:
    """Its entries are held against the uploads once it can be; one of a set that never was is not waited for."""
    deployment = Deployment()
    await deployment.create()
    store, (entry, stray) = deployment.store, islice(entries(31), 2)
    async with deployment.worker() as world:
        await world.upload("u", given(entry))
        deployment.between.unreadable = True
        deployment.known = await store.put_set("other", replace(KNOWN, name="other"), 0)
        await deployment.write("add", entry)
        deployment.known = replace(KNOWN, number=99)
        await deployment.write("add", stray)
        await world.looked_back(2)
        assert not world.said("look-back")
        deployment.between.unreadable = False
        await until(lambda: world.said("look-back")["u"])
        await world.quiet()


async def test_a_successor_looks_back_with_what_was_saved() -> None:
    """After SIGKILL, entries added meanwhile are held against what was saved; a repeat has the same bytes."""
    deployment, folder = Deployment(), Folder()
    await deployment.create()
    pool = [entry for _, entry in zip(range(6), entries(13), strict=False)]
    async with deployment.worker(folder) as world:
        for n, entry in enumerate(pool):
            await world.upload(f"u{n}", given(entry))
        await until(lambda: folder.files and world.value("look_back_saved_timestamp_seconds") > 0)
        await until(lambda: world.look_back._ring._changed == set())
        left = dict(folder.files)
    await deployment.write("add", *pool[:3])
    bodies = []
    for _ in range(2):  # the second successor knows nothing of what the first said
        async with deployment.worker(Folder(left)) as world:
            await until(lambda: len(world.said("look-back")) == 3)
            await world.quiet()
            late = world.said("look-back")
            assert set(late) == {"u0", "u1", "u2"}
            assert all(len(copies) == 1 for copies in late.values())
            bodies.append({name: copies[0].value for name, copies in late.items()})
    assert bodies[0] == bodies[1]


async def test_what_was_said_late_is_not_said_again_after_a_drain() -> None:
    """A drain saves what was said last."""
    deployment, folder = Deployment(), Folder()
    await deployment.create()
    entry = next(entries(15))
    async with deployment.worker(folder) as world:
        await world.upload("u", given(entry))
        await deployment.write("add", entry)
        await until(lambda: world.said("look-back")["u"])
        await world.quiet()
    async with deployment.worker(folder) as world:
        await world.quiet()
        assert world.value("late_verdicts_total", result="same") == 1
        assert not world.said()


async def test_a_damaged_file_costs_only_itself() -> None:
    """It is refused and removed; the others are used. A folder of another worker is let alone."""
    deployment, folder = Deployment(), Folder()
    await deployment.create()
    entry = next(entries(17))
    async with deployment.worker(folder) as world:
        await world.upload("u", given(entry))
    folder.files["0"] = b"no ring"
    async with deployment.worker(folder) as world:
        await until(lambda: "0" not in folder.files)
        await deployment.write("add", entry)
        await until(lambda: world.said("look-back")["u"])
    before, folder.taken = dict(folder.files), True
    async with deployment.worker(folder) as world:
        await world.upload("v", given(entry))
        await world.quiet()
        assert world.value("save_failures_total", reason="ring_in_use") == 1
    assert folder.files == before


async def test_an_entry_counts_when_its_verdicts_are_acked() -> None:
    """While nothing can be said, the late verdict waits, and follows once the broker is back."""
    deployment = Deployment()
    await deployment.create()
    entry = next(entries(19))
    async with deployment.worker() as world:
        await world.upload("u", given(entry))
        world.broker.up = False
        await deployment.write("add", entry)
        await until(lambda: world.value("retries_total", dependency="sink") >= 2)
        assert world.value("late_verdicts_total", result="match") == 0
        world.broker.up = True
        await until(lambda: world.value("late_verdicts_total", result="match") == 1)
        assert len(world.said("look-back")["u"]) == 1


async def test_only_so_many_uploads_are_remembered() -> None:
    """What the ring has overwritten is not looked back upon; with 0 nothing is."""
    deployment = Deployment()
    await deployment.create()
    first, second = (entry for _, entry in zip(range(2), entries(21), strict=False))
    async with deployment.worker(uploads=3) as world:
        await world.upload("old", given(first))
        for n in range(3):
            await world.upload(f"new {n}", given(second))
        await deployment.write("add", first, second)
        await world.looked_back(2)
        assert set(world.said("look-back")) == {"new 0", "new 1", "new 2"}
    async with deployment.worker(uploads=0) as world:
        await world.upload("u", given(next(entries(23))))
        await deployment.write("add", next(entries(23)))
        await world.quiet()
        assert not world.said("look-back")
