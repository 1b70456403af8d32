from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pdqhash
import pytest

from hashweir.hashing import pdq

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "pdq.json").read_text())


def discs(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Overlapping discs of seeded places and levels, by integers only: the same picture everywhere."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    chance = random.Random(seed)
    levels = np.zeros((height, width, 3), np.int64)

    def pick(most: int) -> int:
        return int(chance.random() * most)

    for channel in range(3):
        for _ in range(12):
            cy, cx, radius, level = pick(height), pick(width), 4 + pick(max(height, width) // 2), pick(256)
            inside = (y - cy) ** 2 + (x - cx) ** 2 < radius * radius
            levels[:, :, channel] = np.where(inside, (levels[:, :, channel] + level) // 2, levels[:, :, channel])
    return levels.astype(np.uint8)


@pytest.mark.parametrize("row", VECTORS["of"], ids=lambda row: f"{row['height']}x{row['width']}")
def test_vectors(row: dict[str, int | str]) -> None:
    value, quality = pdq.fingerprint(discs(int(row["seed"]), int(row["height"]), int(row["width"])))
    assert (value.hex(), quality) == (row["value"], row["quality"])


def test_equals_the_reference() -> None:
    for seed in range(20):
        picture = discs(seed, 40 + 13 * seed, 200 - 7 * seed)
        bits, quality = pdqhash.compute(picture)
        expected = "".join(map(str, np.asarray(bits).astype(int)))
        value, ours = pdq.fingerprint(picture)
        assert f"{int.from_bytes(value):0256b}" == expected
        assert ours == quality


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3), np.int8),
        np.zeros((64, 64, 3), np.bool_),
        np.zeros((64, 64, 3), np.float32),
    ],
    ids=["grey", "alpha", "int8", "bool", "float"],
)
def test_anything_but_rgb_bytes_is_refused(picture: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="picture"):
        pdq.fingerprint(picture)
