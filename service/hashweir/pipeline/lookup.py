"""Fingerprints to neighbours: all of one upload, against one view, in one call. Pure; runs in a thread.

A neighbour is an entry that its own set's radius, quality floor and length ratio accept. What follows from it
(band, action, outcome) is for `decide` to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from hashweir.hashing import HASHERS
from hashweir.model import FORMS, GROUPS, AnyForm, Entry, Fingerprint, FormGroup, Kind, Neighbour, Set
from hashweir.ports import Found, View

LENGTH_RATIO = (0.8, 1.25)
"""Share of the known text's length within which an upload can be an edit of it."""


def lookup(view: View, fingerprints: Sequence[Fingerprint]) -> list[Neighbour]:
    """Every neighbour of these fingerprints: nearest per (item, set) for each kind and form."""
    groups: dict[tuple[Kind, AnyForm], list[Fingerprint]] = defaultdict(list)
    for fingerprint in fingerprints:
        groups[fingerprint.kind, fingerprint.form].append(fingerprint)
    neighbours: list[Neighbour] = []
    for (kind, form), group in groups.items():
        neighbours.extend(_neighbours(group, _search(view, kind, form, group)))
    return neighbours


def wanted_forms(sets: Mapping[str, Set]) -> tuple[FormGroup, ...]:
    """What a scan has to compute beside the canonical form for these sets, in order of names.

    `fast` stands in for the canonical form, so it is wanted only where all of them want it.
    """
    live = [one for one in sets.values() if one.state != "off"]
    wanted = {form for one in live for form in one.forms}
    if not all("fast" in one.forms for one in live):
        wanted.discard("fast")
    return tuple(sorted(wanted))


def _search(view: View, kind: Kind, form: AnyForm, group: Sequence[Fingerprint]) -> list[Found]:
    sets = {name: one for name, one in view.sets.items() if one.state != "off"}
    if not sets:
        return []

    def accept(query: int, entry: Entry, distance: int) -> bool:
        owner = sets.get(entry.set)
        if owner is None or distance > owner.radius.get(kind, 0):
            return False
        if form in GROUPS and GROUPS[form] not in owner.forms:
            return False
        quality = group[query].quality
        if kind == "pdq" and quality is not None and quality < owner.min_quality:
            return False
        return kind != "tlsh" or lengths_fit(group[query], entry)

    values = [HASHERS[kind].parse(one.value) for one in group]
    among = form if form in FORMS else "canonical"
    return view.search(kind, among, values, max(one.radius.get(kind, 0) for one in sets.values()), accept)


def _neighbours(group: Sequence[Fingerprint], found: Sequence[Found]) -> list[Neighbour]:
    return [
        Neighbour(
            fingerprint=group[near.query],
            entry=near.entry,
            distance=near.distance,
            length_unknown=near.entry.kind == "tlsh" and None in (near.entry.length, group[near.query].length),
        )
        for near in found
    ]


def lengths_fit(fingerprint: Fingerprint, entry: Entry) -> bool:
    """Whether two texts' lengths allow one to be an edit of the other.

    Where a length is unknown, TLSH's length byte stands in. It is a logarithm of the length, to the base 1.5 up to
    656 bytes, 1.3 up to 3,199 (byte 22) and 1.1 beyond (Oliver, Cheng, Chen: TLSH, 2013), so a ratio of 1.25
    moves it by at most 1, 1 and 3.
    """
    if fingerprint.length is not None and entry.length:
        return LENGTH_RATIO[0] <= fingerprint.length / entry.length <= LENGTH_RATIO[1]
    ours, theirs = _length_byte(fingerprint.value), _length_byte(entry.value)
    return abs(ours - theirs) <= (3 if max(ours, theirs) > 22 else 1)


def _length_byte(tlsh_text: str) -> int:
    """The length byte of `T1…`: the second header byte, whose two nibbles TLSH prints in swapped order."""
    return int(tlsh_text[5] + tlsh_text[4], 16)
