"""Laws of the measured radii of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import tlsh as reference
from hypothesis import given
from hypothesis import strategies as st

from hashweir.hashing import radii
from hashweir.hashing.radii import Curve, longest_of, reach

TABLE = json.loads((Path(radii.__file__).parent / "text_radii.json").read_text(encoding="utf-8"))
CURVES: tuple[Curve, ...] = get_args(Curve)
curves = st.sampled_from(CURVES)


@given(curves, st.integers(0, 2**32))
def test_a_radius_lies_between_those_of_the_measured_lengths_around_it(curve: Curve, length: int) -> None:
    rows = TABLE["curves"][curve]
    below = [row["radius"] for row in rows if row["length"] <= length][-1:] or [rows[0]["radius"]]
    above = [row["radius"] for row in rows if row["length"] >= length][:1] or [rows[-1]["radius"]]
    assert min(below + above) <= reach(curve, length).radius <= max(below + above)


@pytest.mark.parametrize("curve", CURVES)
def test_a_measured_length_has_what_was_measured(curve: Curve) -> None:
    for row in TABLE["curves"][curve]:
        found = reach(curve, row["length"])
        assert (found.radius, found.only_logs) == (row["radius"], row["only_logs"])


@pytest.mark.parametrize("curve", CURVES)
def test_every_measured_radius_keeps_the_promise(curve: Curve) -> None:
    """Under one false hit in 10,000 uploads against 200 texts, or only a log; under 60 % of 5 % edits, only a log."""
    for row in TABLE["curves"][curve]:
        safe = row["false_per_10000_uploads"]["200"] <= 1 and row["recall_of_5_percent"] > 0.6
        assert safe or row["only_logs"]


def test_texts_shorter_than_any_that_was_measured_only_log() -> None:
    assert all(reach(curve, 60).only_logs for curve in CURVES)
    assert not reach("normal", 5_000).only_logs


@given(st.integers(50, 60_000))
def test_the_length_byte_never_understates_a_length(length: int) -> None:
    """Compared with the reference, which writes the byte."""
    value = reference.hash(bytes((n * n) % 251 for n in range(length)))
    if value not in ("TNULL", ""):
        assert longest_of(int(value[5] + value[4], 16)) >= length
