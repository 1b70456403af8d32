"""What is said: hits and verdicts, dead letters, events, and the messages that carry them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from hashweir.model.sets import Entry
from hashweir.model.uploads import Fingerprint, Footage, Scan
from hashweir.model.value import HexId, SetName, Share, Value
from hashweir.model.words import Action, AnyForm, Band, HitState, Kind, MediaClass, Origin, Outcome, Surface


class Neighbour(Struct, frozen=True, kw_only=True):
    """An entry near a fingerprint of the upload. `distance` is the kind's plain integer.

    `radius` is within what it was accepted. `only_logs` marks texts of a length at which being near proves little,
    `length_unknown` those whose lengths could only be compared by TLSH's own coarse length byte.

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
