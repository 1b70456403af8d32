"""Fingerprints to neighbours: those of some uploads, against one view, in one call. Pure; may run in a thread.

A neighbour is an entry that its own set's radius and quality floor accept and, of texts, the lengths of both. What
follows from it (band, action, outcome) is for `decide` to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hashweir.canary import CANARY_SET
from hashweir.hashing import HASHERS
from hashweir.hashing.radii import Curve, Reach, longest_of, reach
from hashweir.model import FORMS, GROUPS, AnyForm, Entry, Fingerprint, Form, Kind, Neighbour, Set, SetForm
from hashweir.ports import Accept, Found, Query, View

LENGTH_RATIO = (0.8, 1.25)
"""Share of the known text's length within which an upload can be an edit of it."""


Asked = tuple[Sequence[Fingerprint], Sequence[str]]
"""One upload's fingerprints and the notes of its scan."""


def lookup(view: View, fingerprints: Sequence[Fingerprint], notes: Sequence[str] = ()) -> list[Neighbour]:
    """Every neighbour of these fingerprints: nearest per (item, set) for each kind and form.

    Of the scan's `notes`, `mostly_ascii` says that a raw hash of a text may be trusted as far as its normal one.
    Fingerprints with a time are frames of a video: of these, all that hit an item are told together.
    """
    return lookup_many(view, [(fingerprints, notes)])[0]


def lookup_many(view: View, uploads: Sequence[Asked]) -> list[list[Neighbour]]:
    """What `lookup` says of each of these uploads, with one search per kind and form for all of them."""
    sets = {name: one for name, one in view.sets.items() if one.state != "off"}
    held = {kind for name in sets for kind in view.holds(name)}
    groups: dict[tuple[Kind, AnyForm], list[_Of]] = defaultdict(list)
    own: list[dict[tuple[Kind, AnyForm, bool], list[Neighbour]]] = []
    for number, (fingerprints, notes) in enumerate(uploads):
        mostly_ascii, timed = "mostly_ascii" in notes, defaultdict(list)
        # An upload's neighbours stand in the order of its fingerprints, whoever else is looked up with it.
        own.append({})
        for one in fingerprints:
            if one.kind not in held:
                continue
            own[number].setdefault((one.kind, one.form, one.time_s is not None), [])
            if one.time_s is not None:
                timed[one.kind, one.form].append(_Of(one, number, mostly_ascii))
            else:
                groups[one.kind, one.form].append(_Of(one, number, mostly_ascii))
        for (kind, form), group in timed.items():
            own[number][kind, form, True] = _frames(view, sets, kind, form, group)
    for (kind, form), group in groups.items():
        for near in _search(view, sets, kind, form, group):
            own[group[near.query].upload][kind, form, False].append(_neighbour(view, group[near.query], near))
    return [[near for group in found.values() for near in group] for found in own]


def wanted_forms(sets: Mapping[str, Set]) -> tuple[SetForm, ...]:
    """What a scan has to compute beside the canonical form for these sets, in order of names.

    `fast` stands in for the canonical form, so it is wanted only where all of them want it.
    """
    live = [one for name, one in sets.items() if one.state != "off" and name != CANARY_SET]
    wanted = {form for one in live for form in one.forms}
    if not all("fast" in one.forms for one in live):
        wanted.discard("fast")
    return tuple(sorted(wanted))


class _Of(NamedTuple):
    """A fingerprint, the number of its upload, and whether that is a text of mostly ASCII."""

    fingerprint: Fingerprint
    upload: int
    mostly_ascii: bool


@dataclass(slots=True)
class _Item:
    """What hit one item of one set, so far."""

    nearest: tuple[int, str, int, Entry]
    frames: set[int] = field(default_factory=set)
    entries: set[str] = field(default_factory=set)


def _frames(view: View, sets: Mapping[str, Set], kind: Kind, form: AnyForm, group: Sequence[_Of]) -> list[Neighbour]:
    """One neighbour per (item, set) with every frame that hits it."""
    items: dict[tuple[str, str], _Item] = {}

    def note(query: int, entry: Entry, distance: int) -> bool:
        near = (distance, entry.id, query, entry)
        item = items.setdefault((entry.item, entry.set), _Item(near))
        item.nearest = min(item.nearest, near, key=lambda one: one[:3])
        item.frames.add(query)
        item.entries.add(entry.id)
        return False  # the nearest would hide the others

    _search(view, sets, kind, form, group, note)
    counts = view.count_entries(kind, _among(form), [item for item, _ in items])
    return [
        Neighbour(
            fingerprint=group[item.nearest[2]].fingerprint,
            entry=item.nearest[3],
            distance=item.nearest[0],
            radius=sets[item.nearest[3].set].radius.get(kind, 0),
            frames=tuple(group[query].fingerprint for query in sorted(item.frames)),
            entries_hit=len(item.entries),
            entries=max(count, len(item.entries)),
        )
        for item, count in zip(items.values(), counts, strict=True)
    ]


def _among(form: AnyForm) -> Form:
    """The form of entries that fingerprints of a form are compared with."""
    return form if form in FORMS else "canonical"


def _search(
    view: View,
    sets: Mapping[str, Set],
    kind: Kind,
    form: AnyForm,
    group: Sequence[_Of],
    then: Accept = lambda query, entry, distance: True,
) -> list[Found]:

    def accept(query: int, entry: Entry, distance: int) -> bool:
        owner = sets.get(entry.set)
        if owner is None or distance > owner.radius.get(kind, 0):
            return False
        if form in GROUPS and GROUPS[form] not in owner.forms:
            return False
        one, _, mostly_ascii = group[query]
        if kind == "tlsh" and distance > text_reach(mostly_ascii, one, entry).radius:
            return False
        if kind == "pdq" and one.quality is not None and one.quality < owner.min_quality:
            return False
        return (kind != "tlsh" or lengths_fit(one, entry)) and then(query, entry, distance)

    radius = max(one.radius.get(kind, 0) for one in sets.values())
    parse = HASHERS[kind].parse
    queries = [
        # The known text's length can only lessen a text's reach.
        Query(parse(one.value), radius if kind != "tlsh" else min(radius, text_reach(mostly_ascii, one).radius), upload)
        for one, upload, mostly_ascii in group
    ]
    return view.search_many(kind, _among(form), queries, accept)


def _neighbour(view: View, of: _Of, near: Found) -> Neighbour:
    fingerprint, entry = of.fingerprint, near.entry
    radius, text = view.sets[entry.set].radius.get(entry.kind, 0), None
    if entry.kind == "tlsh":
        text = text_reach(of.mostly_ascii, fingerprint, entry)
        radius = min(radius, text.radius)
    return Neighbour(
        fingerprint=fingerprint,
        entry=entry,
        distance=near.distance,
        radius=radius,
        only_logs=text is not None and text.only_logs,
        length_unknown=entry.kind == "tlsh" and None in (entry.length, fingerprint.length),
    )


def text_reach(mostly_ascii: bool, *texts: Fingerprint | Entry) -> Reach:
    """How far texts of one form may be from each other: the least that was measured for their lengths.

    An unknown length is the greatest that TLSH's length byte stands for.
    """
    curve: Curve = "normal"
    if texts[0].form == "raw":
        curve = "raw" if mostly_ascii else "raw_of_other_scripts"
    each = [reach(curve, one.length or longest_of(_length_byte(one.value))) for one in texts]
    return Reach(min(one.radius for one in each), any(one.only_logs for one in each))


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
