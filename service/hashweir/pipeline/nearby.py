"""Which of the ring's uploads new entries are near to, and which are near anything known. Pure; runs in a thread.

It may name uploads that no set accepts in the end (their quality, their length): deciding again will tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hashweir.hashing import HASHERS, RECIPES
from hashweir.hashing.radii import Curve, longest_of, reach
from hashweir.model import FORMS, Entry, Kind, Set
from hashweir.pipeline import ring
from hashweir.pipeline.ring import Tables
from hashweir.ports import SlotChange, View
from hashweir.shards.layout import SLOT_FORMS, unpack

_FORMS_OF = {kind: sorted({form for of, form in RECIPES if of == kind and form in FORMS}) for kind in HASHERS}


def near_few(tables: Sequence[Tables], new: Sequence[SlotChange], sets: Mapping[str, Set]) -> set[int]:
    """The uploads near new entries. Those whose set is not known are passed over."""
    numbers: set[int] = set()
    for change, owner in _by_set(new, sets):
        radius = owner.radius.get(change.kind, 0)
        if change.kind == "tlsh":
            entry = unpack("tlsh", change.image, change.side, {owner.number: owner.name})
            radius = min(radius, _text_radius(entry))
        value = change.image[: HASHERS[change.kind].width]
        numbers.update(ring.near_one(tables, change.kind, value, radius).tolist())
    return numbers


def near_many(tables: Sequence[Tables], new: Sequence[SlotChange], sets: Mapping[str, Set]) -> set[int]:
    """The same for many new entries."""
    numbers: set[int] = set()
    together: dict[tuple[Kind, int], list[bytes]] = {}
    for change, owner in _by_set(new, sets):
        group = together.setdefault((change.kind, owner.radius.get(change.kind, 0)), [])
        group.append(change.image[: HASHERS[change.kind].width])
    for (kind, radius), values in together.items():
        found = ring.near_many(tables, kind, b"".join(values), radius)
        numbers.update(found.tolist())
    return numbers


def near_known(view: View, kind: Kind, values: Sequence[bytes]) -> list[int]:
    """Which of these values, by place, are near some entry of a set that is not off."""
    sets = {name: one for name, one in view.sets.items() if one.state != "off"}
    rows: set[int] = set()

    def note(query: int, entry: Entry, distance: int) -> bool:
        owner = sets.get(entry.set)
        near = owner is not None and distance <= owner.radius.get(kind, 0)
        if near and (kind != "tlsh" or distance <= _text_radius(entry)):
            rows.add(query)
        return False  # the nearest of an item would hide the others

    radius = max((one.radius.get(kind, 0) for one in sets.values()), default=-1)
    for form in _FORMS_OF[kind] if radius >= 0 else ():
        view.search(kind, form, values, radius, note)
    return sorted(rows)


def _by_set(new: Sequence[SlotChange], sets: Mapping[str, Set]) -> Iterator[tuple[SlotChange, Set]]:
    numbered = {one.number: one for one in sets.values()}
    for change in new:
        fields = SLOT_FORMS[change.kind]
        number = int.from_bytes(change.image[fields.set : fields.set + fields.set_bytes], "big")
        owner = numbered.get(number)
        if owner is not None and owner.state != "off":
            yield change, owner


def _text_radius(entry: Entry) -> int:
    """How far any text may be from this entry; the text's own length can only lessen it (`lookup.text_reach`)."""
    length = entry.length or longest_of(int(entry.value[5] + entry.value[4], 16))
    curves: tuple[Curve, ...] = ("normal",) if entry.form == "normal" else ("raw", "raw_of_other_scripts")
    return max(reach(curve, length).radius for curve in curves)
