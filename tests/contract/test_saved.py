"""A restart with the file of the last state: nothing is read that did not change, nothing withdrawn comes back.

Long because each way in which a file or a store can have changed meanwhile is a test of its own.
"""

from __future__ import annotations

import random
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hashweir.adapters.copy_file import CopyFile
from hashweir.adapters.folders import put
from hashweir.adapters.memory_store import MemoryStore
from hashweir.errors import REASONS, HashweirError, InputError
from hashweir.hashing import HASHERS
from hashweir.model import Kind
from hashweir.ports import Chunk, SlotChange, Store
from hashweir.shards import restored
from hashweir.shards.follow import Follower
from hashweir.shards.keep import Saver
from hashweir.shards.shard import Shard
from hashweir.shards.subset import parse
from tests.contract.following import KNOWN, Between, SetClock, caught_up, following, found_ids, until
from tests.contract.stores import SHARDS, Deployments
from tests.contract.test_known import POOL, Writer, begun, counted, restore, snapshot

SEED = 21


class Said:
    """A logger that remembers the reasons of what went wrong."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.events: list[str] = []
        self.reasons: list[str] = []

    def info(self, event: str, **_: object) -> None:
        self.events.append(event)

    def error(self, event: str, *, reason: str, error: BaseException) -> None:
        assert reason in REASONS
        self.events.append(event)
        self.reasons.append(error.reason if isinstance(error, HashweirError) else reason)

    def failed(self, reason: str) -> None:
        self.failures.append(reason)


class Watched(Between):
    """Remembers which chunks were read."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.chunks: list[tuple[int, Kind, int]] = []

    async def read_chunk(self, shard: int, kind: Kind, number: int) -> Chunk:
        self.chunks.append((shard, kind, number))
        return await super().read_chunk(shard, kind, number)


def made(folder: Path) -> tuple[Saver, Said, CopyFile]:
    """A saver that saves at the end only."""
    said, file = Said(), CopyFile(folder)
    saver = Saver(file, every_s=1e6, clock=SetClock(), log=said, when_failed=said.failed)  # type: ignore[arg-type]
    return saver, said, file


@asynccontextmanager
async def kept(store: Any, folder: Path, **options: Any) -> AsyncIterator[tuple[Follower, Said]]:
    """A follower that begins with the file in a folder, and saves there when it ends, as a process would."""
    saver, said, file = made(folder)
    try:
        async with following(store, saver=saver, **options) as follower:
            yield follower, said
    finally:
        file.close()


async def test_a_restart_is_as_if_there_had_been_none(fresh: Deployments, tmp_path: Path) -> None:
    """After any changes, here and while nobody followed: the dictionary's entries, and no chunk read for them."""
    rng = random.Random(SEED)
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        await changed(writer, rng)
        for number in range(8):
            told = list[SlotChange]()
            watched = Watched(await deployment.connect())
            async with kept(watched, tmp_path, on_change=told.append) as (follower, said):
                view = await caught_up(follower, store)
                assert found_ids(view, POOL) == writer.active
                assert view.holds("known") == {entry.kind for entry in POOL if entry.id in writer.active}
                counted(view, writer.active)
                async with following(await deployment.connect()) as cold:
                    assert (await caught_up(cold, store)).position == view.position
                for entry in (entry for entry in POOL if entry.id in writer.active):
                    assert entry.batch in follower.known._batches
                assert (watched.chunks == [], bool(told)) == (number > 0, number > 0)
                assert said.events == (["copy.loaded"] if number else [])
                await changed(writer, rng)  # live, to be saved in the end
                await caught_up(follower, store)
            assert said.events[-1] == "copy.saved"
            await changed(writer, rng)  # while nobody follows


async def changed(writer: Writer, rng: random.Random) -> None:
    """Some entries come, some go."""
    await writer.add(*rng.sample(POOL, 12))
    await writer.withdraw(*rng.sample(POOL, 5))


async def test_only_chunks_that_differ_are_read_where_the_stream_is_gone(fresh: Deployments, tmp_path: Path) -> None:
    """A change of one kind in one shard, and nobody remembers it: its chunk is read, no other."""
    async with fresh() as deployment:
        store = await deployment.connect()
        writer = await begun(store)
        await writer.add(*POOL)
        async with kept(await deployment.connect(), tmp_path) as (follower, _):
            await caught_up(follower, store)
        await writer.withdraw(POOL[0])
        watched = Watched(await deployment.connect())
        watched.edit_changes = lambda _: []
        async with kept(watched, tmp_path) as (follower, _):
            await until(lambda: watched.chunks)
            watched.edit_changes = list
            view = await caught_up(follower, store)
            assert found_ids(view, POOL) == writer.active
            assert {kind for _, kind, _ in watched.chunks} == {POOL[0].kind}
            assert len({shard for shard, _, _ in watched.chunks}) == 1


@pytest.mark.parametrize("when", ["up", "down", "down, and further than before"])
async def test_a_rewound_store_brings_nothing_back_after_a_restart(when: str, tmp_path: Path) -> None:
    """What was seen withdrawn stays so, actions stay capped, the alarm is raised again; until somebody rules."""
    store = MemoryStore()
    await store.create(SHARDS)
    writer = await begun(store)
    await writer.add(*POOL[:20])
    was = snapshot(store)
    between = Between(store)
    async with kept(between, tmp_path) as (follower, _):
        await writer.withdraw(*POOL[:5])
        await store.put_set("off", replace(KNOWN, state="off"), 1)
        await caught_up(follower, store)
        if when == "up":
            await between.hold()
            restore(store, was)
            between.gate.set()
            await until(lambda: follower.known.view().standing == "degraded")
            await caught_up(follower, store)
    later = set[str]()
    if when != "up":
        restore(store, was)
    if "further" in when:
        await writer.add(*POOL[25:])
        later = {entry.id for entry in POOL[25:]}
    for _ in range(2):  # also after one more restart
        alarms = list[str]()
        async with kept(store, tmp_path, on_alarm=lambda reason, *_, to=alarms: to.append(reason)) as (follower, _):
            view = await caught_up(follower, store)
            assert view.standing == "degraded"
            assert found_ids(view, POOL) == {entry.id for entry in POOL[5:20]} | later
            assert view.sets["known"].state == "off"
            assert "store_rewound" in alarms
    async with kept(store, tmp_path) as (follower, _):
        await caught_up(follower, store)
        for shard in store._shards:
            shard.epoch += 1
            shard.changes.clear()
        store._sets_position = replace(store._sets_position, epoch=store._sets_position.epoch + 1)
        await until(lambda: follower.known.view().standing == "verified")
        back = {entry.id for entry in POOL[:20]} | later
    async with kept(store, tmp_path) as (follower, _):
        view = await caught_up(follower, store)
        assert (view.standing, found_ids(view, POOL)) == ("verified", back)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def grown(data: bytes) -> bytes:
    return data + b"\0"


def other_version(data: bytes) -> bytes:
    return data.replace(b"hashweir copy 1\n", b"hashweir copy 2\n")


def nothing_of_ours(_: bytes) -> bytes:
    return random.Random(SEED).randbytes(1000)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (cut, "saved_damaged"),
        (grown, "saved_damaged"),
        (nothing_of_ours, "saved_damaged"),
        (other_version, "saved_layout"),
        (lambda _: b"", None),
    ],
)
async def test_a_file_that_cant_be_used_is_refused_and_costs_only_itself(
    fault: Callable[[bytes], bytes], reason: str | None, tmp_path: Path
) -> None:
    """The reason is told, everything is read from the store, and the end replaces the file."""
    store = MemoryStore()
    await store.create(SHARDS)
    writer = await begun(store)
    await writer.add(*POOL)
    async with kept(store, tmp_path) as (follower, _):
        await caught_up(follower, store)
    file = tmp_path / "known.copy"
    file.write_bytes(fault(file.read_bytes()))
    async with kept(store, tmp_path) as (follower, said):
        view = await caught_up(follower, store)
        assert (view.standing, found_ids(view, POOL)) == ("verified", writer.active)
        assert said.reasons == ([reason] if reason else [])
    async with kept(store, tmp_path) as (follower, said):
        await caught_up(follower, store)
        assert said.events == ["copy.loaded"]


async def test_chunks_that_do_not_fit_their_slots_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where every sum of the file is right: another program may have written it."""
    store = MemoryStore()
    await store.create(SHARDS)
    writer, saved = await begun(store), Shard.saved
    await writer.add(*POOL)
    with monkeypatch.context() as patched:
        patched.setattr(Shard, "saved", lambda shard, kind: (*saved(shard, kind)[:2], [1, 2, 3]))
        async with kept(store, tmp_path) as (follower, _):
            await caught_up(follower, store)
    async with kept(store, tmp_path) as (follower, said):
        assert found_ids(await caught_up(follower, store), POOL) == writer.active
        assert said.reasons == ["saved_damaged"]


async def test_no_flipped_byte_is_ever_begun_with(tmp_path: Path) -> None:
    """Wherever it is, it is refused; only the padding between sections may differ."""
    store, rng = MemoryStore(), random.Random(SEED)
    await store.create(SHARDS)
    await (await begun(store)).add(*POOL)
    async with kept(store, tmp_path) as (follower, _):
        await caught_up(follower, store)
    data = (tmp_path / "known.copy").read_bytes()
    whole, reasons = restored.restore(memoryview(data)).description, set[str]()
    for _ in range(300):
        at = rng.randrange(len(data))
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        try:
            found = restored.restore(memoryview(flipped)).description
        except InputError as error:
            reasons.add(error.reason)
        else:
            assert (found, data[at]) == (whole, 0)
    assert reasons == {"saved_damaged"}


async def test_another_stores_file_is_refused(tmp_path: Path) -> None:
    """Or that of other shards: nothing of it is begun with."""
    first, second = MemoryStore(), MemoryStore()
    for store in (first, second):
        await store.create(SHARDS)
    writer = await begun(first)
    await begun(second)
    await writer.add(*POOL)
    for store, options in ((first, {}), (second, {}), (second, {"only": parse(f"0/{SHARDS}")})):
        async with kept(store, tmp_path, **options) as (follower, said):
            view = await caught_up(follower, store)
            assert found_ids(view, POOL) == (writer.active if store is first else set())
            assert said.reasons == ([] if store is first else ["saved_foreign"])


async def test_a_folder_that_is_taken_or_none_costs_only_the_file(tmp_path: Path) -> None:
    """A second worker follows without; so does one whose folder can't be made."""
    store = MemoryStore()
    await store.create(SHARDS)
    await begun(store)
    (tmp_path / "file").write_bytes(b"")
    async with kept(store, tmp_path) as (first, _):
        await caught_up(first, store)
        async with kept(store, tmp_path) as (follower, said):
            await caught_up(follower, store)
            assert said.reasons == said.failures == ["saved_in_use"]
    async with kept(store, tmp_path / "file") as (follower, said):
        await caught_up(follower, store)
        assert said.reasons == said.failures == ["saved_unwritable"]


async def test_a_save_that_fails_leaves_the_former_file(tmp_path: Path) -> None:
    """And nothing half written; only the owner may read what there is."""
    folder = tmp_path / "deep" / "copy"
    file = CopyFile(folder)
    assert bytes(file.read()) == b""
    file.write([b"one", b"two"])

    def fails() -> Any:
        yield b"three"
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        file.write(fails())
    assert bytes(file.read()) == b"onetwo"
    assert {one.name for one in folder.iterdir()} == {"lock", "known.copy"}
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    put(folder / "other.copy", [b""], sync=True)
    assert (folder / "other.copy").read_bytes() == b""


async def test_what_the_store_forgot_is_not_in_the_file(tmp_path: Path) -> None:
    """A slot that is gone from the store leaves no byte of its value or its record in what is saved later."""
    store = MemoryStore()
    await store.create(SHARDS)
    writer = await begun(store)
    await writer.add(*POOL[:20])
    was = snapshot(store)
    async with kept(store, tmp_path) as (follower, _):
        await writer.add(*POOL[20:])
        await caught_up(follower, store)
        restore(store, was)
        for shard in store._shards:
            shard.epoch += 1
            shard.changes.clear()
        view = await caught_up(follower, store)
        assert found_ids(view, POOL) == {entry.id for entry in POOL[:20]}
    data = (tmp_path / "known.copy").read_bytes()
    for entry in POOL[:20]:
        assert bytes.fromhex(entry.id) in data
    for entry in POOL[20:]:
        for part in (entry.id, entry.item) if entry.item not in {one.item for one in POOL[:20]} else (entry.id,):
            assert bytes.fromhex(part) not in data
        assert entry.kind == "tlsh" or HASHERS[entry.kind].parse(entry.value) not in data
    async with kept(store, tmp_path) as (follower, said):
        assert found_ids(await caught_up(follower, store), POOL) == {entry.id for entry in POOL[:20]}
        assert said.events == ["copy.loaded"]
