"""A picture or a text to its fingerprints. Runs inside a scan process."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hashweir.hashing import RECIPES, exact, pdq, show, tlsh
from hashweir.hashing.text import normal_form, one_byte_per_character
from hashweir.model import Fingerprint, Form, Kind

MOSTLY: Final = 0.8
"""Share of ASCII bytes from which on a text counts as mostly ASCII, so that its `raw` TLSH can be trusted."""


def fingerprint_picture(rgb: npt.NDArray[np.uint8]) -> tuple[Fingerprint, ...]:
    """The PDQ fingerprint of a picture (height x width x 3, uint8) with its quality, however low that is."""
    value, quality = pdq.fingerprint(rgb)
    return (_fingerprint("pdq", "canonical", value, quality=quality),)


def fingerprint_text(text: str) -> tuple[tuple[Fingerprint, ...], dict[Kind, str]]:
    """The TLSH fingerprints of both forms and the digest of the normal form; and what was checked.

    The kind `tlsh` is ok where the normal form has a value: the raw one alone covers too little.
    """
    raw, normal = text.encode(), normal_form(text)
    found = [_fingerprint("text", "normal", exact.text_digest(normal), length=len(normal))]
    if value := tlsh.fingerprint(raw):
        found.append(_fingerprint("tlsh", "raw", value, length=len(raw)))
    value = tlsh.fingerprint(one_byte_per_character(normal))
    if value is not None:
        found.append(_fingerprint("tlsh", "normal", value, length=len(normal)))
    return tuple(found), {"tlsh": "too_short" if value is None else "ok", "text": "ok"}


def is_mostly_ascii(text: str) -> bool:
    """Whether `MOSTLY` of the UTF-8 bytes are ASCII."""
    raw = np.frombuffer(text.encode(), np.uint8)
    return bool(np.count_nonzero(raw < 0x80) >= MOSTLY * len(raw))


def _fingerprint(
    kind: Kind, form: Form, value: bytes, *, quality: int | None = None, length: int | None = None
) -> Fingerprint:
    recipe = RECIPES[kind, form]
    return Fingerprint(kind=kind, form=form, recipe=recipe, value=show(kind, value), quality=quality, length=length)
