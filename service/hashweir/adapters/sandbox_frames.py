"""What parent and scan process say to each other: msgpack frames behind a 4-byte big-endian length.

The parent trusts nothing that comes back: a reply is short, of a closed schema, and every value in it is one that
an honest process could have sent. Nothing is ever unpickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, get_args

import msgspec
from msgspec import Struct

from hashweir.adapters.sandbox_fences import Fence
from hashweir.errors import REASONS
from hashweir.hashing import DIHEDRAL_RECIPES, HASHERS, RECIPES
from hashweir.model import KINDS_OF, Fingerprint, FormGroup, Limits, Note, Scan

LENGTH_BYTES: Final = 4
MOST_REPLY_BYTES: Final = 512 * 1024
MOST_FINGERPRINTS: Final = 1024
MOST_SECONDS: Final = 1e6
_NOTES: Final = frozenset(get_args(Note))
_REASONS: Final = frozenset(code for code, row in REASONS.items() if row.stage in ("ingest", "scan"))
_WORDS: Final = _REASONS | {"ok"}
_TIMINGS: Final = frozenset({"decode", "hash"})
_MADE: Final = frozenset((*of, recipe) for table in (RECIPES, DIHEDRAL_RECIPES) for of, recipe in table.items())
"""Kind, form and recipe of all that is ever made."""
_CANONICAL: Final = {
    kind: re.compile("T1[0-9A-F]{70}" if kind == "tlsh" else f"[0-9a-f]{{{2 * hasher.width}}}").fullmatch
    for kind, hasher in HASHERS.items()
}
"""What holds of values in canonical form alone: a tenth of the time of reading and writing them again."""


class Setup(Struct, frozen=True, kw_only=True):
    """Parent to process, once. `scan` is the dotted name `module:function` of what makes the scan function.

    `path` holds directories in which its module is looked for before the installed packages.
    """

    scan: str
    path: tuple[str, ...]
    limits: Limits
    memory_bytes: int


class Ready(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Process to parent, once: prepared and locked down by these fences; `lacking` says why by no others."""

    fences: tuple[Fence, ...]
    lacking: dict[Fence, str] = {}


class Job(Struct, frozen=True, kw_only=True):
    """Parent to process. `cpu_s`: seconds of processor time that this job may take.

    Without `content`, that is the first `size` bytes of the memory that both have. `sha256` is its digest, which the
    parent needs before anyone else does: it is not computed twice.
    """

    number: int
    content: bytes | None
    size: int
    media_type: str | None
    forms: tuple[FormGroup, ...] = ()
    sha256: bytes
    cpu_s: int


class Reply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Process to parent: the answer to the job of this number; no scan where the memory did not suffice."""

    number: int
    scan: Scan | None


class BadReply(Exception):
    """The process sent what no honest one sends."""


_NO_MESSAGE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_encoder = msgspec.msgpack.Encoder()
_setup = msgspec.msgpack.Decoder(Setup)
_ready = msgspec.msgpack.Decoder(Ready)
_jobs = msgspec.msgpack.Decoder(tuple[Job, ...])
_replies = msgspec.msgpack.Decoder(tuple[Reply, ...])


def pack(message: Setup | Ready | Sequence[Job] | Sequence[Reply]) -> bytearray:
    """One frame."""
    frame = bytearray(LENGTH_BYTES)
    _encoder.encode_into(message, frame, LENGTH_BYTES)  # in place: an upload is copied once, not twice
    frame[:LENGTH_BYTES] = (len(frame) - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "big")
    return frame


def unpack_setup(body: bytes | memoryview) -> Setup:
    """The parent's set-up."""
    return _setup.decode(body)


def unpack_jobs(body: bytes | memoryview) -> tuple[Job, ...]:
    """The parent's jobs, to be answered together."""
    return _jobs.decode(body)


def unpack_ready(body: bytes) -> Ready:
    """A process's first frame. Raises BadReply."""
    try:
        return _ready.decode(body)
    except _NO_MESSAGE as error:
        raise BadReply(str(error)) from error


def unpack_replies(body: bytes | bytearray, numbers: Sequence[int]) -> list[Scan | None]:
    """A process's answers to the jobs of these numbers, None where its memory did not suffice. Raises BadReply."""
    try:
        replies = _replies.decode(body)
    except _NO_MESSAGE as error:
        raise BadReply(str(error)) from error
    if len(replies) != len(numbers):
        raise BadReply(f"{len(replies)} answers to {len(numbers)} jobs")
    scans = []
    for one, number in zip(replies, numbers, strict=True):
        if one.number != number:
            raise BadReply(f"an answer to job {one.number}, not {number}")
        if one.scan is not None:
            _require_honest(one.scan)
        scans.append(one.scan)
    return scans


def _require_honest(scan: Scan) -> None:
    # Most of its cost is code that the scan has thrown out of the processor's caches: what is rare stands aside.
    if len(scan.fingerprints) > MOST_FINGERPRINTS:
        raise BadReply(f"{len(scan.fingerprints)} fingerprints")
    for one in scan.fingerprints:
        if (one.kind, one.form, one.recipe) not in _MADE:
            raise BadReply(f"no recipe {one.recipe!a} of {one.kind}, {one.form}")
        if not _CANONICAL[one.kind](one.value):
            raise BadReply(f"{one.kind} value {one.value!a} is not in canonical form")
        if one.length is not None and one.length >= 2**32:
            raise BadReply("a length out of range")
        if one.page is not None and (one.kind != "pdq" or one.page > 200 or scan.media_class != "document"):
            raise BadReply("a page out of range")
        if one.time_s is not None or one.until_s is not None or one.frames is not None:
            _require_time(one)
    if scan.footage is not None:
        _require_range("footage", scan.footage.duration_s, scan.footage.every_s)
    _require_words(scan)


def _require_time(one: Fingerprint) -> None:
    if one.time_s is None or one.until_s is None or one.frames is None or one.kind != "pdq":
        raise BadReply("half a time, or a time of what has none")
    _require_range("time", one.time_s, one.until_s, one.until_s - one.time_s)
    if one.frames > MOST_FINGERPRINTS:
        raise BadReply(f"{one.frames} frames")


def _require_range(what: str, *seconds: float) -> None:
    if not all(math.isfinite(one) and 0 <= one <= MOST_SECONDS for one in seconds):
        raise BadReply(f"{what} out of range")


def _require_words(scan: Scan) -> None:
    """Every word that reaches verdicts and metric labels comes from a closed list."""
    kinds = KINDS_OF[scan.media_class] if scan.media_class else ("sha256", "md5")
    found = {one.kind for one in scan.fingerprints}
    if scan.media_class == "document" and found & {"pdq", "text"}:
        found |= {"pdq", "tlsh", "text"}  # a document may have text only, or pictures only
    for kind, word in scan.checked.items():
        if kind not in kinds or word not in _WORDS or (word == "ok" and kind not in found):
            raise BadReply(f"checked {kind}: {word!a}")
    if scan.reason is not None and scan.reason not in _REASONS:
        raise BadReply(f"reason {scan.reason!a}")
    if scan.notes and (not _NOTES.issuperset(scan.notes) or len(scan.notes) > len(_NOTES)):
        raise BadReply(f"notes {scan.notes!a}")
    for stage, seconds in scan.timings.items():
        if stage not in _TIMINGS:
            raise BadReply(f"timings {tuple(scan.timings)!a}")
        if not 0 <= seconds < 86_400:  # what is no number is neither
            raise BadReply("timings out of range")
    if scan.attempts != 1 or len(scan.media_type or "") > 256:
        raise BadReply("attempts or media type out of range")
