"""What comes in: records, uploads, and what a scan answers for one."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from hashweir.model.value import HashText, Value
from hashweir.model.words import AnyForm, Kind, MediaClass, Surface


class Record(Struct, frozen=True, kw_only=True):
    """One record of a stream, as the broker gave it. `timestamp_ms` is the broker's time."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Fingerprint(Value, frozen=True, kw_only=True):
    """One hash of an upload. `length` is that of the hashed form (bytes for raw, characters for normal).

    `page`, from 1, is the page of a document that was rendered; what comes of the whole file has none.

    A frame of a video has a time: `frames` sampled frames from `time_s` to `until_s` (seconds, the times of the first
    and of the last) are within 4 bits of `value`.
    """

    kind: Kind
    form: AnyForm
    recipe: Annotated[str, Meta(max_length=40, description="kind/form/version")]
    value: HashText
    quality: Annotated[int, Meta(ge=0, le=100)] | None = None
    length: Annotated[int, Meta(ge=0)] | None = None
    page: Annotated[int, Meta(ge=1)] | None = None
    time_s: Annotated[float, Meta(ge=0)] | None = None
    until_s: Annotated[float, Meta(ge=0)] | None = None
    frames: Annotated[int, Meta(ge=1)] | None = None


class GivenFingerprint(Value, frozen=True, kw_only=True):
    """A fingerprint as an uploader sends it. Without a form: canonical, raw for tlsh, normal for text."""

    kind: Kind
    value: HashText
    form: AnyForm | None = None
    recipe: Annotated[str, Meta(max_length=40)] | None = None
    quality: Annotated[int, Meta(ge=0, le=100)] | None = None
    length: Annotated[int, Meta(ge=0, lt=2**32)] | None = None
    time_s: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    until_s: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    frames: Annotated[int, Meta(ge=1, le=100_000)] | None = None


class UploadMessage(Value, frozen=True, kw_only=True):
    """Value of a record with content type `application/vnd.hashweir.upload+json`: exactly one of three forms.

    `text`; or `fingerprints` only (the content stays home); or a reference (`uri`, `size`, `sha256`).
    """

    text: str | None = None
    fingerprints: Annotated[tuple[GivenFingerprint, ...], Meta(max_length=1024)] = ()
    uri: Annotated[str, Meta(max_length=4096)] | None = None
    media_type: Annotated[str, Meta(max_length=200)] | None = None
    size: Annotated[int, Meta(ge=0)] | None = None
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None


class Upload(Value, frozen=True, kw_only=True):
    """One item to check: its envelope and its content (`content`, or `fingerprints` only, or a `uri`).

    `size` (bytes) and `sha256` are what the uploader says of the content behind a `uri`: what is fetched must fit.
    """

    source: str
    id: str
    media_type: str | None = None
    content: bytes | None = None
    fingerprints: tuple[Fingerprint, ...] = ()
    uri: str | None = None
    size: int | None = None
    sha256: str | None = None
    account: str | None = None
    surface: Surface | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    notes: tuple[str, ...] = ()


class Footage(Value, frozen=True, kw_only=True):
    """What was looked at of a video or an animation.

    `duration_s` of it (seconds), `frames` hashed, one `every_s` seconds, over the `share_checked` of it (0 to 1, from
    its beginning): below 1 the rest was not looked at.
    """

    duration_s: Annotated[float, Meta(ge=0)]
    frames: Annotated[int, Meta(ge=0)]
    every_s: Annotated[float, Meta(ge=0)]
    share_checked: Annotated[float, Meta(ge=0, le=1)]


class Scan(Value, frozen=True, kw_only=True):
    """What a scan process answers for one upload: fingerprints, or a reason, never both hidden.

    `checked` maps each kind of the class to `ok` or a reason; `reason` is set where nothing perceptual could
    be computed at all; `timings` are seconds per stage (decode, hash).
    """

    media_class: MediaClass | None
    media_type: str | None
    fingerprints: tuple[Fingerprint, ...] = ()
    checked: dict[Kind, str] = {}
    notes: tuple[str, ...] = ()
    reason: str | None = None
    footage: Footage | None = None
    timings: dict[str, float] = {}
    attempts: int = 1


class Limits(Value, frozen=True, kw_only=True):
    """What one upload may be before a scan refuses it. Pictures are judged by their header, before decoding.

    `ratio` is long side to short side; up to `ratio_free_pixels` any ratio goes, for small strips are harmless.
    Of a document, `pages` are read, those with more than `page_objects` objects excepted; a page's pictures are
    under the limits of pictures.
    Of a video one frame every `video_interval_s` is hashed, or fewer where these were more than `video_frames`; when
    its budget (seconds of wall time, shorter than the scan's deadline) is spent, what was found so far is the answer.
    """

    pixels: Annotated[int, Meta(gt=0)] = 50_000_000
    side: Annotated[int, Meta(gt=0)] = 16_384
    ratio: Annotated[int, Meta(gt=0)] = 200
    ratio_free_pixels: Annotated[int, Meta(ge=0)] = 8_000_000
    text_bytes: Annotated[int, Meta(gt=0)] = 4 * 2**20
    pages: Annotated[int, Meta(gt=0, le=200)] = 200
    page_objects: Annotated[int, Meta(gt=0)] = 100_000
    video_s: Annotated[float, Meta(gt=0)] = 7200.0
    video_streams: Annotated[int, Meta(gt=0)] = 4
    video_frames: Annotated[int, Meta(gt=0, le=1000)] = 600
    video_interval_s: Annotated[float, Meta(gt=0)] = 1.0
    video_budget_s: Annotated[float, Meta(gt=0)] = 108.0
    animation_frames: Annotated[int, Meta(gt=0, le=1000)] = 200
    animation_budget_s: Annotated[float, Meta(gt=0)] = 15.0
