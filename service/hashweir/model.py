"""The vocabulary: every value that travels between parts, as frozen structs.

One struct style serves memory, JSON, msgpack and the JSON schemas. Hash values are text in their canonical
form everywhere outside an index (`hashing.parse` and `hashing.show` convert): pdq, sha256, text: 64 lower-case
hex; md5: 32; tlsh: `T1` + 70 upper-case hex. Long because a vocabulary is read whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct, field

Kind = Literal["pdq", "tlsh", "sha256", "md5", "text"]
Form = Literal["canonical", "raw", "normal"]
Turn = Literal[
    "rotate-90",  # counter-clockwise, as all of these are named in Pillow
    "rotate-180",
    "rotate-270",
    "flip-left-right",
    "flip-top-bottom",
    "transpose",
    "transverse",
]
QueryForm = Literal[
    "upright",  # turned as the EXIF orientation says; the canonical form ignores it
    Turn,
    "fast",  # in place of the canonical form: luma of a JPEG, decoded small
    "te-palette",  # as python-threatexchange reads files: palette indices as grey,
    "te-cmyk",  # cyan, magenta, yellow as red, green, blue,
    "te-1bit",  # levels 0 and 1,
    "te-16bit",  # all above 255 as white
    "nearest-512",  # squashed to 512 x 512 by nearest neighbour, as the reference's C++ tool does
]
"""Other views of a picture. Only ever looked up, among canonical entries; no entry is of such a form."""
AnyForm = Literal[Form, QueryForm]
FormGroup = Literal["turns", "threatexchange", "nearest-512", "fast"]
"""What a set may want looked up beside the canonical form, which always is, and `upright`."""
MediaClass = Literal["image", "video", "text", "document"]
Surface = Literal["post", "comment", "message", "profile-image", "banner", "display-name", "bio"]
Origin = Literal[
    "own-review", "vetted-exchange", "trusted-flagger", "government-referral", "court-order", "user-report"
]
Band = Literal["exact", "a", "b", "c"]
Outcome = Literal["match", "clear", "unscanned"]
Action = Literal["none", "log", "review", "hold", "block"]
SetState = Literal["shadow", "active", "off"]
EntryState = Literal["candidate", "shadow", "active", "retired", "quarantined"]
HitState = Literal["active", "shadow", "quarantined", "below_share"]
"""below_share: frames of a video hit, but fewer than the set asks for: listed, and recommends nothing."""

Note = Literal[
    "exact_only",  # clear, but only by exact hashes: no active set holds perceptual ones of this class
    "type_mismatch",  # the magic bytes say another type than was declared
    "mostly_ascii",  # a text whose `raw` TLSH is as trustworthy as its `normal` one
    "bad_header",  # a header could not be read and was passed over
    "unknown_surface",  # the surface is none that hashweir knows
    "sampled_coarsely",  # a video so long that its frames were taken further apart than usual
    "frame_rate_doubtful",  # the header's frame rate is not that of the frames; the denser sampling was used
    "more_video_streams",  # only the first video stream was checked
]
"""Where a process follows only a part of the shards, `shards_missing:4-15/16` names the others."""
KINDS: tuple[Kind, ...] = get_args(Kind)
FORMS: tuple[Form, ...] = get_args(Form)
"""Forms of entries. Slots hold a form's index in this tuple, so it only grows at its end."""
TURNS: tuple[Turn, ...] = get_args(Turn)
GROUPS: Mapping[AnyForm, FormGroup] = {
    **dict.fromkeys(TURNS, "turns"),
    "te-palette": "threatexchange",
    "te-cmyk": "threatexchange",
    "te-1bit": "threatexchange",
    "te-16bit": "threatexchange",
    "nearest-512": "nearest-512",
    "fast": "fast",
}
"""The group in which a set asks for a query form; forms that are missing are looked up for every set."""
SURFACES: tuple[Surface, ...] = get_args(Surface)
ACTIONS: tuple[Action, ...] = get_args(Action)
"""Recommended actions, weakest to strongest: the index in this tuple is their order."""
ENTRY_STATES: tuple[EntryState, ...] = get_args(EntryState)
EXACT_BANDS: frozenset[Kind] = frozenset({"sha256", "md5"})
"""Kinds whose equality is band `exact`. A PDQ distance of 0 never is."""
PERCEPTUAL: Mapping[MediaClass, frozenset[Kind]] = {
    "image": frozenset({"pdq"}),
    "video": frozenset({"pdq"}),
    "text": frozenset({"tlsh"}),
    "document": frozenset({"tlsh", "pdq"}),
}
"""The perceptual kinds of a media class: `clear` needs those that active sets hold."""
KINDS_OF: Mapping[MediaClass, tuple[Kind, ...]] = {
    "image": ("pdq", "sha256", "md5"),
    "video": ("pdq", "sha256", "md5"),
    "text": ("tlsh", "text", "sha256", "md5"),
    "document": ("tlsh", "text", "pdq", "sha256", "md5"),
}
"""Every kind that is looked up for a media class, in the order of `Verdict.checked`."""

SetName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="name of a set")]
Token = Annotated[str, Meta(min_length=1, max_length=256)]
HexId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$", description="16-byte id as hex")]
HashText = Annotated[str, Meta(min_length=1, max_length=72, description="hash value in its canonical text form")]
Label = Annotated[str, Meta(min_length=1, max_length=64)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Value(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every message and core type: immutable, keyword-only, unknown fields are errors.

    msgspec does not inherit `kw_only`, nor does mypy `frozen`: every subclass says both again.
    """


def derive(size: int, *parts: bytes) -> bytes:
    """An id of `size` bytes: BLAKE2b over the parts, each behind its 4-byte big-endian length.

    The lengths keep two different lists of parts from running together. Same parts, same id: on every worker, at
    every replay.
    """
    return hashlib.blake2b(framed(*parts), digest_size=size).digest()


def framed(*parts: bytes) -> bytes:
    """The parts, each behind its 4-byte big-endian length."""
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])


# ── what comes in ──


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


# ── what is known ──


class Set(Value, frozen=True, kw_only=True):
    """A named collection of entries with one policy. `version` is the policy sequence of its last change.

    `radius` is how far a hit may be. Of texts it is an upper bound: what was measured for their length
    (`hashing.radii`) is less for all but the shortest.

    Frames of a video are a match where they are at least `video_share_upload` of the upload's frames *and*
    `video_share_known` of the known video's entries. The defaults are those of vPDQ in python-threatexchange
    (80 % and 0 %): the upload is mostly the known video, of which it may be a short piece. A set of clips that turn
    up inside longer videos wants it the other way round: 0 and 0.8.
    """

    name: SetName
    number: Annotated[int, Meta(ge=0, lt=2**24)] = 0
    owner: Token
    origin: Origin
    state: SetState = "shadow"
    surfaces: tuple[Surface, ...] = ()
    radius: dict[Kind, Annotated[int, Meta(ge=0, le=256)]] = field(default_factory=lambda: {"pdq": 31, "tlsh": 100})
    bands: dict[Kind, tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]] = field(
        default_factory=lambda: {"pdq": (10, 20), "tlsh": (20, 40)}
    )
    actions: dict[Band, Action] = field(
        default_factory=lambda: {"exact": "hold", "a": "hold", "b": "review", "c": "log"}
    )
    ceiling: Action = "review"
    min_quality: Annotated[int, Meta(ge=0, le=100)] = 50
    forms: tuple[FormGroup, ...] = ()
    video_share_upload: Share = 0.8
    video_share_known: Share = 0.0
    version: int = 0


class Batch(Value, frozen=True, kw_only=True):
    """What the entries of one import share. Its id is derived from its content, so equal batches are one."""

    origin: Origin
    labels: tuple[Label, ...] = ()
    note: Annotated[str, Meta(max_length=500)] = ""
    principal: Token = "local"


class Entry(Value, frozen=True, kw_only=True):
    """One known hash. `item` is 8 bytes as hex, `item_name` what the analyst called it (may be empty).

    `length` of a text is that of the hashed form; of a pdq it is a frame's time in its video, in milliseconds.
    """

    id: HexId
    set: SetName
    kind: Kind
    form: Form
    value: HashText
    item: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
    item_name: str = ""
    state: EntryState = "active"
    quality: int | None = None
    length: int | None = None
    batch: str = ""
    added_ms: int = 0


# ── what is said ──


class Neighbour(Struct, frozen=True, kw_only=True):
    """An entry near a fingerprint of the upload. `distance` is the kind's plain integer.

    `radius` is within what it was accepted. `only_logs` marks texts of a length at which being near proves little,
    `length_unknown` those whose lengths could only be compared by TLSH's own coarse length byte.

    `length_unknown` marks a TLSH neighbour whose lengths could only be compared by TLSH's own coarse length byte.
    For a video it stands for a whole item: the nearest pair, all `frames` of the upload that hit the item, how many
    of the item's entries they hit, and how many it has.
    """

    fingerprint: Fingerprint
    entry: Entry
    distance: int
    radius: int
    only_logs: bool = False
    length_unknown: bool = False
    frames: tuple[Fingerprint, ...] = ()
    entries_hit: int = 0
    entries: int = 0


class Hit(Value, frozen=True, kw_only=True):
    """A fingerprint near an entry, with all that explains it.

    `ceiling` is the strongest action that it may cause. Of a video: the shares of the upload's and of the known
    video's frames that hit (0 to 1), and when: seconds from and until, at most 50 stretches.
    """

    id: HexId
    kind: Kind
    form: AnyForm
    set: SetName
    entry: HexId
    item: str
    distance: int
    radius: int
    band: Band
    quality: int | None
    entry_quality: int | None
    origin: Origin
    labels: tuple[str, ...]
    ceiling: Action
    action: Action
    state: HitState
    length_unknown: bool = False
    page: int | None = None
    share_upload: Share | None = None
    share_known: Share | None = None
    times: tuple[tuple[float, float], ...] = ()


class Verdict(Value, frozen=True, kw_only=True):
    """What hashweir says of one upload: the canonical body. Same content, recipes, position: same bytes."""

    id: HexId
    source: str
    upload: str
    sha256: str | None
    media_type: str | None
    media_class: MediaClass | None
    surface: Surface | None
    account: str | None
    outcome: Outcome
    action: Action
    reason: str | None
    checked: dict[Kind, str]
    notes: tuple[str, ...]
    hits: tuple[Hit, ...]
    hits_total: int
    fingerprints: tuple[Fingerprint, ...]
    sets: dict[str, int]
    position: str
    footage: Footage | None = None


class Judged(Struct, frozen=True, kw_only=True):
    """A verdict and what travels beside it. `timings` are seconds per stage; `attempts` counts scans.

    `failure` is the reason for which the content could not be scanned, also where an exact hash still matched.
    `scan` is what the verdict was made of, so that it can be made again.
    """

    verdict: Verdict
    failure: str | None = None
    as_of_ms: int
    degraded: bool
    timings: dict[str, float]
    attempts: int = 1
    scan: Scan | None = None


class DeadLetter(Value, frozen=True, kw_only=True):
    """Where an upload that is beyond use came from and why: a reference, never the content."""

    id: HexId
    source: str
    upload: str
    topic: str
    partition: int
    offset: int
    digest: Annotated[str, Meta(description="SHA-256 of the record's value")]
    reason: str
    stage: str
    attempts: int
    versions: dict[str, str]


class SetEvent(Value, frozen=True, kw_only=True):
    """A change that platforms may have to act on: ids only, no hash values."""

    what: Literal["entry_activated", "entry_withdrawn", "set_activated", "set_off"]
    set: SetName
    entry: HexId | None = None
    item: str | None = None
    operation: str = ""
    at_ms: int = 0


class Message(Struct, frozen=True, kw_only=True):
    """One outgoing record: logical topic name (without prefix), key, value and headers.

    The key chooses the partition where none is named.
    """

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None
