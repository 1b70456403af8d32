"""The words that messages are made of, and the tables over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

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
SetForm = Literal["turns", "threatexchange", "nearest-512", "fast"]
"""What a set may want looked up beside the canonical form, which always is, and `upright`."""
FormGroup = Literal[
    SetForm,
    "dihedral",  # turns as `pdqhash.compute_dihedral` makes them, to be exchanged with others, never looked up
]
"""What a scan can be asked for."""
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
GROUPS: Mapping[AnyForm, SetForm] = {
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
