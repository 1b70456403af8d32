"""What every store of shards promises, on the twin, on Valkey and on Redis."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hashweir.errors import InputError, Refused
from hashweir.model import KINDS, Entry, EntryState, Kind
from hashweir.ports import EditResult, Position, Store
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SUM_MODULUS, digest, pack, slot_sum, unpack
from tests.contract.stores import SHARDS, Deployments, add, in_shard, part, withdraw

EXAMPLES = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
POOL = list(islice(in_shard(0), 12))
NAMES = {7: "known"}


class Oracle:
    """A shard as a dict: what a part must answer and leave behind."""

    def __init__(self) -> None:
        self.seq = 0
        self.slots: dict[Kind, list[Entry]] = {}
        self.places: dict[str, tuple[Kind, int]] = {}

    def apply(self, verb: str, entry: Entry) -> EditResult:
        place = self.places.get(entry.id)
        if place is None:
            if verb == "withdraw":
                return "not_found"
            rows = self.slots.setdefault(entry.kind, [])
            self.places[entry.id] = entry.kind, len(rows)
            rows.append(entry)
            self.seq += 1
            return "added"
        kind, slot = place
        now = self.slots[kind][slot]
        if (now.state == "retired") != (verb == "add"):
            return "unchanged"
        self.slots[kind][slot] = entry if verb == "add" else replace(now, state="retired")
        self.seq += 1
        return "reactivated" if verb == "add" else "withdrawn"


async def rows_of(store: Store, shard: int, kind: Kind) -> list[tuple[bytes, bytes]]:
    """All slots of a kind with their side records, after checking every chunk's sum and cut."""
    head, rows = await store.head(shard), list[tuple[bytes, bytes]]()
    sums = await store.sums(shard, kind)
    for number, kept in enumerate(sums):
        chunk = await store.read_chunk(shard, kind, number)
        assert chunk.position == head.position
        found = [
            (chunk.slots[i * SLOT_BYTES :][:SLOT_BYTES], chunk.sides[i * SIDE_BYTES :][:SIDE_BYTES])
            for i in range(len(chunk.slots) // SLOT_BYTES)
        ]
        assert len(chunk.sides) == len(found) * SIDE_BYTES
        assert await store.digests(shard, kind, number, 1) == [digest(chunk.slots, chunk.sides)]
        total = sum(slot_sum(number * CHUNK_SLOTS + i, *row) for i, row in enumerate(found)) % SUM_MODULUS
        assert total == kept == chunk.sum
        rows += found
    assert len(rows) == head.counts.get(kind, 0)
    beyond = await store.read_chunk(shard, kind, len(sums))
    assert (beyond.slots, beyond.sides) == (b"", b"")
    assert len(await store.digests(shard, kind, 0, len(sums) + 2)) == len(sums)
    assert await store.digests(shard, kind, len(sums), 2) == []
    return rows


async def check(store: Store, oracle: Oracle, start: Position) -> None:
    """The shard holds what the oracle holds, its sums are right, and its changes replay to the same chunks."""
    head = await store.head(0)
    total = sum([sum(await store.sums(0, kind)) for kind in KINDS]) % SUM_MODULUS
    assert (head.position, head.total) == (Position(start.epoch, oracle.seq), total)
    assert (await store.heads())[0].position == head.position
    changes = await store.read_changes({0: start}, 0, 10_000)
    assert [change.position.seq for change in changes] == list(range(start.seq + 1, oracle.seq + 1))
    replayed: dict[Kind, dict[int, tuple[bytes, bytes]]] = {}
    for change in changes:
        assert (change.shard, change.position.epoch) == (0, start.epoch)
        replayed.setdefault(change.kind, {})[change.slot] = change.image, change.side
    for kind in KINDS:
        rows = await rows_of(store, 0, kind)
        assert dict(enumerate(rows)) == replayed.get(kind, {})
        short = [
            replace(e, item_name=e.item_name if len(e.item_name) <= 18 else "") for e in oracle.slots.get(kind, [])
        ]
        assert [unpack(kind, *row, NAMES) for row in rows] == short
    assert await store.find(0, [entry.id for entry in POOL]) == oracle.places
    names = {e.item: e.item_name for rows in oracle.slots.values() for e in rows if len(e.item_name) > 18}
    assert await store.read_names(0, [entry.item for entry in POOL]) == names


edits_of = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "withdraw"]),
        st.integers(0, len(POOL) - 1),
        st.sampled_from(["active", "shadow"]),
    ),
    min_size=1,
    max_size=8,
)


@given(operations=st.lists(st.tuples(edits_of, st.booleans(), st.booleans()), max_size=8))
@EXAMPLES
async def test_a_shard_is_a_dict_with_a_journal(
    fresh: Deployments, operations: list[tuple[list[tuple[str, int, EntryState]], bool, bool]]
) -> None:
    """Any operations, repeated or not, by this client or another: answers, slots, sums and changes are the dict's."""
    async with fresh() as deployment:
        store, oracle = await deployment.connect(), Oracle()
        start = (await store.head(0)).position
        assert start.seq == 0
        for number, (steps, repeat, elsewhere) in enumerate(operations):
            edits = [(verb, replace(POOL[i], state=state, added_ms=number)) for verb, i, state in steps]
            given_part = part(f"op-{number}", *(add(e) if verb == "add" else withdraw(e) for verb, e in edits))
            answer = await store.apply(given_part)
            assert answer.results == tuple(oracle.apply(verb, entry) for verb, entry in edits)
            assert (answer.position, answer.repeated) == (Position(start.epoch, oracle.seq), False)
            if repeat:
                other = await deployment.connect() if elsewhere else store
                assert await other.apply(given_part) == replace(answer, repeated=True)
        await check(store, oracle, start)


async def test_old_answers_are_kept_while_the_shard_moves_on(fresh: Deployments) -> None:
    """A repeat long after gives the first answer, and does not bring back what was withdrawn since."""
    async with fresh() as deployment:
        store, entry = await deployment.connect(), POOL[0]
        first = await store.apply(part("add", add(entry)))
        await store.apply(part("withdraw", withdraw(entry)))
        assert await store.apply(part("add", add(entry))) == replace(first, repeated=True)
        image = (await store.read_chunk(0, entry.kind, 0)).slots
        assert unpack(entry.kind, image, (await store.read_chunk(0, entry.kind, 0)).sides, NAMES).state == "retired"


async def test_an_operation_id_stands_for_one_thing(fresh: Deployments) -> None:
    """The same id with other changes is refused, and changes nothing."""
    async with fresh() as deployment:
        store = await deployment.connect()
        await store.apply(part("one", add(POOL[0])))
        with pytest.raises(Refused, match="other changes"):
            await store.apply(part("one", add(POOL[1])))
        assert (await store.head(0)).position.seq == 1


BAD = {
    "retired": replace(POOL[3], state="retired"),
    "other shard": next(in_shard(1)),
    "wrong id": replace(POOL[3], id="00" * 16),
    "bad value": replace(POOL[3], value="xy"),
    "bad item": replace(POOL[3], item="00"),
    "bad quality": replace(POOL[0], quality=300),
    "long name": replace(POOL[3], item_name="x" * 513),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_a_part_is_applied_whole_or_not_at_all(fresh: Deployments, bad: Entry) -> None:
    """One bad edit at the end, and nothing of the part is stored: not even its answer."""
    async with fresh() as deployment:
        store = await deployment.connect()
        with pytest.raises(InputError):
            await store.apply(part("one", add(POOL[0]), add(POOL[1]), add(bad)))
        assert (await store.head(0)).position.seq == 0
        assert await store.find(0, [POOL[0].id, POOL[1].id]) == {}
        assert not (await store.apply(part("one", add(POOL[2])))).repeated


@pytest.mark.parametrize("count", [0, 257])
async def test_a_part_holds_1_to_256_edits(fresh: Deployments, count: int) -> None:
    """Neither none nor more than 256."""
    async with fresh() as deployment:
        store = await deployment.connect()
        with pytest.raises(InputError) as e:
            await store.apply(part("one", *map(add, islice(in_shard(0), count))))
        assert e.value.reason == "operation_too_large"


async def test_chunks_follow_one_another(fresh: Deployments) -> None:
    """Across the first chunk's end slots go on in the next one; every entry is found; buckets split unseen."""
    async with fresh() as deployment:
        store, oracle = await deployment.connect(), Oracle()
        many = list(islice(in_shard(0, kinds=["pdq"]), CHUNK_SLOTS + 300))
        for at in range(0, len(many), 256):
            run = many[at : at + 256]
            answer = await store.apply(part(f"op-{at}", *map(add, run)))
            assert answer.results == tuple(oracle.apply("add", entry) for entry in run)
        assert len(await store.sums(0, "pdq")) == 2
        rows = await rows_of(store, 0, "pdq")
        assert rows == [pack(entry, 7) for entry in many]
        assert await store.find(0, [entry.id for entry in many]) == oracle.places
        gone = await store.apply(part("gone", *map(withdraw, many[900:1100])))
        assert set(gone.results) == {"withdrawn"}
        await rows_of(store, 0, "pdq")


async def test_two_writers_never_lose_or_double_a_change(fresh: Deployments) -> None:
    """Two clients that add and withdraw the same entries at once: the changes are dense and tell the whole story."""
    async with fresh() as deployment:
        one, two = await deployment.connect(), await deployment.connect()
        start = (await one.head(0)).position

        async def write(store: Store, name: str) -> int:
            effective = 0
            for number in range(30):
                edits = [add(e) if number % 2 else withdraw(e) for e in POOL]
                results = (await store.apply(part(f"{name}-{number}", *edits))).results
                effective += sum(result not in ("unchanged", "not_found") for result in results)
            return effective

        told = sum(await asyncio.gather(write(one, "one"), write(two, "two")))
        changes = await one.read_changes({0: start}, 0, 10_000)
        assert [change.position.seq for change in changes] == list(range(1, told + 1))
        for kind in KINDS:
            await rows_of(two, 0, kind)


async def test_the_same_operation_from_two_clients_at_once_happens_once(fresh: Deployments) -> None:
    """However a repeat races its first attempt."""
    async with fresh() as deployment:
        clients = [await deployment.connect() for _ in range(4)]
        answers = await asyncio.gather(*(client.apply(part("same", *map(add, POOL))) for client in clients))
        assert sorted(answer.repeated for answer in answers) == [False, True, True, True]
        assert {answer.results for answer in answers} == {("added",) * len(POOL)}
        assert (await clients[0].head(0)).position.seq == len(POOL)


async def test_one_read_waits_for_all_shards(fresh: Deployments) -> None:
    """A reader that waits is woken by whichever shard changes, and gets no more than it asked for."""
    async with fresh() as deployment:
        reader, writer = await deployment.connect(), await deployment.connect()
        after = {shard: head.position for shard, head in enumerate(await reader.heads())}
        assert len(after) == SHARDS == reader.shards
        assert await reader.read_changes(after, 1, 10) == []
        waiting = asyncio.create_task(reader.read_changes(after, 30_000, 2))
        await writer.apply(part("op", *map(add, islice(in_shard(1), 5)), shard=1))
        changes = await waiting
        assert [(change.shard, change.position.seq) for change in changes] == [(1, 1), (1, 2)]
        rest = await reader.read_changes(after | {1: changes[-1].position}, 0, 10)
        assert [change.position.seq for change in rest] == [3, 4, 5]


async def test_a_cancelled_read_leaves_nothing_behind(fresh: Deployments) -> None:
    """After many cancellations every question still gets its own answer."""
    async with fresh() as deployment:
        store = await deployment.connect()
        await store.apply(part("op", *map(add, POOL)))
        places = await store.find(0, [e.id for e in POOL])
        for turn in range(60):
            asked = asyncio.create_task(store.find(0, [e.id for e in POOL]))
            for _ in range(turn % 6):
                await asyncio.sleep(0)
            asked.cancel()
            head, names = await asyncio.gather(store.head(0), store.read_names(0, [POOL[0].item]))
            assert (head.position.seq, set(names)) == (len(POOL), {POOL[0].item})
        assert await store.find(0, [e.id for e in POOL]) == places
