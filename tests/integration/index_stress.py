"""A writer, a tender and searchers on one index, with an extension built somewhere else. A program of its own.

    python -m tests.integration.index_stress EXTENSION [--torn]

Exits with 1 where an answer was wrong; what a sanitizer finds ends the program its own way. `--torn` sorts rows into
the buckets that searches read, which no sanitizer for threads may pass over.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import sys
import threading
from typing import Any

import numpy as np

ADDS = 1200
PLANTED = 400


def load(path: str) -> Any:
    """The extension in this file, in the place of the installed one."""
    name = "hashweir.index._native"
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extension")
    parser.add_argument("--torn", action="store_true")
    given = parser.parse_args()
    native = load(given.extension)
    # Only now: whoever imports an index first decides on the extension.
    from hashweir.index.layouts import Costs
    from hashweir.index.sliced import SlicedPdq
    from hashweir.index.tlsh import NativeTlsh

    assert sys.modules["hashweir.index._native"] is native
    rng = np.random.default_rng(5)
    pdq = SlicedPdq(Costs(probe=1e-6, candidate=1e-6, smallest=1), shift=9)
    lsh = NativeTlsh(shift=9)
    codes, values = rng.integers(0, 256, (PLANTED, 32), np.uint8), rng.integers(0, 256, (PLANTED, 35), np.uint8)
    pdq.add(codes.tobytes())
    lsh.add(values.tobytes())
    while pdq.tend():
        pass
    done, wrong = threading.Event(), []

    def look(index: Any, known: Any, radius: int) -> None:
        expected = set(range(0, PLANTED, 10))
        while not done.is_set():
            found = index.search(known[::10].tobytes(), radius)
            if set(found.row[found.distance == 0].tolist()) != expected:
                wrong.append(found)

    def tend() -> None:
        while not done.is_set():
            pdq.tend()
            if given.torn:
                one = pdq._slices.all[0]
                codes_now = pdq._rows.now.columns[0]
                native.build(codes_now, 9, 0, PLANTED, *one.layout, one.starts, one.rows)

    threads = [
        threading.Thread(target=look, args=(pdq, codes, 31)),
        threading.Thread(target=look, args=(pdq, codes, 64)),
        threading.Thread(target=look, args=(lsh, values, 40)),
        threading.Thread(target=tend),
    ]
    for thread in threads:
        thread.start()
    for number in range(ADDS):
        row = pdq.add(rng.bytes(32 * (1 + number % 3)))
        lsh.add(rng.bytes(35))
        if number % 3 == 0:
            pdq.withdraw(row)
            lsh.withdraw(PLANTED + number)
        if number < PLANTED and number % 10:
            pdq.withdraw(number)
    done.set()
    for thread in threads:
        thread.join()
    return bool(wrong) and not given.torn


if __name__ == "__main__":
    sys.exit(main())
