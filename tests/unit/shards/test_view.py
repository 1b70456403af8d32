"""A search over many hits gives what the plain rule gives: nearest accepted per (item, set), by distance, then id."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hashweir.hashing import HASHERS
from hashweir.model import Entry, Kind, Set
from hashweir.ports import Position, SetsState, SlotChange
from hashweir.shards.known import LiveKnown, Trust
from hashweir.shards.layout import entry_id, pack
from hashweir.shards.view import KnownView
from tests.contract.following import SetClock

SETS = ("one", "two")


def near(rng: random.Random, width: int) -> bytes:
    """A value close to zero: most of them are near each other."""
    value = bytearray(width)
    for _ in range(rng.randrange(4)):
        value[rng.randrange(3, width)] ^= 1 << rng.randrange(8)
    return bytes(value)


def known(entries: list[Entry]) -> KnownView:
    """A view of these."""
    copy = LiveKnown(SetClock())
    copy.begin(1)
    sets = tuple(
        Set(name=name, owner="a team", origin="own-review", state="active", number=number)
        for number, name in enumerate(SETS, 1)
    )
    copy.put_sets(SetsState(position=Position(epoch=1, seq=1), sets=sets, time_ms=0))
    (shard,) = copy.shards
    shard.rebase(Position(epoch=1, seq=0))
    used = dict.fromkeys({entry.kind for entry in entries}, 0)
    for seq, entry in enumerate(entries, 1):
        # A set that nobody has read yet has another number.
        image, side = pack(entry, SETS.index(entry.set) + 1 if entry.set in SETS else 9)
        slot, used[entry.kind] = used[entry.kind], used[entry.kind] + 1
        position = Position(epoch=1, seq=seq)
        shard.apply(SlotChange(shard=0, position=position, kind=entry.kind, slot=slot, image=image, side=side, at_ms=0))
    copy.publish(Trust(loaded=True, doubtful=False, verified_at=0.0))
    return copy.view()


@given(st.integers(0, 2**32), st.sampled_from(["pdq", "tlsh"]), st.sampled_from([0, 2, 12, 400]))
def test_the_nearest_accepted_of_each_item_and_set(seed: int, kind: Kind, radius: int) -> None:
    """Against the rule, spelt out: ties, several queries, items in two sets, unknown sets, refusals."""
    rng, width = random.Random(seed), HASHERS[kind].width
    form, made = "raw" if kind == "tlsh" else "canonical", dict[str, Entry]()
    for number in range(60):
        set_name, value = rng.choice([*SETS, "unread"]), near(rng, width)
        one = Entry(
            id=entry_id(set_name, kind, form, value),
            set=set_name,
            kind=kind,
            form="raw" if kind == "tlsh" else "canonical",
            value=HASHERS[kind].show(value),
            item=f"{rng.randrange(6):016x}",
            state=rng.choice(["active", "active", "active", "shadow"]),
            added_ms=number,
        )
        made.setdefault(one.id, one)
    refused = {(query, id_) for query in range(3) for id_ in made if rng.random() < 0.3}
    queries = [near(rng, width) for _ in range(3)]
    hits = sorted(
        (HASHERS[kind].distance(query, HASHERS[kind].parse(one.value)), id_, number)
        for number, query in enumerate(queries)
        for id_, one in made.items()
        if one.state == "active" and one.set in SETS
    )
    expected, taken = list[tuple[int, str, int]](), set[tuple[str, str]]()
    for distance, id_, number in hits:
        group = made[id_].item, made[id_].set
        if distance <= radius and group not in taken and (number, id_) not in refused:
            taken.add(group)
            expected.append((distance, id_, number))
    view = known(list(made.values()))
    found = view.search(
        kind, "raw" if kind == "tlsh" else "canonical", queries, radius, lambda q, e, d: (q, e.id) not in refused
    )
    assert [(one.distance, one.entry.id, one.query) for one in found] == expected
    assert [one.entry for one in found] == [made[one.entry.id] for one in found]


def test_an_entry_is_put_together_only_while_its_item_is_open() -> None:
    """Of thousands of hits of one item, one is unpacked; of as many items, each once."""
    rng = random.Random(1)

    def entries(items: int) -> list[Entry]:
        values = {rng.randbytes(32) for _ in range(600)}
        return [
            Entry(
                id=entry_id("one", "pdq", "canonical", value),
                set="one",
                kind="pdq",
                form="canonical",
                value=value.hex(),
                item=f"{number % items:016x}",
                state="active",
                added_ms=0,
            )
            for number, value in enumerate(values)
        ]

    for items in (1, 600):
        asked = list[tuple[int, str]]()

        def accept(query: int, entry: Entry, distance: int, asked: list[tuple[int, str]] = asked) -> bool:
            asked.append((distance, entry.id))
            return True

        found = known(entries(items)).search("pdq", "canonical", [bytes(32)], 256, accept)
        assert len(asked) == len(found) == items
        assert all(a <= b for a, b in pairwise(asked))
