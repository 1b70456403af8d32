"""One shard in memory against a dictionary, and its sums against their definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hashweir.model import Kind
from hashweir.ports import Chunk, Head, Position, SlotChange
from hashweir.shards._sums import chunk_sum
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SLOT_FORMS, SUM_MODULUS, slot_sum
from hashweir.shards.records import BLOCK_ROWS
from hashweir.shards.shard import Gap, Shard
from hashweir.shards.tables import ACTIVE, Tables
from tests.contract.following import flip

EPOCH = 7


def change(seq: int, kind: Kind, slot: int, mark: int, epoch: int = EPOCH) -> SlotChange:
    """A change whose bytes are told by `mark`."""
    return SlotChange(
        shard=0,
        position=Position(epoch=epoch, seq=seq),
        kind=kind,
        slot=slot,
        image=mark.to_bytes(SLOT_BYTES, "big"),
        side=mark.to_bytes(SIDE_BYTES, "big"),
        at_ms=0,
    )


def started() -> Shard:
    """An empty shard of a store's epoch."""
    shard = Shard(0, Tables())
    shard.rebase(Position(epoch=EPOCH, seq=0))
    return shard


def filled(slots: int, kind: Kind = "pdq") -> Shard:
    """A shard with so many slots of one kind."""
    shard = started()
    for slot in range(slots):
        shard.apply(change(slot + 1, kind, slot, slot + 1))
    return shard


def as_chunk(shard: Shard, kind: Kind, number: int, seq: int) -> Chunk:
    """A chunk as a store would answer it."""
    slots, sides = shard.snapshot(kind, number).read()
    total = shard.sums(kind)[number] if slots else 0
    return Chunk(slots=slots, sides=sides, sum=total, position=Position(epoch=EPOCH, seq=seq))


@given(st.lists(st.tuples(st.sampled_from(["pdq", "tlsh", "md5"]), st.integers(0, 2**30), st.booleans()), max_size=60))
def test_changes_give_what_a_dictionary_gives(script: list[tuple[Kind, int, bool]]) -> None:
    """Bytes, counts, sums and total follow from the slots alone, whatever the order of changes."""
    shard, model = started(), dict[tuple[Kind, int], int]()
    for seq, (kind, mark, new) in enumerate(script, 1):
        used = sum(known == kind for known, _ in model)
        slot = used if new or not used else mark % used
        assert shard.apply(change(seq, kind, slot, mark))
        model[kind, slot] = mark
    total = 0
    for (kind, slot), mark in model.items():
        image, side = mark.to_bytes(SLOT_BYTES, "big"), mark.to_bytes(SIDE_BYTES, "big")
        assert shard.slot(kind, slot) == (image, side)
        total += slot_sum(slot, image, side)
    assert shard.total == total % SUM_MODULUS
    assert shard.position == Position(epoch=EPOCH, seq=len(script))
    assert shard.counts() == {kind: n for kind in ("pdq", "tlsh", "md5") if (n := sum(k == kind for k, _ in model))}


@pytest.mark.parametrize(
    "wrong",
    [
        change(2, "pdq", 2, 1),
        change(4, "pdq", 2, 1),
        change(3, "pdq", 2, 1, epoch=EPOCH + 1),
        change(3, "pdq", 3, 1),
        change(3, "tlsh", 1, 1),
        change(3, "pdq", 3 * CHUNK_SLOTS, 1),
        replace(change(3, "pdq", 2, 1), image=b"short"),
        replace(change(3, "pdq", 2, 1), side=b""),
    ],
    ids=["repeated", "skipped", "other epoch", "slot skipped", "kind empty", "chunk skipped", "image", "side"],
)
def test_what_does_not_follow_is_a_gap_and_changes_nothing(wrong: SlotChange) -> None:
    """The sequence is dense, slots are handed out in order, and records have their size."""
    shard = filled(2)
    before = shard.position, shard.total, shard.counts(), shard.snapshot("pdq", 0).read()
    with pytest.raises(Gap):
        shard.apply(wrong)
    assert (shard.position, shard.total, shard.counts(), shard.snapshot("pdq", 0).read()) == before
    assert shard.apply(change(3, "pdq", 2, 1))


def test_chunks_meet_at_their_edges() -> None:
    """Slot numbers run on over chunks, and a chunk's sum counts them from the shard's beginning."""
    shard = filled(CHUNK_SLOTS + 2)
    assert shard.count("pdq") == CHUNK_SLOTS + 2
    assert [len(shard.snapshot("pdq", n).read()[0]) // SLOT_BYTES for n in (0, 1, 2)] == [CHUNK_SLOTS, 2, 0]
    assert shard.sums("pdq")[1] == chunk_sum(CHUNK_SLOTS, *shard.snapshot("pdq", 1).read())
    assert shard.slot("pdq", CHUNK_SLOTS)[0] == (CHUNK_SLOTS + 1).to_bytes(SLOT_BYTES, "big")
    with pytest.raises(IndexError):
        shard.slot("pdq", CHUNK_SLOTS + 2)


def test_only_differing_chunks_are_named_and_replacing_them_makes_two_shards_equal() -> None:
    """Comparing sums finds what changed, what is new and what is gone."""
    ours, theirs = filled(2 * CHUNK_SLOTS), filled(2 * CHUNK_SLOTS + 5)
    last = 2 * CHUNK_SLOTS + 5
    theirs.apply(change(last + 1, "pdq", 3, 12345))
    assert ours.differing("pdq", theirs.sums("pdq")) == [0, 2]
    assert theirs.differing("pdq", ours.sums("pdq")) == [0, 2]
    ours.rebase(theirs.position)
    for number in (0, 2):
        ours.replace("pdq", number, as_chunk(theirs, "pdq", number, last + 1))
    head = Head(
        layout=1,
        position=theirs.position,
        counts={"pdq": last, "md5": 0},
        total=theirs.total,
        time_ms=0,
        role="master",
        replication_id="x",
    )
    assert ours.agrees(head)
    assert not ours.agrees(replace(head, total=head.total + 1))
    assert not ours.agrees(replace(head, counts={"pdq": last - 1}))
    nothing = Chunk(slots=b"", sides=b"", sum=0, position=theirs.position)
    ours.replace("pdq", 2, nothing)
    ours.replace("pdq", 1, nothing)
    assert ours.count("pdq") == CHUNK_SLOTS
    assert ours.total == ours.sums("pdq")[0]
    with pytest.raises(Gap):
        ours.replace("pdq", 2, as_chunk(theirs, "pdq", 2, last + 1))


def test_a_chunk_read_later_is_not_set_back_by_changes_it_has() -> None:
    """Chunks are read one after the other while the store goes on; the stream then begins before them."""
    store, ours = filled(3), filled(3)
    changes = [change(4, "pdq", 0, 100), change(5, "pdq", 3, 101), change(6, "pdq", 0, 102)]
    for one in changes[:2]:
        store.apply(one)
    ours.rebase(Position(epoch=EPOCH, seq=3))
    ours.replace("pdq", 0, as_chunk(store, "pdq", 0, 5))
    store.apply(changes[2])
    assert [ours.apply(one) for one in changes] == [False, False, True]
    assert (ours.position, ours.total) == (store.position, store.total)


def test_a_kept_chunk_takes_changes_of_a_shorter_history() -> None:
    """After a store went back, new changes have numbers that an earlier history used up."""
    ours = filled(5)
    ours.replace("pdq", 0, as_chunk(ours, "pdq", 0, 5))
    ours.rebase(Position(epoch=EPOCH, seq=2))
    assert ours.apply(change(3, "pdq", 1, 77))


def test_memory_that_changed_by_itself_is_seen() -> None:
    """The sum kept for a chunk is that of its bytes."""
    shard = filled(3)
    assert shard.snapshot("pdq", 0).intact()
    flip(shard, "pdq", 1, 40)
    assert not shard.snapshot("pdq", 0).intact()


@pytest.mark.parametrize("count", [3, 2 * BLOCK_ROWS])
def test_a_mark_is_that_of_memory(count: int) -> None:
    """It stays while nothing changes, and no byte changes without it; scattered rows have none."""
    shard, last = started(), (count - 1) // CHUNK_SLOTS
    for slot in range(count):
        shard.apply(change(slot + 1, "pdq", slot, slot << 80))  # all of one form
    mark = shard.snapshot("pdq", last).mark()
    assert mark is not None
    assert shard.snapshot("pdq", last).mark() == mark
    for at in range(32, SLOT_BYTES):
        flip(shard, "pdq", count - 2, at)
        assert shard.snapshot("pdq", last).mark() != mark
        flip(shard, "pdq", count - 2, at)
    assert shard.snapshot("pdq", last).mark() == mark
    shard.refs("pdq")[count - 2] ^= 1 << 20
    assert shard.snapshot("pdq", last).mark() is None
    shard.refs("pdq")[count - 2] ^= 1 << 20
    assert shard.apply(change(count + 1, "pdq", count - 2, 7 << 80))
    assert shard.snapshot("pdq", last).mark() is None


@given(st.lists(st.tuples(st.sampled_from(["pdq", "md5"]), st.integers(0, 2**30), st.booleans()), max_size=40))
def test_many_changes_at_once_are_as_one_by_one(script: list[tuple[Kind, int, bool]]) -> None:
    """`extend` takes what `apply` would take, to the same bytes and sums, or nothing."""
    one_by_one, together, changes = started(), started(), list[SlotChange]()
    used: dict[Kind, int] = {"pdq": 0, "md5": 0}
    for seq, (kind, mark, new) in enumerate(script, 1):
        slot = used[kind] if new or not used[kind] else mark % used[kind]
        used[kind] = max(used[kind], slot + 1)
        changes.append(change(seq, kind, slot, mark))
    for one in changes:
        one_by_one.apply(one)
    rest = changes
    while rest:
        if not (taken := together.extend(rest)):
            together.apply(rest[0])
        rest = rest[taken or 1 :]
    assert (together.position, together.total, together.counts()) == (
        one_by_one.position,
        one_by_one.total,
        one_by_one.counts(),
    )
    for kind in used:
        assert together.snapshot(kind, 0).read() == one_by_one.snapshot(kind, 0).read()
        assert together.sums(kind) == one_by_one.sums(kind)
        assert not together.count(kind) or together.snapshot(kind, 0).intact()


@given(st.lists(st.tuples(st.integers(0, 2**30), st.integers(0, 5), st.booleans(), st.booleans()), max_size=40))
def test_beside_kept_withdrawals_many_changes_are_as_one_by_one(script: list[tuple[int, int, bool, bool]]) -> None:
    """What an entry that is kept withdrawn comes to is for `apply` to say; all others are taken together."""
    tables, fields, changes, used = (Tables(), Tables()), SLOT_FORMS["pdq"], list[SlotChange](), 0
    shards = [Shard(0, one) for one in tables]
    for seq, (mark, entry, active, new) in enumerate(script, 1):
        slot = used if new or not used else mark % used
        used = max(used, slot + 1)
        image = bytearray(SLOT_BYTES)
        image[fields.entry], image[fields.state] = entry, ACTIVE if active else 3
        changes.append(replace(change(seq, "pdq", slot, mark), image=bytes(image)))
    for shard in shards:
        shard.rebase(Position(epoch=EPOCH, seq=0))
        shard.kept |= {bytes([entry, *bytes(15)]) for entry in (0, 1)}
    for one in changes:
        shards[0].apply(one)
    while changes:
        if not (taken := shards[1].extend(changes)):
            shards[1].apply(changes[0])
        changes = changes[taken or 1 :]
    assert shards[0].kept == shards[1].kept
    assert shards[0].snapshot("pdq", 0).read() == shards[1].snapshot("pdq", 0).read()
    hidden = [one.hidden("pdq", shard.refs("pdq")).tolist() for one, shard in zip(tables, shards, strict=True)]
    assert hidden[0] == hidden[1]
    assert tables[0].holding() == tables[1].holding()


def test_beside_kept_withdrawals_others_are_taken_together() -> None:
    """However many are kept."""
    shard = filled(3)
    shard.kept.add(b"k" * 16)
    assert shard.extend([change(seq, "pdq", seq - 1, seq) for seq in range(4, 9)]) == 5


def test_extending_goes_over_chunk_edges_and_stops_at_what_does_not_follow() -> None:
    """A run of adds crosses into the next chunk; another sequence, kind or slot ends it."""
    shard = filled(CHUNK_SLOTS - 2)
    seq = CHUNK_SLOTS - 1
    run = [change(seq + n, "pdq", seq - 1 + n, n) for n in range(5)]
    assert shard.extend([*run, change(seq + 6, "pdq", seq + 4, 9)]) == 5
    assert [shard.snapshot("pdq", n).intact() for n in (0, 1)] == [True, True]
    assert shard.count("pdq") == CHUNK_SLOTS + 3
    for wrong in (change(seq + 6, "pdq", seq + 4, 9), change(seq + 5, "pdq", seq + 5, 9), change(seq + 5, "md5", 0, 9)):
        assert shard.extend([wrong, replace(wrong, position=Position(epoch=EPOCH, seq=wrong.position.seq + 1))]) == 0


def test_extending_takes_changes_of_used_slots_once_each() -> None:
    """Of several chunks, new ones in between; a slot that comes again, or was new in the run, is for the next run."""
    shard, model = filled(CHUNK_SLOTS + 2), filled(CHUNK_SLOTS + 2)
    seq = CHUNK_SLOTS + 2
    slots = [5, CHUNK_SLOTS, seq, 7, seq + 1]
    run = [change(seq + 1 + n, "pdq", slot, 90 + n) for n, slot in enumerate(slots)]
    again = [change(seq + 6, "pdq", 5, 77), change(seq + 6, "pdq", seq, 77)]
    for last in again:
        assert filled(CHUNK_SLOTS + 2).extend([*run, last]) == len(run)
    assert shard.extend(run) == len(run)
    for one in run:
        model.apply(one)
    assert [shard.snapshot("pdq", n).read() for n in (0, 1)] == [model.snapshot("pdq", n).read() for n in (0, 1)]
    assert (shard.sums("pdq"), shard.total, shard.position) == (model.sums("pdq"), model.total, model.position)


def test_a_run_that_tells_what_is_there_makes_no_garbage() -> None:
    """As when chunks are accepted as they are: positions move, rows stay."""
    tables = Tables()
    shard = Shard(0, tables)
    shard.rebase(Position(epoch=EPOCH, seq=0))
    assert shard.extend([change(n + 1, "pdq", n, n) for n in range(4)]) == 4
    assert shard.extend([change(n + 5, "pdq", n, n) for n in range(4)]) == 4
    assert (shard.position.seq, [len(table) for table in tables.by_key.values()]) == (8, [4])
    assert [table.garbage for table in tables.by_key.values()] == [0]
