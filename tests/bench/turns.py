"""PDQ of turned pictures: what `pdqhash.compute_dihedral` gives, against the hash of the turned pixels.

    .venv/bin/python -m tests.bench.turns [--pictures N] [--seed N]

Photos of quality 50 and more. `compute_dihedral` turns coefficients; ours are of the samples that the turned picture
has. Each turn is compared with the nearest of the eight that `compute_dihedral` gives, so its order cannot matter.
Our own turned coefficients (`pdq.dihedral`) are compared with it turn by turn, graphics of any quality and size too.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from statistics import median
from typing import get_args

import numpy as np
import pdqhash

from hashweir.hashing import pdq
from hashweir.model import Turn
from tests.bench.pdq import distance, machine, real
from tests.varied import DIHEDRAL, picture, pixels, sizes

TURNS: tuple[Turn, ...] = get_args(Turn)
CLASSES = {
    "256 x 256": (256, 256),
    "320 x 240": (320, 240),
    "512 x 512": (512, 512),
    "500 x 375": (500, 375),
    "720p": (1280, 720),
    "1080p": (1920, 1080),
}
QUALITY = 50


@dataclass
class Tally:
    """Distances, seven of each picture."""

    pictures: int = 0
    apart: list[int] = field(default_factory=list)
    """Of ours and `compute_dihedral`."""
    dihedral: list[int] = field(default_factory=list)
    """Of `compute_dihedral` and the turned pixels."""
    ours: list[int] = field(default_factory=list)
    """Of ours and the turned pixels."""
    coefficients: list[int] = field(default_factory=list)
    """Of our turned coefficients and `compute_dihedral`."""


def examine(tally: Tally, rgb: pdq.Pixels, least_quality: int = QUALITY) -> None:
    """One picture, all seven turns."""
    sampled = pdq.sample(rgb)
    if sampled.quality < least_quality:
        return
    tally.pictures += 1
    dihedral = [np.packbits(bits).tobytes() for bits in pdqhash.compute_dihedral(rgb)[0]]
    tally.coefficients += map(distance, pdq.dihedral(rgb, sampled, DIHEDRAL), dihedral[1:])
    for turn, ours in zip(TURNS, sampled.turned(TURNS), strict=True):
        turned = real(rgb, turn)
        tally.apart.append(min(distance(ours, one) for one in dihedral))
        tally.dihedral.append(min(distance(turned, one) for one in dihedral))
        tally.ours.append(distance(turned, ours))


def share(values: list[int], most: int) -> str:
    within = sum(one <= most for one in values) / max(len(values), 1)
    return f"{within:.1%} ({median(values or [0]):.0f}, {max(values, default=0)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200, help="of each size")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{machine()}; seed {options.seed}\n")
    print("share of the turns within so many bits (median, most); turned: the hash of the turned pixels\n")
    head: tuple[str, ...] = (
        "",
        "pictures",
        "ours, dihedral: 2",
        "dihedral, turned: 8",
        "ours, turned: 8",
        "ours, turned: 0",
    )
    head += ("coefficients: 2", "coefficients: 0")
    print(" ".join(f"{word:>20}" for word in head))
    every = Tally()
    for place, (name, (width, height)) in enumerate(CLASSES.items(), 1):
        tally = Tally()
        for number in range(options.pictures):
            seed = 1_000_000 * options.seed + 10_000 * place + number
            examine(tally, pixels(picture(seed, width, height, graphic=False)))
        report(name, tally)
        every.pictures += tally.pictures
        every.apart += tally.apart
        every.dihedral += tally.dihedral
        every.ours += tally.ours
        every.coefficients += tally.coefficients
    report("all", every)
    varied, first = Tally(), 1_000_000 * options.seed
    for seed, size in enumerate(sizes(first, 2 * options.pictures, 5, 1000), first):
        examine(varied, pixels(picture(seed, *size)), 0)
    report("varied", varied)


def report(name: str, tally: Tally) -> None:
    row: tuple[object, ...] = (
        name,
        tally.pictures,
        share(tally.apart, 2),
        share(tally.dihedral, 8),
        share(tally.ours, 8),
    )
    row += (share(tally.ours, 0), share(tally.coefficients, 2), share(tally.coefficients, 0))
    print(" ".join(f"{cell:>20}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
