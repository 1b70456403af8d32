"""A run of uploads of the look-back's ring: what it takes to decide each of them again, packed.

Hash values stand in one table per kind, beside the number of their upload; that is what new entries are compared
with. All the rest of an upload is a few bytes of msgpack, and what many uploads share (source, media type, what was
checked) is kept once per block. Content is never kept, and of the account only the token that the verdict carries.

A block only grows, and only at its end: a thread may read what stood there when it was given it.
Long because what is added, what is read and what is saved are one layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hashweir.errors import InputError
from hashweir.hashing import HASHERS
from hashweir.index import INDEXES
from hashweir.index.scan import FRONT
from hashweir.model import KINDS, Fingerprint, Footage, Kind, Scan, Upload
from hashweir.pipeline.ring_rows import Rows, Values, beside, is_code, is_exact, keys_of
from hashweir.ports import Index

_MAGIC: Final = b"hashweir ring 1\n"
_DIGEST: Final = 16
_LATE: Final = 256
"""Values of a kind that are gathered before they go into its table: to add some hundred costs little more than one."""
_FIELDS: Final = ("quality", "length", "page", "time_s", "until_s", "frames")
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class _Shared(msgspec.Struct, array_like=True, frozen=True):
    """What many uploads have in common."""

    source: str
    media_type: str | None
    surface: Any
    notes: tuple[str, ...]
    media_class: Any
    scanned_type: str | None
    checked: dict[Kind, str]
    scan_notes: tuple[str, ...]
    reason: str | None
    attempts: int


class _Rest(msgspec.Struct, array_like=True, frozen=True):
    """What an upload has of its own. Each print is the number of its kind, form and recipe, then `_FIELDS`, cut."""

    shared: int
    id: str
    account: str | None
    footage: Footage | None
    prints: list[list[Any]]


class _File(msgspec.Struct, array_like=True, frozen=True):
    """A block as it is saved; tables as bytes."""

    name: str
    values: dict[Kind, bytes]
    owner: dict[Kind, bytes]
    ends: bytes
    at_ms: bytes
    said: bytes
    marks: bytes
    rest: bytes
    shared: list[bytes]


class Block:
    """Uploads by their place, from 0. `name` orders blocks by age, also across restarts."""

    def __init__(self, name: str) -> None:
        """Empty."""
        self.name = name
        self.bytes = 0
        """Bytes that it holds, to within the room its tables have to grow."""
        self._values: dict[Kind, Rows] = {kind: Rows(np.uint8, HASHERS[kind].width) for kind in KINDS}
        self._owner: dict[Kind, Rows] = {kind: Rows(np.uint32) for kind in KINDS}
        self._late: dict[Kind, tuple[list[bytes], list[int]]] = {kind: ([], []) for kind in KINDS}
        """Values and their uploads that are not yet in the tables."""
        self._keys: dict[Kind, Rows] = {kind: Rows(np.uint64) for kind in KINDS}
        self._fronts: dict[Kind, Rows] = {kind: Rows(np.uint8, FRONT) for kind in KINDS}
        self._index: dict[Kind, Index] = {
            kind: INDEXES[kind]() for kind in KINDS if not is_code(kind) and not is_exact(kind)
        }
        self._ends, self._at_ms = Rows(np.uint64), Rows(np.uint64)
        self._said, self._marks = Rows(np.uint64), Rows(np.uint8)
        self._rest: bytearray | bytes = bytearray()
        self._shared: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._recipes: dict[tuple[str, str, str], int] = {}

    def __len__(self) -> int:
        """Uploads in it."""
        return len(self._ends)

    def add(self, upload: Upload, scan: Scan, *, at_ms: int, said: int, marks: int) -> None:
        """Append an upload; `said` and `marks` (8 bits) are the owner's business."""
        place, own = len(self), len(self._rest)
        prints: list[list[Any]] = []
        for one in scan.fingerprints:
            values, owners = self._late[one.kind]
            values.append(HASHERS[one.kind].parse(one.value))
            owners.append(place)
            self.bytes += len(values[-1]) + beside(one.kind)
            if len(values) >= _LATE:
                self._settle(one.kind)
            number = self._recipes.get((one.kind, one.form, one.recipe))
            if number is None:
                number = self._recipes[one.kind, one.form, one.recipe] = self._number((one.kind, one.form, one.recipe))
            fields = [number, one.quality, one.length, one.page, one.time_s, one.until_s, one.frames]
            while fields[-1] is None:
                fields.pop()
            prints.append(fields)
        shared = _Shared(
            source=upload.source,
            media_type=upload.media_type,
            surface=upload.surface,
            notes=upload.notes,
            media_class=scan.media_class,
            scanned_type=scan.media_type,
            checked=scan.checked,
            scan_notes=scan.notes,
            reason=scan.reason,
            attempts=scan.attempts,
        )
        rest = _Rest(self._number(shared), upload.id, upload.account, scan.footage, prints)
        assert isinstance(self._rest, bytearray)
        self._rest += _encode(rest)
        self._at_ms.append(at_ms)
        self._said.append(said)
        self._marks.append(marks)
        self._ends.append(len(self._rest))  # last: from here on the upload counts
        self.bytes += len(self._rest) - own + 25

    def _extend(self, kind: Kind, rows: NDArray[np.uint8], owner: NDArray[np.uint32]) -> None:
        self._values[kind].extend(rows)
        self._owner[kind].extend(owner)
        if is_exact(kind):
            self._keys[kind].extend(keys_of(rows))
        if is_code(kind):
            self._fronts[kind].extend(rows[:, :FRONT])
        if kind in self._index:
            self._index[kind].add(rows.tobytes())

    def _settle(self, *kinds: Kind) -> None:
        """Put what was gathered into the tables of these kinds."""
        for kind in kinds:
            values, owners = self._late[kind]
            if values:
                rows = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
                self._extend(kind, rows, np.array(owners, np.uint32))
                values.clear()
                owners.clear()

    def _number(self, shared: Any) -> int:
        encoded = _encode(shared)
        number = self._numbers.get(encoded)
        if number is None:
            number = self._numbers[encoded] = len(self._shared)
            self._shared.append(encoded)
            self.bytes += 2 * len(encoded)
        return number

    def seal(self) -> None:
        """No more will come: give back the room for it."""
        self._settle(*KINDS)
        for table in (self._values, self._owner, self._keys, self._fronts):
            for rows in table.values():
                rows.trim()
        for rows in (self._ends, self._at_ms, self._said, self._marks):
            rows.trim()
        self._rest = bytes(self._rest)
        self._numbers, self._recipes = {}, {}

    def kept(self, place: int) -> tuple[Upload, Scan]:
        """An upload without its content, and its scan. Raises IndexError."""
        ends = self._ends.now()
        if not 0 <= place < len(ends):
            raise IndexError(place)
        start = int(ends[place - 1]) if place else 0
        rest = msgspec.msgpack.decode(bytes(self._rest[start : int(ends[place])]), type=_Rest)
        shared = msgspec.msgpack.decode(self._shared[rest.shared], type=_Shared)
        values = {kind: iter(self._of(kind, place)) for kind in KINDS}
        prints = []
        for number, *fields in rest.prints:
            kind, form, recipe = msgspec.msgpack.decode(self._shared[number])
            value = HASHERS[kind].show(next(values[kind]).tobytes())
            named = dict(zip(_FIELDS, fields, strict=False))
            prints.append(Fingerprint(kind=kind, form=form, recipe=recipe, value=value, **named))
        upload = Upload(
            source=shared.source,
            id=rest.id,
            media_type=shared.media_type,
            account=rest.account,
            surface=shared.surface,
            notes=shared.notes,
        )
        scan = Scan(
            media_class=shared.media_class,
            media_type=shared.scanned_type,
            fingerprints=tuple(prints),
            checked=shared.checked,
            notes=shared.scan_notes,
            reason=shared.reason,
            footage=rest.footage,
            attempts=shared.attempts,
        )
        return upload, scan

    def _of(self, kind: Kind, place: int) -> NDArray[np.uint8]:
        self._settle(kind)
        owner = self._owner[kind].now()
        first, last = np.searchsorted(owner, [place, place + 1])
        values: NDArray[np.uint8] = self._values[kind].now()[first:last]
        return values

    # ── what may change ──

    @property
    def said(self) -> NDArray[np.uint64]:
        """Per upload, what was said of it last; may be written to."""
        return self._said.now()

    @property
    def marks(self) -> NDArray[np.uint8]:
        """Per upload, its marks; may be written to."""
        return self._marks.now()

    @property
    def at_ms(self) -> NDArray[np.uint64]:
        """Per upload, when it was added."""
        return self._at_ms.now()

    def tables(self) -> Mapping[Kind, Values]:
        """All hash values as they stand now, of kinds that have any."""
        self._settle(*KINDS)
        return {
            kind: Values(
                self._values[kind].now(),
                self._owner[kind].now(),
                self._keys[kind].now(),
                self._fronts[kind].now(),
                self._index.get(kind),
            )
            for kind in KINDS
            if len(self._values[kind])
        }

    # ── a file ──

    def load(self, file: _File) -> None:
        """Take all of a file. Raises ValueError where its parts do not fit together."""
        for rows, data in (
            (self._ends, file.ends),
            (self._at_ms, file.at_ms),
            (self._said, file.said),
            (self._marks, file.marks),
        ):
            rows.fill(np.frombuffer(data, rows.now().dtype))
        counts = {len(self._ends), len(self._at_ms), len(self._said), len(self._marks)}
        ends = self._ends.now()
        if len(counts) != 1 or (np.diff(ends.astype(np.int64)) < 0).any() or int(ends[-1:].sum()) != len(file.rest):
            raise ValueError("uploads")
        for kind, values in file.values.items():
            some = np.frombuffer(values, np.uint8).reshape(-1, HASHERS[kind].width)
            owner = np.frombuffer(file.owner[kind], np.uint32)
            if len(owner) != len(some) or (np.diff(owner.astype(np.int64)) < 0).any() or int(owner[-1]) >= len(self):
                raise ValueError(kind)
            self._extend(kind, some, owner)
            self.bytes += some.size + len(some) * beside(kind)
        self._rest, self._shared = file.rest, file.shared
        self.bytes += len(file.rest) + 25 * len(self) + sum(map(len, file.shared))
        self.seal()

    def parts(self) -> Sequence[Any]:
        """All of it as it stands now, for `encode` in a thread."""
        self._settle(*KINDS)
        tables = {kind: (rows.now(), self._owner[kind].now()) for kind, rows in self._values.items() if len(rows)}
        per_upload = (self._ends.now(), self._at_ms.now(), self._said.now(), self._marks.now())
        return self.name, tables, per_upload, bytes(self._rest), list(self._shared)


def encode(parts: Sequence[Any]) -> bytes:
    """A block's file: magic, BLAKE2b-128 of the rest, the rest in msgpack."""
    name, tables, (ends, at_ms, said, marks), rest, shared = parts
    body = _encode(
        _File(
            name,
            {kind: values.tobytes() for kind, (values, _) in tables.items()},
            {kind: owner.tobytes() for kind, (_, owner) in tables.items()},
            ends.tobytes(),
            at_ms.tobytes(),
            said.tobytes(),
            marks.tobytes(),
            rest,
            shared,
        )
    )
    return _MAGIC + hashlib.blake2b(body, digest_size=_DIGEST).digest() + body


def decode(data: bytes) -> Block:
    """The block of a file, sealed. Raises InputError(ring_damaged) for anything that `encode` did not write."""
    body = data[len(_MAGIC) + _DIGEST :]
    digest = hashlib.blake2b(body, digest_size=_DIGEST).digest()
    if data[: len(_MAGIC)] != _MAGIC:
        raise InputError("ring_damaged", "this is no file of a ring, or one of another version")
    if data[len(_MAGIC) : len(_MAGIC) + _DIGEST] != digest:
        raise InputError("ring_damaged", "the checksum does not fit")
    try:
        file = msgspec.msgpack.decode(body, type=_File)
        block = Block(file.name)
        block.load(file)
        if len(block):
            block.kept(len(block) - 1)
    except (msgspec.DecodeError, ValueError, IndexError, KeyError, StopIteration) as error:
        raise InputError("ring_damaged", f"not a ring's block: {type(error).__name__}") from None
    return block
