"""One upload's content to a `Scan`: decode, fingerprint and the exact digests, composed. Runs in a scan process."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO

from PIL import Image

from hashweir.hashing import exact
from hashweir.model import KINDS_OF, Fingerprint, Kind, Limits, MediaClass, Scan
from hashweir.pipeline.decode import PILLOW_NAMES, Picture, Refusal, Text, decode, sniff
from hashweir.pipeline.fingerprint import fingerprint_picture, fingerprint_text, is_mostly_ascii

ScanFunction = Callable[[bytes, str | None], Scan]


def prepare(limits: Limits) -> ScanFunction:
    """A function of content and declared media type, with everything imported and run once.

    Scan processes lock themselves down after this, when no module and no table can be loaded any more.
    """

    def bound(content: bytes, media_type: str | None) -> Scan:
        return scan(content, media_type, limits)

    Image.init()
    for name in PILLOW_NAMES.values():
        sample = BytesIO()
        Image.new("RGB", (64, 64)).save(sample, name)
        bound(sample.getvalue(), None)
    bound("ﬀ and so on: ".encode() * 9, "text/plain")
    return bound


def scan(content: bytes, media_type: str | None, limits: Limits) -> Scan:
    """Scan an upload's content. Always answers, MemoryError excepted; the exact fingerprints are always there."""
    declared = media_type.partition(";")[0].strip().lower() if media_type else None
    started = time.perf_counter()
    decoded = decode(content, declared, limits)
    ready = time.perf_counter()
    found: tuple[Fingerprint, ...] = ()
    reason = None
    media_class: MediaClass | None
    match decoded:
        case Picture():
            media_class = "image"
            found = fingerprint_picture(decoded.rgb)
            checked: dict[Kind, str] = {"pdq": "truncated" if decoded.truncated else "ok"}
        case Text():
            media_class = "text"
            found, checked = fingerprint_text(decoded.text)
        case Refusal():
            media_class, reason = decoded.media_class, decoded.reason
            checked = dict.fromkeys(KINDS_OF[media_class], reason) if media_class else {}
    found += exact.fingerprints(content)
    checked |= {"sha256": "ok", "md5": "ok"}
    return Scan(
        media_class=media_class,
        media_type=decoded.media_type,
        fingerprints=found,
        checked=checked,
        notes=_notes(content, declared, decoded),
        reason=reason,
        timings={"decode": ready - started, "hash": time.perf_counter() - ready},
    )


def _notes(content: bytes, declared: str | None, decoded: Picture | Text | Refusal) -> tuple[str, ...]:
    notes = []
    sniffed = sniff(content)
    # image/jpg is no registered type and is sent all the same.
    if declared not in (None, sniffed, "image/jpg" if sniffed == "image/jpeg" else None) and sniffed:
        notes.append("type_mismatch")
    if isinstance(decoded, Text) and is_mostly_ascii(decoded.text):
        notes.append("mostly_ascii")
    return tuple(notes)
