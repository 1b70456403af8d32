from __future__ import annotations

import hashlib
import json
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tlsh as reference
from hypothesis import given
from hypothesis import strategies as st

from hashweir.hashing import exact, show, tlsh, unicode14
from hashweir.hashing.text import normal_form, one_byte_per_character

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "text.json").read_text())
needs_unicode_14 = pytest.mark.skipif(
    unicodedata.unidata_version != "14.0.0",
    reason=f"needs Python 3.11, whose unicodedata is of Unicode 14.0.0; here it is {unicodedata.unidata_version}",
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
folding = st.text(
    st.sampled_from(
        "aAeE\u0301\u0323\u0308\u200b\u0640\u064e\ufe77\ufdfa\u0345\u1e9e\u0378\u2065 \u3000\u00a8\u1100\u1161"
    ),
    max_size=25,
)


@pytest.mark.parametrize("row", VECTORS["of"], ids=lambda row: row["name"].replace(" ", "-"))
def test_vectors(row: dict[str, Any]) -> None:
    normal = normal_form(row["text"])
    assert normal == row["normal"]
    assert exact.text_digest(normal).hex() == row["value"]
    for content, expected in (
        (row["text"].encode(), row["tlsh_raw"]),
        (one_byte_per_character(normal), row["tlsh_normal"]),
    ):
        value = tlsh.fingerprint(content)
        assert (show("tlsh", value) if value else None) == expected


@pytest.mark.slow
def test_every_code_point_on_every_python() -> None:
    for plane, digest in enumerate(VECTORS["every_code_point"]):
        codes = range(plane << 16, (plane + 1) << 16)
        text = "".join("x" + chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        assert hashlib.sha256(normal_form(text).encode()).hexdigest() == digest, f"plane {plane}"


@given(texts | folding)
def test_the_normal_form_of_a_normal_form_is_itself(text: str) -> None:
    normal = normal_form(text)
    assert normal_form(normal) == normal


@given(texts | folding)
def test_one_byte_is_one_character(text: str) -> None:
    assert list(one_byte_per_character(text)) == [ord(character) % 256 for character in text]


@given(st.text(st.sampled_from("aé\u0301\u4e00\ud55c \u1161"), min_size=1, max_size=20), st.data())
def test_invisible_code_points_change_nothing(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    inserted = data.draw(st.sampled_from("\u200b\u200c\u200d\u2060\u00ad\u0640\ufeff\u202e\ufe0f\U000e0041\u2065"))
    assert normal_form(text[:at] + inserted + text[at:]) == normal_form(text)


@given(st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40))
def test_case_and_compatibility_do_not_matter(text: str) -> None:
    assert normal_form(unicodedata.normalize("NFKC", text)) == normal_form(text)
    assert normal_form(unicodedata.normalize("NFD", text)) == normal_form(text)


@needs_unicode_14
@given(texts)
def test_with_unicode_14_cutting_at_unassigned_code_points_changes_nothing(text: str) -> None:
    text = normal_form(text)
    assert unicodedata.normalize("NFKC", text.casefold()) == text


@needs_unicode_14
def test_the_tables_are_those_of_unicode_14() -> None:
    def members(table: str) -> set[int]:
        return {code for run in unicode14.ranges(table) for code in run}

    def is_mark(character: str) -> bool:
        return bool(unicodedata.combining(unicodedata.normalize("NFKD", character)[0]))

    every = range(0x110000)
    assert members(unicode14.UNASSIGNED) == {code for code in every if unicodedata.category(chr(code)) == "Cn"}
    assert members(unicode14.MARKS) == {code for code in every if is_mark(chr(code))}
    # White_Space is what str.isspace takes, less the four separators U+001C to U+001F.
    assert members(unicode14.SPACES) == {code for code in every if chr(code).isspace()} - set(range(0x1C, 0x20))
    removed = members(unicode14.REMOVED)
    assert 0x640 in removed
    visible_format = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    shaping = set(range(0xFFF9, 0xFFFC)) | set(range(0x13430, 0x13439))
    formats = {code for code in every if unicodedata.category(chr(code)) == "Cf"} - visible_format - shaping
    assert formats <= removed


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["a" + "\u0301\u0323" * 500_000, "\ufe7b\ufe77" * 300_000, "a\u0378" * 400_000, "\ufdfa" * 300_000],
    ids=["marks", "marks that come of letters", "unassigned", "ligatures"],
)
def test_no_text_takes_quadratic_time(text: str) -> None:
    started = time.process_time()
    normal_form(text)
    assert time.process_time() - started < 15  # unbounded, the first takes half an hour


def test_lone_surrogates_are_refused() -> None:
    for function in (normal_form, one_byte_per_character):
        with pytest.raises(UnicodeEncodeError):
            function("a\ud800é")


def test_ascii_hashes_as_its_bytes() -> None:
    text = "the quick brown fox jumps over the lazy dog. and runs off into the forest."
    value = tlsh.fingerprint(one_byte_per_character(normal_form(text)))
    assert value is not None
    assert show("tlsh", value) == reference.hash(text.encode())
