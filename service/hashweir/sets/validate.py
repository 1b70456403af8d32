"""Rows to entries: what a row must be to enter a set. Pure: no clock, no store.

One `Validator` judges one file for one set, in the order of its lines. Its `Report` counts every line once.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final, Literal, cast, get_args

import msgspec
from msgspec import Meta, Struct

from hashweir.errors import InputError
from hashweir.hashing import HASHERS, RECIPES
from hashweir.model import ENTRY_STATES, FORMS, Batch, Entry, EntryState, Form, Kind, Origin, Set, Value
from hashweir.sets.read import (
    FOREIGN_KINDS,
    KIND_NAMES,
    LABEL_SEPARATOR,
    MAX_ITEM_BYTES,
    MAX_LABELS,
    MAX_LENGTH,
    MAX_NOTE,
    Rejection,
    Row,
    excerpt,
)
from hashweir.sets.seen import Seen
from hashweir.shards.layout import entry_id, item_id

Verb = Literal["add", "withdraw"]
FORMS_OF: Final[Mapping[Kind, tuple[Form, ...]]] = {
    kind: tuple(form for form in FORMS if (kind, form) in RECIPES) for kind in HASHERS
}
"""The forms that entries of each kind have; the first is the default (for tlsh `raw`, as other tools hash)."""
FIRST_REJECTIONS = 20
MAX_LABEL = 64
BULK = 256
"""More withdrawals than this are a bulk withdrawal, which one person may not do."""
UNBALANCED_BITS = 64
"""A PDQ value is cut at its median, so about 128 bits are set; one this far from it comes from no usual picture."""

_ORIGINS: Final = frozenset(get_args(Origin))
# Control characters, line separators, direction overrides and lone surrogates: what is shown to a person must
# look like what is stored. Joiners stay, Persian and Urdu need them.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NOTHING: Final[Mapping[Kind, frozenset[bytes]]] = {
    "sha256": frozenset({hashlib.sha256().digest()}),
    "text": frozenset({hashlib.sha256().digest()}),
    "md5": frozenset({hashlib.md5(usedforsecurity=False).digest()}),
}
"""Digests of nothing at all: as an entry they would match every empty upload."""


class Change(Struct, frozen=True, kw_only=True, gc=False):
    """One change that may be made: what to do with which entry, the bytes of its value, and its provenance."""

    verb: Verb
    entry: Entry
    value: bytes
    batch: Batch | None = None


class Rejected(Value, frozen=True):
    """A line that was not taken."""

    line: Annotated[int, Meta(ge=1)]
    reason: str
    message: str


class Report(Value, frozen=True):
    """What became of a file's lines: `rows` = `accepted` + all of `rejected`."""

    rows: int = 0
    accepted: int = 0
    rejected: dict[str, int] = {}
    flagged: dict[str, int] = {}
    """Taken, but worth a look: `unbalanced_pdq`, `quality_unknown`."""
    first: tuple[Rejected, ...] = ()

    @property
    def refused(self) -> int:
        """Rejected lines of all reasons."""
        return sum(self.rejected.values())


class Validator:
    """Judges the rows of one file (or one command) for one set.

    Memory grows with the file by 12 bytes a row: the ids seen, to find duplicates.
    """

    def __init__(
        self,
        into: Set,
        *,
        principal: str,
        now_ms: int,
        labels: tuple[str, ...] = (),
        note: str = "",
        most_withdrawals: int = BULK,
    ) -> None:
        """`labels` and `note` go to every row (a row's own note wins). Raises InputError(bad_field) for them."""
        self._set = into
        self._principal = principal
        self._now_ms = now_ms
        self._withdrawals_left = most_withdrawals
        self._seen = Seen()
        self._rows = self._accepted = 0
        self._rejected: Counter[str] = Counter()
        self._flagged: Counter[str] = Counter()
        self._first: list[Rejected] = []
        self._batches: dict[tuple[str, tuple[str, ...], str], tuple[str, Batch]] = {}
        self._labels, self._note = _labels(labels), _shown("note", note, MAX_NOTE)

    def check(self, rows: Iterable[tuple[int, Row | Rejection]]) -> Iterator[tuple[int, Change | Rejection]]:
        """Judge rows as they come. Never raises for a row."""
        for line, row in rows:
            verdict = row if isinstance(row, Rejection) else self._check(line, row)
            count = verdict.lines if isinstance(verdict, Rejection) else 1
            self._rows += count
            if isinstance(verdict, Rejection):
                self._rejected[verdict.reason] += count
                if len(self._first) < FIRST_REJECTIONS:
                    self._first.append(Rejected(line=line, reason=verdict.reason, message=verdict.message))
            else:
                self._accepted += 1
            yield line, verdict

    def report(self) -> Report:
        """The counts so far."""
        return Report(
            rows=self._rows,
            accepted=self._accepted,
            rejected=dict(sorted(self._rejected.items())),
            flagged=dict(sorted(self._flagged.items())),
            first=tuple(self._first),
        )

    def _check(self, line: int, row: Row) -> Change | Rejection:
        try:
            kind, form, value = identify(row)
            state = _state(row)
            quality = self._quality(kind, row.quality, floor=0 if state == "retired" else self._set.min_quality)
            length = _length(kind, row.length)
            name = _shown("item", row.item, MAX_ITEM_BYTES)
            batch_id, batch = self._batch(row)
        except InputError as error:
            return Rejection(reason=error.reason, message=str(error))
        number = entry_id(self._set.name, kind, form, value)
        first = self._seen.first(bytes.fromhex(number), line)
        if first != line:
            return Rejection(reason="duplicate_row", message=f"the same hash stands in line {first}")
        verb: Verb = "withdraw" if state == "retired" else "add"
        if verb == "withdraw":
            if self._withdrawals_left <= 0:
                message = f"more than {BULK} withdrawals at once need a second person"
                return Rejection(reason="not_allowed", message=message)
            self._withdrawals_left -= 1
        else:
            self._flag(kind, value, quality)
        entry = Entry(
            id=number,
            set=self._set.name,
            kind=kind,
            form=form,
            value=HASHERS[kind].show(value),
            item=item_id(self._set.name, name) if name else number[:16],
            item_name=name,
            state=state,
            quality=quality,
            length=length,
            batch=batch_id,
            added_ms=self._now_ms,
        )
        return Change(verb=verb, entry=entry, value=value, batch=batch)

    def _quality(self, kind: Kind, quality: int | None, floor: int) -> int | None:
        if quality is None:
            return None
        if kind != "pdq":
            raise InputError("bad_field", f"quality belongs to pdq, a {kind} has none")
        if not 0 <= quality <= 100:
            raise InputError("bad_field", f"quality is 0 to 100, got {quality}")
        if quality < floor:
            raise InputError("low_quality", f"quality {quality} is under the set's floor of {floor}")
        return quality

    def _flag(self, kind: Kind, value: bytes, quality: int | None) -> None:
        if kind != "pdq":
            return
        if quality is None:
            self._flagged["quality_unknown"] += 1
        ones = int.from_bytes(value).bit_count()
        if abs(ones - 128) > UNBALANCED_BITS:
            self._flagged["unbalanced_pdq"] += 1

    def _batch(self, row: Row) -> tuple[str, Batch]:
        """Provenance of a row and its id; equal provenance is made once."""
        key = (row.origin, row.labels, row.note)
        if (known := self._batches.get(key)) is None:
            origin = row.origin or self._set.origin
            if origin not in _ORIGINS:
                choices = ", ".join(sorted(_ORIGINS))
                raise InputError("bad_field", f"unknown origin {excerpt(origin)}; origins: {choices}")
            referral = "government-referral"
            if (origin == referral) != (self._set.origin == referral):
                raise InputError(
                    "not_allowed", f"entries of origin {referral} stay in sets of that origin, and only they"
                )
            batch = Batch(
                origin=cast(Origin, origin),
                labels=_labels((*self._labels, *row.labels)),
                note=_shown("note", row.note, MAX_NOTE) or self._note,
                principal=self._principal,
            )
            known = batch_id(batch), batch
            if len(self._batches) < 10_000:
                self._batches[key] = known
        return known


def identify(row: Row) -> tuple[Kind, Form, bytes]:
    """Kind, form (the default one where none is given) and value bytes of a row. Raises InputError."""
    kind = KIND_NAMES.get(row.kind)  # most are spelled so
    if kind is None:
        named = row.kind.strip().lower()
        kind = KIND_NAMES.get(named)
    if kind is None:
        why = FOREIGN_KINDS.get(named, f"kinds: {', '.join(HASHERS)}")
        raise InputError("unknown_kind", f"kind {excerpt(row.kind)} is not taken: {why}")
    form = (row.form and row.form.strip().lower()) or FORMS_OF[kind][0]
    if form not in FORMS_OF[kind]:
        raise InputError("bad_field", f"a {kind} has form {' or '.join(FORMS_OF[kind])}, got {excerpt(row.form)}")
    value = HASHERS[kind].parse(row.value.strip())
    if not any(value):
        raise InputError("bad_value", "all bits are zero: that is no hash of anything")
    if value in _NOTHING.get(kind, ()):
        raise InputError("bad_value", f"this is the {kind} of nothing at all: it would match every empty upload")
    if kind == "pdq" and value.count(0xFF) == len(value):
        raise InputError("bad_value", "all bits are one: that is no hash of a picture")
    return kind, form, value


def batch_id(batch: Batch) -> str:
    """16 hex: BLAKE2b-64 of the batch as canonical JSON, so that equal provenance is one record."""
    return hashlib.blake2b(msgspec.json.encode(batch, order="deterministic"), digest_size=8).hexdigest()


def _state(row: Row) -> EntryState:
    state = (row.state and row.state.strip().lower()) or "active"
    if state not in ENTRY_STATES:
        raise InputError("bad_field", f"unknown state {excerpt(row.state)}; states: {', '.join(ENTRY_STATES)}")
    return state


def _length(kind: Kind, length: int | None) -> int | None:
    if length is not None and not 0 <= length <= MAX_LENGTH:
        raise InputError("bad_field", f"length is 0 to {MAX_LENGTH}")
    return length


def _shown(field: str, text: str, most: int) -> str:
    """A text that people will see, trimmed. `most` is in UTF-8 bytes for an item, else in characters."""
    text = text.strip()
    if len(text) <= most and text.isascii() and text.isprintable():
        return text  # what most names are; the rest is looked at more closely
    if _UNSHOWN.search(text):
        raise InputError("bad_field", f"{field} holds control or direction characters or a line break")
    if (len(text.encode()) if field == "item" else len(text)) > most:
        raise InputError("bad_field", f"{field} is longer than {most} {'bytes' if field == 'item' else 'characters'}")
    return text


def _labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels trimmed, each once, in order."""
    found = dict.fromkeys(_shown("a label", label, MAX_LABEL) for label in labels)
    found.pop("", None)
    if any(LABEL_SEPARATOR in label for label in found):
        raise InputError("bad_field", f"a label must not hold {LABEL_SEPARATOR}, which separates labels in CSV")
    if len(found) > MAX_LABELS:
        raise InputError("bad_field", f"at most {MAX_LABELS} labels")
    return tuple(found)
