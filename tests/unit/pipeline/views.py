"""A view made of plain values, for tests of lookup, decide and match: a linear scan over a list of entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hashweir.hashing import HASHERS
from hashweir.model import Batch, Entry, Form, Kind, Set
from hashweir.ports import Accept, Found, Query, Standing


@dataclass
class ListView:
    """Implements ports.View over a list; the nearest per (item, set) by sorting all that is accepted."""

    entries: Sequence[Entry] = ()
    sets: Mapping[str, Set] = field(default_factory=dict)
    position: str = "p0"
    as_of_ms: int = 1_000
    standing: Standing = "verified"
    missing: str = ""
    batches: Mapping[str, Batch] = field(default_factory=dict)

    def holds(self, set_name: str) -> frozenset[Kind]:
        return frozenset(one.kind for one in self.entries if one.set == set_name)

    def search(
        self, kind: Kind, form: Form, values: Sequence[bytes], radius: int, accept: Accept | None = None
    ) -> list[Found]:
        hasher = HASHERS[kind]
        found = [
            Found(query=query, entry=entry, distance=distance)
            for query, value in enumerate(values)
            for entry in self.entries
            if (entry.kind, entry.form) == (kind, form)
            and (distance := hasher.distance(value, hasher.parse(entry.value))) <= radius
            and (accept is None or accept(query, entry, distance))
        ]
        best: dict[tuple[str, str], Found] = {}
        for one in sorted(found, key=lambda near: (near.distance, near.entry.id)):
            best.setdefault((one.entry.item, one.entry.set), one)
        return list(best.values())

    def search_many(self, kind: Kind, form: Form, queries: Sequence[Query], accept: Accept) -> list[Found]:
        found: list[Found] = []
        for upload in {one.upload for one in queries}:

            def own(number: int, entry: Entry, distance: int, upload: int = upload) -> bool:
                asked = queries[number]
                return asked.upload == upload and distance <= asked.radius and accept(number, entry, distance)

            farthest = max(one.radius for one in queries)
            found += self.search(kind, form, [one.value for one in queries], farthest, own)
        return sorted(found, key=lambda near: (near.distance, near.entry.id))

    def count_entries(self, kind: Kind, form: Form, items: Sequence[str]) -> list[int]:
        return [sum((e.item, e.kind, e.form) == (item, kind, form) for e in self.entries) for item in items]

    def batch(self, batch_id: str) -> Batch | None:
        return self.batches.get(batch_id)


def make_set(name: str = "own", **fields: object) -> Set:
    """A set that is active and may hold, unless said otherwise."""
    plain = {"name": name, "owner": "team", "origin": "own-review", "state": "active", "ceiling": "hold", "version": 3}
    return Set(**{**plain, **fields})  # type: ignore[arg-type]


def make_entry(value: str, kind: Kind = "pdq", set_name: str = "own", number: int = 1, **fields: object) -> Entry:
    """An entry that is its own item; `number` tells entries apart."""
    form: Form = {"tlsh": "normal", "text": "normal"}.get(kind, "canonical")  # type: ignore[assignment]
    plain = {
        "id": f"{number:032x}",
        "set": set_name,
        "kind": kind,
        "form": form,
        "value": value,
        "item": f"{number:016x}",
    }
    return Entry(**{**plain, **fields})  # type: ignore[arg-type]


def flip(value: str, bits: int) -> str:
    """A 256-bit hex value with its lowest `bits` bits turned over."""
    return f"{int(value, 16) ^ ((1 << bits) - 1):064x}"
