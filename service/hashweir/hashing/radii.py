"""How near two texts must be to be taken for copies: radii of `tlsh`, measured per form and length.

`text_radii.json` is what `tests/bench/text_radii.py` wrote; decision 0006 tells how and why. Between two measured
lengths a radius is interpolated over the logarithm of the length.
"""

from __future__ import annotations

import bisect
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Curve = Literal["normal", "raw", "raw_of_other_scripts"]


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a text of some length may be from a known one, and whether that only proves enough for a log."""

    radius: int
    only_logs: bool


def _load() -> dict[str, list[dict[str, Any]]]:
    text = (Path(__file__).parent / "text_radii.json").read_text(encoding="utf-8")
    curves: dict[str, list[dict[str, Any]]] = json.loads(text)["curves"]
    return curves


_CURVES: Final = _load()
_LOGARITHMS: Final = {name: [math.log(row["length"]) for row in rows] for name, rows in _CURVES.items()}


def reach(curve: Curve, length: int) -> Reach:
    """The measured reach of texts whose hashed form is `length` long (characters for normal, bytes for raw).

    Shorter texts than any that was measured have the radius of the shortest and only log; longer ones have that of
    the longest. A length class reaches from one measured length to the next, and only logs where its beginning does.
    """
    rows, places = _CURVES[curve], _LOGARITHMS[curve]
    place = math.log(max(length, 1))
    after = bisect.bisect_right(places, place)
    if after == 0:
        return Reach(rows[0]["radius"], only_logs=True)
    low = rows[after - 1]
    if after == len(rows):
        return Reach(low["radius"], low["only_logs"])
    share = (place - places[after - 1]) / (places[after] - places[after - 1])
    radius = low["radius"] + share * (rows[after]["radius"] - low["radius"])
    return Reach(math.floor(radius + 1e-9), low["only_logs"])


def longest_of(length_byte: int) -> int:
    """The greatest length that TLSH's length byte stands for, where no length is known.

    The byte is the logarithm of the length, to the base 1.5 up to 656 bytes, 1.3 up to 3,199 and 1.1 beyond
    (Oliver, Cheng, Chen: TLSH, 2013; `l_capturing` in the reference's `tlsh_util.cpp`).
    """
    if length_byte < 16:
        return math.floor(math.pow(1.5, length_byte + 1))
    if length_byte < 22:
        return math.floor(math.pow(1.3, length_byte + 1 + 8.72777))
    return math.floor(math.pow(1.1, length_byte + 1 + 62.5472))
