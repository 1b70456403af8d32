"""`_reference.c` has the reference's rounding: every coefficient equals that of `pdqhash` in its last bit."""

from __future__ import annotations

from threading import Thread

import numpy as np
import numpy.typing as npt
import pdqhash
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashweir.hashing import _reference, pdq
from tests.varied import GRAPHICS, Pixels, picture, pixels, sizes

PLAIN = pytest.mark.parametrize("plain", [False, True], ids=["quick", "plain"])


def require_identity(rgb: Pixels, plain: bool) -> None:
    """Same coefficients and same quality, bit for bit."""
    expected, expected_quality = pdqhash.compute_float(rgb)
    found, quality = _reference.coefficients(rgb, plain)
    assert found == np.asarray(expected, np.float32)[::-1].tobytes(), rgb.shape
    assert quality == expected_quality, rgb.shape


@PLAIN
def test_varied_pictures(plain: bool) -> None:
    for seed, (width, height) in enumerate(sizes(31, 60, 5, 700), 3100):
        require_identity(pixels(picture(seed, width, height)), plain)


@PLAIN
def test_graphics(plain: bool) -> None:
    for seed in range(8 * len(GRAPHICS)):
        require_identity(pixels(picture(seed, 200 + 11 * seed, 350, graphic=True)), plain)


@PLAIN
@pytest.mark.parametrize(
    "size",
    [(5, 5), (5, 900), (900, 5), (63, 64), (64, 64), (65, 64), (127, 129), (128, 256), (129, 257), (1280, 720)],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
def test_sides_where_a_window_grows(size: tuple[int, int], plain: bool) -> None:
    require_identity(pixels(picture(sum(size), *size, graphic=False)), plain)


@PLAIN
@pytest.mark.slow
def test_many_varied_pictures(plain: bool) -> None:
    for seed, (width, height) in enumerate(sizes(32, 1000, 5, 1000), 3200):
        require_identity(pixels(picture(seed, width, height)), plain)
    require_identity(pixels(picture(7000, 4000, 3000, graphic=False)), plain)


@given(
    height=st.integers(5, 300),
    width=st.integers(5, 300),
    seed=st.integers(0, 2**32),
    levels=st.sampled_from([1, 2, 16, 256]),
    plain=st.booleans(),
)
@settings(max_examples=100)
def test_any_size(height: int, width: int, seed: int, levels: int, plain: bool) -> None:
    chance = np.random.default_rng(seed)
    require_identity(chance.integers(0, 256, levels, np.uint8)[chance.integers(0, levels, (height, width, 3))], plain)


def test_luma_is_a_whole_number_divided_once() -> None:
    """Why single precision is enough for what the reference does in double precision: for every colour there is."""
    r, g, b = (one.astype(np.int32) for one in np.ogrid[0:256, 0:256, 0:256])
    once = (299 * r + 587 * g + 114 * b).astype(np.float32) / np.float32(1000)
    assert (once == (r * 0.299 + g * 0.587 + b * 0.114).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("rgb", "error"),
    [
        (np.zeros((4, 9, 3), np.uint8), ValueError),
        (np.zeros((9, 4, 3), np.uint8), ValueError),
        (np.zeros((9, 9), np.uint8), ValueError),
        (np.zeros((9, 9, 4), np.uint8), ValueError),
        (np.zeros((9, 9, 3), np.bool_), ValueError),
        (np.zeros((9, 9, 3), np.float32), ValueError),
        (np.zeros((18, 9, 3), np.uint8)[::2], (ValueError, BufferError)),
    ],
    ids=["low", "narrow", "grey", "alpha", "bool", "float", "gaps"],
)
def test_what_is_not_a_picture_is_refused(rgb: npt.NDArray[np.uint8], error: type[Exception]) -> None:
    with pytest.raises(error):
        _reference.coefficients(rgb)


def test_threads_do_not_disturb_each_other() -> None:
    pictures = [pixels(picture(seed, 300 + seed, 200, graphic=False)) for seed in range(4)]
    expected = [_reference.coefficients(rgb) for rgb in pictures]
    found: list[list[tuple[bytes, int]]] = [[] for _ in pictures]

    def run(number: int) -> None:
        found[number] = [_reference.coefficients(pictures[number]) for _ in range(20)]

    threads = [Thread(target=run, args=(number,)) for number in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[one] * 20 for one in expected]


def test_a_picture_whose_bits_are_noise_is_left_to_the_reference() -> None:
    """The linear map decides photos; graphics, of which most coefficients are zero, are ties."""
    photo, graphic = (pdq.sample(pixels(picture(5, 400, 300, graphic=one))) for one in (False, True))
    assert (photo.by_reference, graphic.by_reference) == (False, True)
