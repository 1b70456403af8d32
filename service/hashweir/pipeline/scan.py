"""One upload's content to a `Scan`: decode, fingerprint and the exact digests, composed. Runs in a scan process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from hashweir.hashing import exact, pdq
from hashweir.hashing.video import Frame, condense
from hashweir.model import KINDS_OF, Fingerprint, Footage, FormGroup, Kind, Limits, MediaClass, Scan
from hashweir.pipeline.decode import PILLOW_NAMES, Document, OverLimit, Picture, Refusal, Text, animation, decode
from hashweir.pipeline.decode_heif import SAMPLES
from hashweir.pipeline.decode_video import sample, warm_up
from hashweir.pipeline.decode_views import Luma
from hashweir.pipeline.fingerprint import (
    fingerprint_frames,
    fingerprint_luma,
    fingerprint_picture,
    fingerprint_text,
    is_mostly_ascii,
)
from hashweir.pipeline.sniff import sniff
from hashweir.pipeline.video_file import DEMUXERS, VideoRefused

SAMPLE_PDF: Final = b"""%PDF-1.4
1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj
2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj
3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Contents 4 0 R /Resources <</Font <</F 5 0 R>>>>>> endobj
4 0 obj <</Length 41>> stream
BT /F 9 Tf 9 60 Td (One short line.) Tj ET
endstream endobj
5 0 obj <</Type /Font /Subtype /Type1 /BaseFont /Helvetica>> endobj
trailer <</Root 1 0 R>>
"""
"""A page with so little text that it is rendered too: all of PDFium that is needed, in one go."""

_FAINT: Final = 50
"""PDQ quality; under it a hash says little (the reference's own advice, and the floor of a set by default)."""


VIDEO_ALIASES = (
    "video/webm",
    "video/x-matroska",
    "video/quicktime",
    "video/mp4",
    "video/x-m4v",
    "video/3gpp",
    "video/avi",
)
"""Video types whose containers are read alike, or that are sent for one another: no mismatch worth a note."""
ALIASES = {
    "image/jpg": "image/jpeg",  # no registered type, and sent all the same
    "image/heif": "image/heic",
    "image/heic-sequence": "image/heic",
    "image/heif-sequence": "image/heic",
}
"""Other names of image types."""


class ScanFunction(Protocol):
    """`scan` under limits that were bound beforehand."""

    def __call__(
        self, content: bytes, media_type: str | None, forms: tuple[FormGroup, ...] = (), sha256: bytes | None = None
    ) -> Scan:
        """Scan an upload's content, whose SHA-256 may be known."""


def prepare(limits: Limits) -> ScanFunction:
    """A function of content and declared media type, with everything imported and run once.

    Scan processes lock themselves down after this, when no module and no table can be loaded any more.
    """

    def bound(
        content: bytes, media_type: str | None, forms: tuple[FormGroup, ...] = (), sha256: bytes | None = None
    ) -> Scan:
        return scan(content, media_type, limits, forms, sha256)

    Image.init()
    for name in set(PILLOW_NAMES.values()) - {"AVIF"}:
        sample = BytesIO()
        Image.new("RGB", (64, 64)).save(sample, name)
        bound(sample.getvalue(), None)
    for content in SAMPLES:  # encoding these takes longer, and threads
        bound(content, None)
    bound("ﬀ and so on: ".encode() * 9, "text/plain")
    bound(SAMPLE_PDF, None)
    warm_up()
    return bound


def scan(
    content: bytes,
    media_type: str | None,
    limits: Limits,
    forms: tuple[FormGroup, ...] = (),
    sha256: bytes | None = None,
) -> Scan:
    """Scan an upload's content; of a picture, `forms` are computed too. `sha256` is its digest where that is known.

    Always answers, MemoryError excepted; the exact fingerprints are always there.
    """
    declared = media_type.partition(";")[0].strip().lower() if media_type else None
    sniffed = sniff(content)
    if sniffed in DEMUXERS:
        return _video(content, sniffed, declared, limits, exact.fingerprints(content, sha256))
    started = time.perf_counter()
    decoded = decode(content, declared, limits, forms)
    found: tuple[Fingerprint, ...] = ()
    if isinstance(decoded, Luma):
        found = fingerprint_luma(
            decoded.grey, decoded.height, decoded.width, decoded.factor, forms, upright=decoded.upright
        )
        if not found:
            forms = tuple(form for form in forms if form != "fast")
            decoded = decode(content, declared, limits, forms)
    ready = time.perf_counter()
    reason = text = footage = None
    media_class: MediaClass | None
    match decoded:
        case Picture():
            media_class = "image"
            found = fingerprint_picture(decoded.rgb, forms, upright=decoded.upright, misread=decoded.misread)
            frames, footage = _animation(content, limits, started)
            found += frames
            word = "partial" if footage and footage.share_checked < 1 else "ok"
            checked: dict[Kind, str] = {"pdq": "truncated" if decoded.truncated else word}
        case Luma():
            media_class, checked = "image", {"pdq": "ok"}
        case Text():
            media_class, text = "text", decoded.text
            found, checked = fingerprint_text(text)
        case Document():
            media_class = "document"
            found, checked, text = _document(decoded, limits)
        case Refusal():
            media_class, reason = decoded.media_class, decoded.reason
            checked = dict.fromkeys(KINDS_OF[media_class], reason) if media_class else {}
    found += exact.fingerprints(content, sha256)
    checked |= {"sha256": "ok", "md5": "ok"}
    return Scan(
        media_class=media_class,
        media_type=decoded.media_type,
        fingerprints=found,
        checked=checked,
        notes=_notes(content, declared, text),
        reason=reason,
        footage=footage,
        timings={"decode": ready - started, "hash": time.perf_counter() - ready},
    )


def _document(document: Document, limits: Limits) -> tuple[tuple[Fingerprint, ...], dict[Kind, str], str | None]:
    """Fingerprints of a document: of the text of all pages as one, and of each rendered page with its number.

    The kinds of text are ok where all text was read or there is none, `pdq` where every page that had to be rendered
    was; a page of one colour, or a faint one that has text, shows nothing that could be known. A document in which
    nothing at all is to be seen was not checked.
    """
    found: list[Fingerprint] = []
    texts: list[str] = []
    of_text = of_pictures = "ok"
    size = 0
    for page in document.pages:
        if page.trouble is not None:
            of_pictures = page.trouble if of_pictures == "ok" else of_pictures
            of_text = page.trouble if of_text == "ok" and not page.text_complete else of_text
        if page.rgb is not None and not (page.rgb == page.rgb[0, 0]).all():
            found += _of_page(page.number, page.rgb, bool(page.text.strip()))
        size += len(page.text.encode()) + 1
        if size <= limits.text_bytes:
            texts.append(page.text)
        elif of_text == "ok":
            of_text = "too_large"
    text = "\n".join(texts)
    checked: dict[Kind, str] = {"tlsh": of_text, "text": of_text, "pdq": of_pictures}
    if text.strip() and size <= limits.text_bytes:
        of_whole, words = fingerprint_text(text)
        found += of_whole
        checked |= {kind: word for kind, word in words.items() if of_text == "ok"}
    elif not found:
        checked = {kind: "blank" if word == "ok" else word for kind, word in checked.items()}
    return tuple(found), checked, text if text.strip() else None


def _of_page(number: int, rgb: npt.NDArray[np.uint8], has_text: bool) -> Iterator[Fingerprint]:
    """The canonical fingerprint of a rendered page, unless it is a faint one of a page that its text speaks for."""
    for one in fingerprint_picture(rgb):
        if one.form == "canonical" and not (has_text and (one.quality or 0) < _FAINT):
            yield msgspec.structs.replace(one, page=number)


def _video(
    content: bytes, media_type: str, declared: str | None, limits: Limits, found: tuple[Fingerprint, ...]
) -> Scan:
    """A video's sampled frames beside what was `found`; those before the time ran out, where it did."""
    notes = ("type_mismatch",) * (declared not in (None, media_type, *VIDEO_ALIASES))
    checked: dict[Kind, str] = {"sha256": "ok", "md5": "ok"}
    reason, footage = None, None
    timings = {"decode": 0.0, "hash": 0.0}
    try:
        sampled = sample(content, media_type, limits, pdq.fingerprint)
    except VideoRefused as error:
        reason = error.reason
        checked["pdq"] = reason
    else:
        spans = condense(Frame(time_s, *hashed) for time_s, hashed in sampled.frames)
        found = fingerprint_frames(spans) + found
        partial = sampled.share_checked < 1 or sampled.more_streams
        checked["pdq"] = "partial" if partial else "truncated" if sampled.damaged else "ok"
        notes += sampled.notes
        footage = Footage(
            duration_s=round(sampled.duration_s, 3),
            frames=len(sampled.frames),
            every_s=round(sampled.every_s, 3),
            share_checked=round(sampled.share_checked, 4),
        )
        timings = {"decode": sampled.decode_s, "hash": sampled.frame_s}
    return Scan(
        media_class="video",
        media_type=media_type,
        fingerprints=found,
        checked={kind: checked[kind] for kind in KINDS_OF["video"]},
        notes=notes,
        reason=reason,
        footage=footage,
        timings=timings,
    )


def _animation(content: bytes, limits: Limits, started: float) -> tuple[tuple[Fingerprint, ...], Footage | None]:
    """Every frame of an animation besides the picture that its first frame is; nothing of a still picture."""
    frames: list[Frame] = []
    end, all_seen = 0.0, True
    try:
        for time_s, length_s, rgb in animation(content, limits):
            frames.append(Frame(time_s, *pdq.fingerprint(rgb)))
            end = time_s + length_s
            if time.perf_counter() - started > limits.animation_budget_s:
                all_seen = False
                break
    except OverLimit:
        all_seen = False
    if not frames:
        return (), None
    footage = Footage(
        duration_s=round(end, 3),
        frames=len(frames),
        every_s=round(end / len(frames), 3),
        # How much is left is not known without looking: less than all of it was checked.
        share_checked=1.0 if all_seen else round(len(frames) / (limits.animation_frames + 1), 4),
    )
    return fingerprint_frames(condense(frames)), footage


def _notes(content: bytes, declared: str | None, text: str | None) -> tuple[str, ...]:
    notes = []
    sniffed = sniff(content)
    if declared not in (None, sniffed) and sniffed and ALIASES.get(declared) != sniffed:
        notes.append("type_mismatch")
    if text is not None and is_mostly_ascii(text):
        notes.append("mostly_ascii")
    return tuple(notes)
