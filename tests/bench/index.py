"""PDQ's index against FAISS and numpy, in one run on one core.

    .venv/bin/python -m tests.bench.index [--entries 10000,100000,1000000] [--radius 31] [--rounds 7]

Random codes; half of the queries lie within 0 to 31 bits of an entry, the others are random. `IndexBinaryMultiHash` has
the setting of the open hash matchers: 16 hashes of 16 bits, one bit flipped. All four take turns, each for a third of
a second a round; a figure is the median over rounds of CPU time a query. Bytes are what became resident in the build.
Recall is over the hits of numpy's brute force, whose distances must be equal too.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import faiss
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hashweir.index.flat import FlatPdq
from hashweir.index.sliced import SlicedPdq
from hashweir.ports import Index

BATCH = 64
QUERIES = 1024
CHECKED = 64
TURN = 0.33

Codes = NDArray[np.uint8]
Answers = list[tuple[int, int, int]]


@dataclass
class Peer:
    """One way to search: how it answers, and what it cost."""

    name: str
    answer: Callable[[Codes], Answers]
    search: Callable[[Codes], object]
    built: float
    size: int
    alone: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)


def corpus(entries: int, seed: int) -> tuple[Codes, Codes]:
    """Codes and queries."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (entries, 32), np.uint8)
    queries = rng.integers(0, 256, (QUERIES, 32), np.uint8)
    for number in range(0, QUERIES, 2):
        mask = np.zeros(256, np.uint8)
        mask[rng.choice(256, rng.integers(0, 32), replace=False)] = 1
        queries[number] = codes[rng.integers(entries)] ^ np.packbits(mask)
    return codes, queries


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tended(index: Index, values: bytes) -> Index:
    """An index with these values and no upkeep due."""
    index.add(values)
    while index.tend():
        pass
    return index


def of_index(name: str, make: Callable[[], Index], codes: Codes, radius: int) -> Peer:
    """One of ours."""
    values, before, started = codes.tobytes(), resident(), process_time()
    index = tended(make(), values)
    built = process_time() - started
    return Peer(
        name,
        lambda asked: index.search(asked.tobytes(), radius).tuples(),
        lambda asked: index.search(asked.tobytes(), radius),
        built,
        resident() - before,
    )


def of_faiss(name: str, index: Any, codes: Codes, radius: int) -> Peer:
    """One of FAISS, whose radius is exclusive."""
    before, started = resident(), process_time()
    index.add(codes)
    built = process_time() - started

    def answer(asked: Codes) -> Answers:
        limits, far, rows = index.range_search(asked, radius + 1)
        return sorted(
            (query, int(rows[at]), int(far[at]))
            for query in range(len(asked))
            for at in range(limits[query], limits[query + 1])
        )

    return Peer(name, answer, lambda asked: index.range_search(asked, radius + 1), built, resident() - before)


def timed(search: Callable[[Codes], object], queries: Codes, together: int) -> float:
    """Microseconds of CPU a query, over a third of a second or all queries."""
    done, started, spent = 0, process_time(), 0.0
    while done < len(queries) and spent < TURN:
        search(queries[done : done + together])
        done += together
        spent = process_time() - started
    return spent / done * 1e6


def compare(entries: int, radius: int, rounds: int, seed: int) -> Table:
    """One table."""
    codes, queries = corpus(entries, seed)
    multi = faiss.IndexBinaryMultiHash(256, 16, 16)
    multi.nflip = 1
    peers = [
        of_index("hashweir", SlicedPdq, codes, radius),
        of_faiss("FAISS MultiHash", multi, codes, radius),
        of_faiss("FAISS Flat", faiss.IndexBinaryFlat(256), codes, radius),
        of_index("numpy flat", FlatPdq, codes, radius),
    ]
    for _ in range(rounds):
        for peer in peers:
            peer.alone.append(timed(peer.search, queries, 1))
            peer.batches.append(timed(peer.search, queries, BATCH))
    truth = set(peers[-1].answer(queries[:CHECKED]))
    table = Table("", "build s", "bytes/entry", "alone us", "1/s", "x", "batch us", "1/s", "x", "recall %", "wrong")
    for peer in peers:
        found = set(peer.answer(queries[:CHECKED]))
        alone, batch = median(peer.alone), median(peer.batches)
        table.add_row(
            peer.name,
            f"{peer.built:.2f}",
            f"{peer.size / entries:.0f}",
            f"{alone:.1f}",
            f"{1e6 / alone:,.0f}",
            f"{median(a / b for a, b in zip(peer.alone, peers[0].alone, strict=True)):.1f}",
            f"{batch:.1f}",
            f"{1e6 / batch:,.0f}",
            f"{median(a / b for a, b in zip(peer.batches, peers[0].batches, strict=True)):.1f}",
            f"{100 * len(found & truth) / max(len(truth), 1):.1f}",
            str(len(found - truth)),
        )
    table.title = f"{entries:,} entries, radius {radius}: x is how many times the first row"
    return table


def main() -> None:
    """Print one table per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", default="10000,100000,1000000", help="sizes, with commas; also 10000000")
    parser.add_argument("--radius", type=int, default=31)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    for entries in given.entries.split(","):
        Console(width=120).print(compare(int(entries), given.radius, given.rounds, given.seed))


if __name__ == "__main__":
    main()
