"""How fast scan processes are alone: no stream, no sandbox, no lookup. Prints one JSON object.

    python -m tests.bench.scan_alone FOLDER [PROCESSES] [SECONDS]

Each process scans the folder's files round and round, from memory; the media type is told by the file's name. Load
tests run this as the peer of a deployment, over the files of their uploads.
"""

from __future__ import annotations

import json
import mimetypes
import multiprocessing
import os
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from hashweir.model import Limits
from hashweir.pipeline.scan import prepare


def work(
    folder: str, seconds: float, first: int, ready: Barrier, done: multiprocessing.Queue[tuple[int, float]]
) -> None:
    """Scan for so long, beginning with file `first`; tell how many, and the processor seconds it took."""
    files = [(path.read_bytes(), mimetypes.guess_type(path.name)[0]) for path in sorted(Path(folder).iterdir())]
    scan, count = prepare(Limits()), 0
    ready.wait()
    began_cpu, until = time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        scan(*files[(first + count) % len(files)])
        count += 1
    done.put((count, time.process_time() - began_cpu))


def main(folder: str, processes: int, seconds: float) -> None:
    """Start the processes together, add up."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Barrier(processes), context.Queue()
    # Apart in the files, so that no two processes work on the same one in step.
    running = [context.Process(target=work, args=(folder, seconds, 37 * n, ready, done)) for n in range(processes)]
    for one in running:
        one.start()
    counts, cpu = zip(*(done.get(timeout=seconds + 60) for _ in running), strict=True)
    for one in running:
        one.join()
    total = sum(counts)
    said = {"processes": processes, "per_second": total / seconds, "cpu_ms": 1000 * sum(cpu) / total, "uploads": total}
    print(json.dumps(said))


if __name__ == "__main__":
    # One thread each, as in a scan process.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2, float(sys.argv[3]) if len(sys.argv) > 3 else 5.0)
