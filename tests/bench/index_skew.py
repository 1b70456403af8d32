"""Codes that are not random: the worst single query against the flat scan of the same codes.

    .venv/bin/python -m tests.bench.index_skew [--pictures 26000] [--rounds 9]

Real photos, edited, and what shares most of its bits with others: letterboxes, skies, pages of text, chats, memes, each
in eight orientations. And corpora made to hurt: many codes in one bucket of several slices, near-equal frames of still
videos of many lengths. Both ways take turns; a query's time is the least of its rounds in CPU time, and the figure is
the largest ratio of any query.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Iterator
from time import process_time
from typing import get_args

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hashweir.hashing import pdq
from hashweir.index.layouts import COSTS, DESIGN_RADIUS
from hashweir.index.sliced import SlicedPdq
from hashweir.model import Turn
from tests.bench.index import tended
from tests.varied import picture, pixels

SIDE = 256
TURNS: tuple[Turn, ...] = get_args(Turn)
FILL = 200_000
"""Random codes beside those of a made corpus."""

Codes = NDArray[np.uint8]


def sky(chance: random.Random) -> Image.Image:
    """A smooth gradient over most of the picture, something below."""
    image = Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB")
    low = chance.randint(SIDE // 2, SIDE * 7 // 8)
    image.paste(picture(chance.getrandbits(32), SIDE, SIDE - low, graphic=False), (0, low))
    return image


def page(chance: random.Random, paper: str, ink: str, left: int) -> Image.Image:
    """Lines of words."""
    image = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(image)
    size = chance.randint(9, 14)
    for y in range(10, SIDE - 10, size + 4):
        words = "".join(chance.choices("aeinrst   lodmuc", k=chance.randint(15, 40)))
        draw.text((chance.choice((left, 10)), y), words, fill=ink, font_size=size)
    return image


def meme(chance: random.Random) -> Image.Image:
    """One of ten photos with a line above and a line below."""
    image = picture(chance.randrange(10), SIDE, SIDE, graphic=False)
    draw = ImageDraw.Draw(image)
    for y in (8, SIDE - 40):
        draw.text((10, y), "".join(chance.choices("AEINRST L", k=14)), fill="white", font_size=26, stroke_width=1)
    return image


def letterbox(chance: random.Random) -> Image.Image:
    """Bars above and below."""
    image, bar = Image.new("RGB", (SIDE, SIDE)), chance.choice((32, 48, 64))
    image.paste(picture(chance.getrandbits(32), SIDE, SIDE - 2 * bar, graphic=False), (0, bar))
    return image


def real(pictures: int) -> Codes:
    """Eight codes a picture, one for each orientation; those without features (quality 0) are left out, as by sets."""
    chance, found = random.Random(1), []
    makers = (
        lambda: picture(chance.getrandbits(32), SIDE, SIDE),
        lambda: letterbox(chance),
        lambda: sky(chance),
        lambda: page(chance, "white", "black", 10),
        lambda: page(chance, "#101418", "#d0d0d0", 90),
        lambda: meme(chance),
    )
    for number in range(pictures):
        sampled = pdq.sample(pixels(makers[number % len(makers)]()))
        if sampled.quality:
            found += [sampled.value, *sampled.turned(TURNS)]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)


def near(rng: np.random.Generator, code: Codes, count: int, most: int) -> Codes:
    """Codes within so many bits of one."""
    many = np.repeat(code[None], count, axis=0)
    for number, bits in enumerate(rng.integers(0, most + 1, count).tolist()):
        mask = np.zeros(256, np.uint8)
        mask[rng.choice(256, bits, replace=False)] = 1
        many[number] ^= np.packbits(mask)
    return many


def corpora(pictures: int) -> Iterator[tuple[str, Codes, Codes]]:
    """Name, codes and queries."""
    rng = np.random.default_rng(1)

    def fill(rows: int = FILL) -> Codes:
        return rng.integers(0, 256, (rows, 32), np.uint8)

    if pictures:
        codes = real(pictures)
        yield "photos and edits", codes, rng.permutation(codes)[:1500]
    for shared in (3, 6, 12, 24):
        many = fill(100_000)
        many[:, :shared] = many[0, :shared]
        yield f"100,000 share {shared * 8} bits", np.concatenate([many, fill()]), many[:200]
    for frames in (1_300, 3_600, 7_000, 30_000, 100_000):
        still = near(rng, fill(1)[0], frames, 4)
        for rows in (FILL, 1_000_000):
            yield f"{frames:,} still frames in {rows:,}", np.concatenate([still, fill(rows)]), still[:40]
    still = near(rng, fill(1)[0], 100_000, 31)
    yield "100,000 within 31 bits", np.concatenate([still, fill()]), still[:40]


def worst(name: str, codes: Codes, queries: Codes, rounds: int) -> None:
    """Print one line."""
    values = codes.tobytes()
    ways = tended(SlicedPdq(), values), tended(SlicedPdq(COSTS._replace(smallest=1 << 62)), values)
    times = np.full((2, len(queries)), np.inf)
    most = 0
    for _ in range(rounds):
        for number, query in enumerate(queries):
            for way, index in enumerate(ways):
                started = process_time()
                found = index.search(query.tobytes(), DESIGN_RADIUS)
                times[way, number] = min(times[way, number], process_time() - started)
                most = max(most, len(found.row))
    ratio = times[0] / times[1]
    print(
        f"{name:38} {len(codes):>9,} codes, hits <= {most:>7,}: median {np.median(times[0]) * 1e6:7.0f} us, worst "
        f"{times[0].max() * 1e6:7.0f}, flat {np.median(times[1]) * 1e6:7.0f}; worst ratio {ratio.max():.2f}",
        flush=True,
    )


def main() -> None:
    """Print all lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=26_000, help="0 leaves the photos out")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    for name, codes, queries in corpora(given.pictures):
        worst(name, codes, queries, given.rounds)


if __name__ == "__main__":
    main()
