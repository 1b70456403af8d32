"""TLSH's scan in C against numpy's, and how often the reference's function would do the same.

    .venv/bin/python -m tests.bench.tlsh [--entries 1000000] [--rounds 9]

Random values at a radius that hardly any is within. CPU time of one thread; both take turns, medians over rounds.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import process_time

import numpy as np
import tlsh

from hashweir.index import _native
from hashweir.index.flat import FlatTlsh
from hashweir.index.tlsh import NativeTlsh
from hashweir.ports import Index

RADIUS = 100


def main() -> None:
    """Print nanoseconds an entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    values = rng.bytes(35 * given.entries)
    ways: dict[str, Index] = {f"C, level {level}": NativeTlsh(level=level) for level in range(_native.LEVEL + 1)}
    ways["C, with length"] = NativeTlsh(length_counts=True)
    ways["numpy"] = FlatTlsh()
    for index in ways.values():
        index.add(values)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        asked = rng.bytes(35)
        for name, index in ways.items():
            started = process_time()
            index.search(asked, RADIUS)
            times[name].append((process_time() - started) / given.entries * 1e9)
    for name, spent in times.items():
        print(f"{name:16} {median(spent):8.2f} ns an entry, least {min(spent):.2f}")
    first, second = ("T1" + rng.bytes(35).hex().upper() for _ in range(2))
    started = process_time()
    for _ in range(10_000):
        tlsh.diffxlen(first, second)
    print(f"{'py-tlsh':16} {(process_time() - started) / 10_000 * 1e9:8.0f} ns an entry")


if __name__ == "__main__":
    main()
