"""The demo's media behave as real ones do, and its edits leave room to the radius."""

import io
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from PIL import Image

from hashweir.cli.demo_media import (
    EDITS,
    FORMATS,
    PICTURE_EDITS,
    SIZES,
    TEXT_CHARS,
    TEXT_EDITS,
    Sample,
    edited,
    picture,
    text,
)
from hashweir.cli.demo_plan import item_name, original, originals, plan, strangers
from hashweir.hashing import HASHERS, pdq, tlsh
from hashweir.hashing.radii import reach
from hashweir.hashing.text import normal_form, one_byte_per_character
from hashweir.model import Kind

SEEDS = range(20)
RADIUS: dict[Kind, int] = {"pdq": 31, "tlsh": reach("normal", TEXT_CHARS[1]).radius}


@cache
def known(seed: int, is_text: bool, number: int) -> tuple[bytes, int]:
    return fingerprint(text(seed, number) if is_text else picture(seed, number))


def fingerprint(sample: Sample) -> tuple[bytes, int]:
    if sample.is_text:
        value = tlsh.fingerprint(one_byte_per_character(normal_form(sample.content.decode())))
        assert value is not None
        return value, 100
    with Image.open(io.BytesIO(sample.content)) as image:
        return pdq.fingerprint(np.asarray(image.convert("RGB")))


def copies(seed: int) -> Iterator[tuple[str, bool, int]]:
    """Every edit, on a picture or text that goes round with the seed."""
    yield from ((edit, False, (seed + turn) % 35) for turn, edit in enumerate(PICTURE_EDITS))
    yield from ((edit, True, (seed + turn) % 12) for turn, edit in enumerate(TEXT_EDITS * 3))


@pytest.mark.parametrize("seed", [*SEEDS[:2], *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[2:])])
def test_every_edit_stays_within_the_radius(seed: int) -> None:
    """No planted edit can be missed: its distance is within the radius, with room to spare."""
    for edit, is_text, number in copies(seed):
        before, quality = known(seed, is_text, number)
        after, _ = fingerprint(edited(text(seed, number) if is_text else picture(seed, number), edit, seed))
        kind: Kind = "tlsh" if is_text else "pdq"
        assert HASHERS[kind].distance(before, after) <= RADIUS[kind] - 3, (edit, number)
        assert quality >= 80


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pdq", "tlsh"])
def test_unrelated_media_are_far_apart(kind: Kind) -> None:
    """No upload can be falsely matched: different media are at least half as far again as the radius."""
    values = [known(seed, kind == "tlsh", number)[0] for seed in SEEDS for number in range(4)]
    nearest = min(HASHERS[kind].distance(a, b) for place, a in enumerate(values) for b in values[:place])
    assert nearest > 1.5 * RADIUS[kind]


def test_media_are_a_pure_function_of_the_seed() -> None:
    """The same seed gives the same bytes, another seed others."""
    for edit in EDITS:
        one, two = (edited(text(7, 3) if edit in TEXT_EDITS else picture(7, 3), edit, 5) for _ in range(2))
        assert one == two
    assert picture(7, 3) != picture(8, 3) != text(7, 3)


def test_texts_are_long_and_little_changed() -> None:
    """At least 2,000 characters, and at most one word in a hundred is changed."""
    for seed in SEEDS:
        before = text(seed, 0).content.decode()
        after = edited(text(seed, 0), TEXT_EDITS[0], seed).content.decode()
        assert len(before) >= 2_000
        words, changed = before.split(" "), after.split(" ")
        assert 1 <= sum(a != b for a, b in zip(words, changed, strict=True)) <= len(words) / 100


def test_every_size_and_format_comes_up() -> None:
    """The decoders and sizes that uploads have are all exercised."""
    seen = set()
    for number in range(len(FORMATS)):
        with Image.open(io.BytesIO(picture(1, number).content)) as image:
            seen.add(image.format)
            assert image.size == SIZES[number % len(SIZES)]
            assert f"image/{image.format}".lower() == picture(1, number).media_type
    assert seen == set(FORMATS)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_plan_has_enough_of_everything(seed: int) -> None:
    """At least 300 uploads and 60 planted edits, every edit among them, each a copy of an item in the sets."""
    uploads = plan(seed, 320)
    items = {item_name(*one) for one in originals()}
    planted = [one for one in uploads if one.original is not None]
    assert len(uploads) >= 300
    assert len(planted) >= 60
    assert {one.edit for one in planted} == set(EDITS)
    assert {one.original for one in planted} <= items
    assert not {(one.is_text, one.number) for one in uploads if one.original is None} & set(originals())
    assert plan(seed, 320) == uploads


def test_a_small_plan_still_plants_edits() -> None:
    """A short demo shows hits too."""
    assert sum(one.original is not None for one in plan(1, 10)) == 5
    assert plan(1, 1)


def test_strangers_are_random_values() -> None:
    """What else is in the set is near to nothing."""
    values = [bytes.fromhex(value) for value in strangers(3)]
    pictures = [known(3, False, number)[0] for number in range(4)]
    assert min(HASHERS["pdq"].distance(a, b) for a in values for b in pictures) > 60
    assert len(set(values)) == len(values)


def test_an_original_is_made_once() -> None:
    """Every edit begins with an original, which is kept."""
    assert original(1, True, 0) is original(1, True, 0)
