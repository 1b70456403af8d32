"""The linear map gives the reference's hash and quality, bit for bit, whatever the picture and its size."""

from __future__ import annotations

from io import BytesIO
from typing import get_args

import numpy as np
import pdqhash
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hashweir.hashing import pdq
from hashweir.model import Turn
from tests.pictures import photo
from tests.varied import DIHEDRAL, Pixels, jpeg, picture, pixels, sizes

TURNS: tuple[Turn, ...] = get_args(Turn)


def reference(rgb: Pixels) -> tuple[bytes, int]:
    bits, quality = pdqhash.compute(rgb)
    return np.packbits(bits).tobytes(), int(quality)


def distance(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def require_identity(first: int, count: int, most: int) -> None:
    """Pictures from 5 pixels to `most` a side, every eighth a graphic, all recompressed."""
    for seed, (width, height) in enumerate(sizes(first, count, 5, most), first):
        rgb = pixels(Image.open(BytesIO(jpeg(seed, picture(seed, width, height)))))
        sampled = pdq.sample(rgb)
        assert pdq.fingerprint(rgb) == (sampled.value, sampled.quality) == reference(rgb), (seed, width, height)


def test_varied_pictures() -> None:
    require_identity(11, 60, 700)


@pytest.mark.slow
@pytest.mark.parametrize("first", [20_000, 30_000, 40_000])
def test_many_varied_pictures(first: int) -> None:
    require_identity(first, 800, 1000)


@pytest.mark.slow
def test_twelve_megapixels() -> None:
    rgb = pixels(picture(7000, 4000, 3000, graphic=False))
    assert pdq.fingerprint(rgb) == reference(rgb)


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (720, 1280), (2500, 17)])
def test_the_usual_sizes(size: tuple[int, int]) -> None:
    rgb = pixels(picture(sum(size), *size, graphic=False))
    assert pdq.fingerprint(rgb) == reference(rgb)


@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 2**32), smooth=st.booleans())
@settings(max_examples=80)
def test_any_size(height: int, width: int, seed: int, smooth: bool) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if smooth:
        rgb = np.sort(rgb, axis=seed % 3)
    sampled = pdq.sample(rgb)
    assert pdq.fingerprint(rgb) == (sampled.value, sampled.quality) == reference(rgb)


def test_pictures_without_anything_in_them() -> None:
    for level in range(0, 256, 17):
        rgb = np.full((200, 333, 3), level, np.uint8)
        assert pdq.fingerprint(rgb) == reference(rgb)


def test_memory_in_another_order_does_not_matter() -> None:
    rgb = pixels(picture(3, 301, 207, graphic=False))
    for view in (rgb[::-1], rgb[:, ::-1], rgb[::2, ::3], rgb.transpose(1, 0, 2), rgb[:, :, ::-1]):
        assert pdq.fingerprint(view) == reference(np.ascontiguousarray(view))


def test_frames_are_hashed_as_pictures_are() -> None:
    frames = np.stack([pixels(picture(seed, 320, 180)) for seed in range(6)])
    assert pdq.fingerprint_frames(frames) == [reference(frame) for frame in frames]
    with pytest.raises(ValueError, match="pictures"):
        pdq.fingerprint_frames(frames[0])


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_hash_is_that_of_the_turned_pixels(turn: Turn) -> None:
    for seed, (width, height) in enumerate(sizes(12, 25, 40, 900)):
        image = picture(seed, width, height, graphic=False)
        sampled = pdq.sample(pixels(image))
        if sampled.quality >= 50:
            turned = pixels(image.transpose(Image.Transpose[turn.replace("-", "_").upper()]))
            assert distance(sampled.turned([turn])[0], pdq.fingerprint(turned)[0]) <= 2


def require_dihedral(first: int, count: int, most: int) -> None:
    """As `require_identity`, of all turns by coefficients."""
    for seed, (width, height) in enumerate(sizes(first, count, 5, most), first):
        rgb = pixels(Image.open(BytesIO(jpeg(seed, picture(seed, width, height)))))
        found = pdq.dihedral(rgb, pdq.sample(rgb), DIHEDRAL)
        assert found == [np.packbits(bits).tobytes() for bits in pdqhash.compute_dihedral(rgb)[0]][1:], (
            seed,
            rgb.shape,
        )


def test_turns_by_coefficients_are_those_of_the_reference() -> None:
    """Of any picture: flat, symmetric and tiny ones, too."""
    require_dihedral(13, 60, 700)
    tiny = np.zeros((4, 9, 3), np.uint8)
    assert pdq.dihedral(tiny, pdq.sample(tiny), TURNS) == [bytes(32)] * 7


@pytest.mark.slow
def test_many_turns_by_coefficients() -> None:
    require_dihedral(50_000, 800, 1000)


@pytest.mark.parametrize("turn", TURNS)
def test_a_turn_by_coefficients_is_named_as_that_of_the_pixels(turn: Turn) -> None:
    """They lie somewhat off the hash of the turned pixels, and off all other turns by half of the bits."""
    rgb = pixels(photo("astronaut.png"))
    sampled = pdq.sample(rgb)
    (by_coefficients,) = pdq.dihedral(rgb, sampled, [turn])
    assert min(TURNS, key=lambda one: distance(by_coefficients, sampled.turned([one])[0])) == turn
    assert distance(by_coefficients, sampled.turned([turn])[0]) <= 24


def test_turns_asked_together_are_those_asked_one_by_one() -> None:
    sampled = pdq.sample(pixels(picture(5, 400, 300, graphic=False)))
    assert sampled.turned(TURNS) == [sampled.turned([turn])[0] for turn in TURNS]
    assert pdq.sample(np.zeros((4, 9, 3), np.uint8)).turned(TURNS) == [bytes(32)] * 7


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_blocks_keep_the_kernel(factor: int) -> None:
    """The hash from block means is that of the picture in which every pixel is its block's mean."""
    for height, width in ((512, 520), (515, 700), (640, 513)):
        rgb = pixels(picture(height, width, height, graphic=False)).astype(np.float64)
        grey = rgb @ np.array([0.299, 0.587, 0.114])
        padded = np.pad(grey, ((0, -height % factor), (0, -width % factor)), mode="edge")
        blocks = padded.reshape(padded.shape[0] // factor, factor, -1, factor).mean(axis=(1, 3)).round()
        small = blocks.astype(np.uint8)
        large = np.repeat(np.repeat(small, factor, axis=0), factor, axis=1)[:height, :width]
        found = pdq.sample_scaled(small, height, width, factor)
        assert found is not None
        assert distance(found.value, pdq.fingerprint(np.repeat(large[:, :, np.newaxis], 3, axis=2))[0]) <= 2


def test_scaled_luma_is_refused_where_it_does_not_fit_and_given_up_where_it_is_noise() -> None:
    with pytest.raises(ValueError, match="luma"):
        pdq.sample_scaled(np.zeros((10, 10), np.uint8), 19, 21, 2)
    assert pdq.sample_scaled(np.full((100, 100), 7, np.uint8), 200, 200, 2) is None
    assert pdq.sample_scaled(np.zeros((4, 100), np.uint8), 4, 100, 1) is None


def test_nearest_512() -> None:
    rgb = pixels(picture(9, 700, 300))
    squashed = pdq.nearest_512(rgb)
    assert squashed.shape == (512, 512, 3)
    assert (squashed[511, 1] == rgb[511 * 300 // 512, 700 // 512]).all()
    small = pixels(picture(9, 512, 300))
    assert pdq.nearest_512(small) is small
