from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tlsh as reference
from hypothesis import given
from hypothesis import strategies as st

from hashweir.errors import InputError
from hashweir.hashing import HASHERS, show, tlsh

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "tlsh.json").read_text())


def test_vectors() -> None:
    for row in VECTORS["of"]:
        value = tlsh.fingerprint(bytes.fromhex(row["bytes"]))
        assert (show("tlsh", value) if value else None) == row["value"]


@given(st.binary(max_size=400))
def test_equals_the_reference(content: bytes) -> None:
    value = tlsh.fingerprint(content)
    assert (show("tlsh", value) if value else "TNULL") == reference.hash(content)


def test_distance_is_the_reference_without_the_length() -> None:
    chance = random.Random(5)
    texts = [reference.hash(chance.randbytes(chance.randrange(60, 3000))) for _ in range(40)]
    values = [HASHERS["tlsh"].parse(text) for text in texts]
    for text_a, a in zip(texts, values, strict=True):
        for text_b, b in zip(texts, values, strict=True):
            assert HASHERS["tlsh"].distance(a, b) == reference.diffxlen(text_a, text_b)


@pytest.mark.parametrize(
    ("text", "why"),
    [("TNULL", "too short"), ("T1" + "0" * 134, "256 buckets"), ("T1" + "0" * 74, "checksum"), ("0" * 30, "48")],
)
def test_other_variants_are_named(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        HASHERS["tlsh"].parse(text)
