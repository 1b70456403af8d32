"""A picture or a text to its fingerprints. Runs inside a scan process."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import numpy as np

from hashweir.hashing import DIHEDRAL_RECIPES, RECIPES, exact, pdq, show, tlsh
from hashweir.hashing.pdq import Pixels, Sampled
from hashweir.hashing.text import normal_form, one_byte_per_character
from hashweir.hashing.video import Span
from hashweir.model import TURNS, AnyForm, Fingerprint, FormGroup, Kind, QueryForm, Turn

MOSTLY: Final = 0.85
"""Share of ASCII bytes from which on unrelated texts are as far apart by their `raw` TLSH as English ones (decision
0006, measured by tests/bench/text_scripts.py)."""


def fingerprint_picture(
    rgb: Pixels,
    forms: Collection[FormGroup] = (),
    *,
    upright: Turn | None = None,
    misread: tuple[QueryForm, Pixels] | None = None,
) -> tuple[Fingerprint, ...]:
    """The PDQ fingerprint of a picture (height x width x 3, uint8) with its quality, however low that is.

    After it come the `forms`: `upright` is the turn that EXIF asks for, `misread` are the pixels (of the same shape)
    that python-threatexchange takes for this file's, and what that form is called.
    """
    if upright or not {"turns", "dihedral"}.isdisjoint(forms):
        sampled = pdq.sample(rgb)
        found = [_fingerprint("pdq", "canonical", sampled.value, quality=sampled.quality)]
        found += _turned(sampled, forms, upright)
        if "dihedral" in forms:
            found += _dihedral(rgb, sampled)
    else:
        value, quality = pdq.fingerprint(rgb)
        found = [_fingerprint("pdq", "canonical", value, quality=quality)]
    others = [misread] if misread is not None else []
    if "nearest-512" in forms and max(rgb.shape) > 512:
        others.append(("nearest-512", pdq.nearest_512(rgb)))
    for form, pixels in others:
        value, quality = pdq.fingerprint(pixels)
        found.append(_fingerprint("pdq", form, value, quality=quality))
    return tuple(found)


def fingerprint_luma(
    grey: Pixels, height: int, width: int, factor: int, forms: Collection[FormGroup], *, upright: Turn | None = None
) -> tuple[Fingerprint, ...]:
    """The `fast` fingerprint of a picture of which only the luma was decoded, small, and its turns.

    Empty where it would be noise (`pdq.sample_scaled`): then the picture has to be decoded in full.
    """
    sampled = pdq.sample_scaled(grey, height, width, factor)
    if sampled is None:
        return ()
    return _fingerprint("pdq", "fast", sampled.value, quality=sampled.quality), *_turned(sampled, forms, upright)


def _turned(sampled: Sampled, forms: Collection[FormGroup], upright: Turn | None) -> list[Fingerprint]:
    wanted: list[tuple[QueryForm, Turn]] = [("upright", upright)] if upright else []
    if "turns" in forms:
        wanted += [(turn, turn) for turn in TURNS]
    if not wanted:
        return []
    values = sampled.turned([turn for _, turn in wanted])
    return [
        _fingerprint("pdq", form, value, quality=sampled.quality)
        for (form, _), value in zip(wanted, values, strict=True)
    ]


def _dihedral(rgb: Pixels, sampled: Sampled) -> list[Fingerprint]:
    return [
        _fingerprint("pdq", turn, value, DIHEDRAL_RECIPES, quality=sampled.quality)
        for turn, value in zip(TURNS, pdq.dihedral(rgb, sampled, TURNS), strict=True)
    ]


def fingerprint_frames(spans: Iterable[Span]) -> tuple[Fingerprint, ...]:
    """The PDQ fingerprints of a video's or an animation's sampled frames, whatever their quality."""
    recipe = RECIPES["pdq", "canonical"]
    return tuple(
        Fingerprint(
            kind="pdq",
            form="canonical",
            recipe=recipe,
            value=show("pdq", span.value),
            quality=span.quality,
            time_s=round(span.time_s, 3),
            until_s=round(span.until_s, 3),
            frames=span.frames,
        )
        for span in spans
    )


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
    kind: Kind,
    form: AnyForm,
    value: bytes,
    recipes: Mapping[tuple[Kind, AnyForm], str] = RECIPES,
    *,
    quality: int | None = None,
    length: int | None = None,
) -> Fingerprint:
    recipe = recipes[kind, form]
    return Fingerprint(kind=kind, form=form, recipe=recipe, value=show(kind, value), quality=quality, length=length)
