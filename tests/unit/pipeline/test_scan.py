from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import tlsh as reference
from hypothesis import given
from hypothesis import strategies as st

from hashweir.hashing import HASHERS, RECIPES, pdq
from hashweir.model import KINDS_OF, AnyForm, Fingerprint, Form, Kind, Limits, Scan
from hashweir.pipeline.scan import prepare, scan
from tests.pictures import encode, one_bit_bomb, photo, photos

LIMITS = Limits()
WORDS = "The quick brown fox jumps over the lazy dog, and then it runs off into the forest to sleep. "
PERSIAN = "می‌خواهم کتاب‌های تازه را بخوانم و در کتابخانه‌ی شهر بنشینم تا شب شود و باران بند بیاید."


def by_kind(result: Scan) -> dict[tuple[Kind, AnyForm], Fingerprint]:
    still = [one for one in result.fingerprints if one.time_s is None]  # frames of an animation have times
    found = {(one.kind, one.form): one for one in still}
    assert len(found) == len(still)
    return found


def require_sound(result: Scan, content: bytes) -> None:
    """What every scan keeps to: canonical values, exact fingerprints always, every kind of its class told."""
    found = by_kind(result)
    assert found["sha256", "canonical"].value == hashlib.sha256(content).hexdigest()
    assert found["md5", "canonical"].value == hashlib.md5(content, usedforsecurity=False).hexdigest()
    for (kind, form), one in found.items():
        assert one.recipe == RECIPES[kind, form]
        assert HASHERS[kind].show(HASHERS[kind].parse(one.value)) == one.value
    kinds = KINDS_OF[result.media_class] if result.media_class else ("sha256", "md5")
    assert set(result.checked) == set(kinds)
    assert {kind for kind, word in result.checked.items() if word == "ok"} <= {kind for kind, _ in found}
    assert set(result.timings) == {"decode", "hash"}
    assert result.attempts == 1


@pytest.mark.parametrize("name", ["astronaut.png", "rocket.jpg", "no_time_for_that_tiny.gif"])
def test_an_image(name: str) -> None:
    content = photos()[name]
    result = scan(content, "image/jpeg", LIMITS)
    require_sound(result, content)
    value, quality = pdq.fingerprint(np.asarray(photo(name)))
    one = by_kind(result)["pdq", "canonical"]
    assert (one.value, one.quality) == (value.hex(), quality)
    assert result.checked == {"pdq": "ok", "sha256": "ok", "md5": "ok"}
    assert result.media_class == "image"
    assert result.notes == (() if name == "rocket.jpg" else ("type_mismatch",))
    assert result.reason is None


def test_a_flat_image_reports_its_quality_and_nothing_more() -> None:
    content = encode(photo(size=(1, 1)).resize((64, 64)), "PNG")
    result = scan(content, None, LIMITS)
    assert by_kind(result)["pdq", "canonical"].quality == 0
    assert result.checked["pdq"] == "ok"


def test_an_image_cut_short_is_hashed_and_said_to_be_truncated() -> None:
    whole = encode(photo(), "JPEG")
    content = whole[: len(whole) * 9 // 10]
    result = scan(content, "image/jpeg", LIMITS)
    require_sound(result, content)
    assert result.checked == {"pdq": "truncated", "sha256": "ok", "md5": "ok"}
    assert result.reason is None
    one, other = by_kind(result)["pdq", "canonical"], by_kind(scan(whole, None, LIMITS))["pdq", "canonical"]
    assert HASHERS["pdq"].distance(bytes.fromhex(one.value), bytes.fromhex(other.value)) <= 31


@pytest.mark.parametrize(
    ("content", "declared", "reason"),
    [
        (b"\x89PNG\r\n\x1a\nand no more", "image/png", "undecodable"),
        (one_bit_bomb(), "image/png", "too_many_pixels"),
        (b"", "image/png", "undecodable"),
    ],
    ids=["undecodable", "bomb", "empty"],
)
def test_an_image_beyond_use_keeps_its_exact_fingerprints(content: bytes, declared: str, reason: str) -> None:
    result = scan(content, declared, LIMITS)
    require_sound(result, content)
    assert result.reason == reason
    assert result.checked == {"pdq": reason, "sha256": "ok", "md5": "ok"}
    assert result.media_class == "image"


def test_a_text() -> None:
    content = WORDS.encode()
    result = scan(content, "text/plain; charset=utf-8", LIMITS)
    require_sound(result, content)
    found = by_kind(result)
    assert found["tlsh", "raw"].value == reference.hash(content)
    assert found["tlsh", "raw"].length == len(content)
    assert found["tlsh", "normal"].length == len(WORDS.strip())
    assert found["text", "normal"].value == hashlib.sha256(WORDS.strip().lower().encode()).hexdigest()
    assert result.checked == {"tlsh": "ok", "text": "ok", "sha256": "ok", "md5": "ok"}
    assert result.notes == ("mostly_ascii",)
    assert (result.media_class, result.media_type) == ("text", "text/plain")


def test_a_text_of_another_script() -> None:
    content = PERSIAN.encode()
    result = scan(content, "text/plain", LIMITS)
    require_sound(result, content)
    assert by_kind(result)["tlsh", "normal"].length == len(PERSIAN) - 3
    assert by_kind(result)["tlsh", "raw"].length == len(content)
    assert result.notes == ()


@pytest.mark.parametrize(
    ("text", "forms"),
    [("", set()), ("too short", set()), ("lol " * 100, set()), ("سلام دنیا، این متن کوتاه است ولی نه", {"raw"})],
)
def test_a_text_too_short_has_its_digest_only(text: str, forms: set[Form]) -> None:
    result = scan(text.encode(), "text/plain", LIMITS)
    require_sound(result, text.encode())
    assert result.checked == {"tlsh": "too_short", "text": "ok", "sha256": "ok", "md5": "ok"}
    assert {form for kind, form in by_kind(result) if kind == "tlsh"} == forms
    assert result.reason is None


@pytest.mark.parametrize(("edit"), [str.upper, str.swapcase, lambda text: "  " + text.replace(" ", " \n\t")])
def test_edits_that_the_normal_form_undoes(edit: Callable[[str], str]) -> None:
    one = by_kind(scan(WORDS.encode(), "text/plain", LIMITS))
    other = by_kind(scan(edit(WORDS).encode(), "text/plain", LIMITS))
    assert one["text", "normal"] == other["text", "normal"]
    assert one["tlsh", "normal"] == other["tlsh", "normal"]
    assert one["tlsh", "raw"] != other["tlsh", "raw"]


@pytest.mark.parametrize(
    ("content", "declared", "reason"),
    [
        (b"\xff\xfe", "text/plain", "invalid_utf8"),
        (b"%PDF-1.7", "application/pdf", "undecodable"),
        (b"anything", None, "unknown_content_type"),
    ],
)
def test_what_no_decoder_takes(content: bytes, declared: str | None, reason: str) -> None:
    result = scan(content, declared, LIMITS)
    require_sound(result, content)
    assert result.reason == reason


@given(st.binary(max_size=200), st.sampled_from([None, "image/png", "text/plain", "video/mp4", ";", "text/"]))
def test_any_bytes_give_a_sound_scan(content: bytes, declared: str | None) -> None:
    require_sound(scan(content, declared, LIMITS), content)


def test_a_prepared_function_keeps_its_limits() -> None:
    small = prepare(Limits(pixels=100))
    assert small(encode(photo(size=(10, 10)), "PNG"), None).reason is None
    assert small(encode(photo(size=(11, 10)), "PNG"), None).reason == "too_many_pixels"


def test_the_usual_wrong_name_of_jpeg_is_no_mismatch() -> None:
    assert scan(photos()["rocket.jpg"], "image/jpg", LIMITS).notes == ()


def test_a_text_is_mostly_ascii_from_85_in_a_hundred_bytes_on() -> None:
    for letters, mostly in ((86, True), (84, False)):
        text = "a" * letters + "я" * ((100 - letters) // 2)
        assert ("mostly_ascii" in scan(text.encode(), "text/plain", Limits()).notes) == mostly
