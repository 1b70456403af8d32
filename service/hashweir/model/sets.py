"""What is known: sets, and the entries that imports bring into them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from hashweir.model.value import HashText, HexId, Label, SetName, Share, Token, Value
from hashweir.model.words import Action, Band, EntryState, Form, Kind, Origin, SetForm, SetState, Surface


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
    forms: tuple[SetForm, ...] = ()
    video_share_upload: Share = 0.8
    video_share_known: Share = 0.0
    version: int = 0


class Batch(Value, frozen=True, kw_only=True):
    """What the entries of one import share. Its id is derived from its content, so equal batches are one."""

    origin: Origin
    labels: tuple[Label, ...] = ()
    note: Annotated[str, Meta(max_length=500)] = ""
    principal: Token = "local"


class Entry(Value, frozen=True, kw_only=True, gc=False):
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
