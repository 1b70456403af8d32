"""The bytes of layout version 1, against known answers that the server function is held to as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hashweir.errors import InputError
from hashweir.hashing import HASHERS
from hashweir.model import ENTRY_STATES, FORMS, KINDS, Entry, EntryState, Form, Kind
from hashweir.shards import layout

VECTORS = Path(__file__).parents[2] / "vectors" / "layout.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[f"{c['entry']['kind']}-{i}" for i, c in enumerate(CASES)])
def test_ids_slots_and_sums_never_change(case: dict[str, Any]) -> None:
    """What version 1 once wrote is what it always writes: other bytes are another layout."""
    entry = msgspec.convert(case["entry"], Entry)
    value = HASHERS[entry.kind].parse(entry.value)
    slot, side = layout.pack(entry, case["set_number"])
    assert layout.entry_id(entry.set, entry.kind, entry.form, value) == entry.id
    assert layout.item_id(entry.set, case["item_name"]) == entry.item
    assert layout.shard_of(value, 16) == case["shard_of_16"]
    assert (slot.hex(), side.hex()) == (case["slot_image"], case["side_record"])
    assert layout.slot_sum(case["slot"], slot, side) == case["slot_sum"]


def test_every_kind_has_known_answers() -> None:
    """Each kind, form and state that a slot can hold occurs."""
    assert {c["entry"]["kind"] for c in CASES} == set(KINDS)
    assert {c["entry"]["form"] for c in CASES} == set(FORMS)
    assert {c["entry"].get("state", "active") for c in CASES} == set(ENTRY_STATES)


@given(
    kind=st.sampled_from(KINDS),
    form=st.sampled_from(FORMS),
    state=st.sampled_from(ENTRY_STATES),
    number=st.integers(1, 2**24 - 1),
    quality=st.none() | st.integers(0, 100),
    length=st.none() | st.integers(0, 2**32 - 2),
    name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    data=st.data(),
)
def test_a_slot_gives_back_its_entry(
    kind: Kind,
    form: Form,
    state: EntryState,
    number: int,
    quality: int | None,
    length: int | None,
    name: str,
    data: st.DataObject,
) -> None:
    """`unpack` undoes `pack`, but for a name that does not fit and a TLSH value's quality, which it has none of."""
    value = data.draw(st.binary(min_size=HASHERS[kind].width, max_size=HASHERS[kind].width))
    entry = Entry(
        id=layout.entry_id("known", kind, form, value),
        set="known",
        kind=kind,
        form=form,
        value=HASHERS[kind].show(value),
        item=layout.item_id("known", name),
        item_name=name,
        state=state,
        quality=None if kind == "tlsh" else quality,
        length=length,
        batch="0123456789abcdef",
        added_ms=1_700_000_000_000,
    )
    slot, side = layout.pack(entry, number)
    assert (len(slot), len(side)) == (layout.SLOT_BYTES, layout.SIDE_BYTES)
    fits = len(name.encode()) <= layout.NAME_BYTES
    assert layout.unpack(kind, slot, side, {number: "known"}) == (entry if fits else replace(entry, item_name=""))
    form_ = layout.SLOT_FORMS[kind]
    assert ENTRY_STATES[slot[form_.state]] == state
    assert slot[form_.entry : form_.entry + 16].hex() == entry.id
    assert int.from_bytes(slot[form_.set : form_.set + form_.set_bytes], "big") == number


def test_a_malformed_value_has_no_slot() -> None:
    """It is refused by its reason, before any byte is made."""
    case = msgspec.convert(CASES[0]["entry"], Entry)
    with pytest.raises(InputError) as e:
        layout.pack(replace(case, value="not hex"), 1)
    assert e.value.reason == "bad_value"


def test_two_lists_of_parts_are_never_one() -> None:
    """Moving a byte from one part of an id to the next gives another id."""
    assert layout.entry_id("ab", "pdq", "c", b"") != layout.entry_id("a", "pdq", "bc", b"")
    assert layout.item_id("ab", "c") != layout.item_id("a", "bc")
