"""What ten million entries weigh, what upkeep adds, and what searches beside it notice.

    .venv/bin/python -m tests.bench.index_upkeep [--entries 10000000] [--seconds 20]

Memory is `smaps_rollup` of the process less what it was before the index; the peak is sampled every millisecond while
young slices are built, while all slices are merged, and again while the index grows to where its layout changes.
Latencies are of single searches in one thread; it takes turns of half a second with and without a second thread that
merges all the time.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from time import perf_counter, sleep, thread_time

import numpy as np

from hashweir.index import sliced
from hashweir.index.layouts import DESIGN_RADIUS, layout_for
from hashweir.index.sliced import SlicedPdq
from tests.bench.index import corpus

CHUNK = 1 << 16
TURN = 0.5


def resident() -> int:
    """Bytes of this process in memory."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(rollup.split("Rss:")[1].split()[0]) * 1024


class Peak:
    """The most that is resident while this is open."""

    def __enter__(self) -> Peak:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        statm = Path("/proc/self/statm")
        while not self._done.is_set():
            self.bytes = max(self.bytes, int(statm.read_text().split()[1]) * 4096)
            sleep(0.001)


def grown(index: SlicedPdq, rng: np.random.Generator, rows: int) -> None:
    """Add random codes up to so many rows."""
    while (missing := rows - len(index)) > 0:
        index.add(rng.bytes(32 * min(CHUNK, missing)))


def merge(index: SlicedPdq) -> int:
    """All upkeep; how many slices were built."""
    count = 1
    while index.tend():
        count += 1
    return count


def weigh(entries: int) -> SlicedPdq:
    """Print what an index weighs."""
    rng, index, before = np.random.default_rng(1), SlicedPdq(), resident()
    started = perf_counter()
    grown(index, rng, entries)
    added = perf_counter() - started
    started = perf_counter()
    with Peak() as first:
        count = merge(index)
    spent = perf_counter() - started
    steady = resident() - before
    print(f"{entries:,} entries added in {added:.1f} s; {count} slices in {spent:.1f} s")
    print(f"{steady / entries:.1f} bytes an entry; peak of the first build {(first.bytes - before) / steady:.3f}")
    for share in (33, 12):  # not enough to be merged, and enough
        grown(index, rng, entries + entries // share)
        with Peak() as merging:
            count = merge(index)
        after = resident() - before
        print(
            f"{entries // share:,} more, {index._slices.reached - index._slices.covered:,} of them in young slices: "
            f"{count} times of upkeep, peak {(merging.bytes - before) / after:.3f} of what stays, "
            f"{after / len(index):.1f} bytes an entry"
        )
    wider = next(rows for rows in range(entries, 4 * entries, entries // 64) if layout_for(rows) != layout_for(entries))
    grown(index, rng, wider)
    with Peak() as changing:
        merge(index)
    after = resident() - before
    print(f"new layout at {wider:,}: peak {(changing.bytes - before) / after:.3f}, {after / wider:.1f} bytes an entry")
    return index


def latencies(entries: int, seconds: float) -> None:
    """Print percentiles of single searches, quiet and beside merges."""
    codes, queries = corpus(entries, 1)
    index = SlicedPdq()
    index.add(codes.tobytes())
    merge(index)
    asked = [query.tobytes() for query in queries]
    one = asked[0]
    sliced._behind = lambda rows, costs: 0
    merging, done = threading.Event(), threading.Event()

    def tend() -> None:
        while not done.is_set():
            if merging.wait(0.05):
                index.add(one)
                index.tend()

    thread = threading.Thread(target=tend)
    thread.start()
    times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    number, until = 0, perf_counter() + seconds
    while perf_counter() < until:
        for beside in (False, True):
            (merging.set if beside else merging.clear)()
            sleep(0.6 if not beside else 0.05)  # for the last merge to end, and for the first one to begin
            stop = perf_counter() + TURN
            while (now := perf_counter()) < stop:
                spent = thread_time()
                index.search(asked[number % len(asked)], DESIGN_RADIUS)
                times[beside].append(((perf_counter() - now) * 1e6, (thread_time() - spent) * 1e6))
                number += 1
    done.set()
    thread.join()
    for which, meaning in enumerate(("clock", "CPU")):
        for share in (50, 99):
            quiet, busy = (float(np.percentile([one[which] for one in times[key]], share)) for key in (False, True))
            print(f"{meaning} p{share} quiet {quiet:.0f} us, beside merges {busy:.0f} us, ratio {busy / quiet:.2f}")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    weigh(given.entries)
    latencies(given.entries, given.seconds)


if __name__ == "__main__":
    main()
