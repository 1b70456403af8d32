"""What the fences and the process around a scan cost: `python -m tests.bench.sandbox [--pairs N] [--json]`.

Three arms do the same work on the same bytes, in turn and in shuffled order, so that load and caches meet all alike:
`fenced` (a scan process as it is), `bare` (the same process without any fence), `here` (a call in this process).
All stay on one processor, for two are seldom equally fast where others share the machine, and only one arm has work.
Each arm is run twice in a row and the second counts as `warm`: the first pays for what the other arms threw out of
the caches. `wall` is there and back; `cpu` is processor time of both sides together, from the scheduler's own count
in nanoseconds, which other work on the machine disturbs far less. Ratios are of neighbours in time: medians, with
quartiles. `0.5 to 2 Mpx` is photos of such sizes, one after the other, as uploads are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from hashweir.adapters.sandbox_frames import Setup
from hashweir.adapters.sandbox_link import Arena, Link
from hashweir.adapters.sandbox_process import ENVIRONMENT, ScanProcess, Work, start_process
from hashweir.hashing import exact
from hashweir.model import Limits
from hashweir.pipeline.scan import ScanFunction, prepare
from tests.pictures import encode, photo

SIZES = {
    "64 x 64": [(64, 64)],
    "512 x 512": [(512, 512)],
    "1280 x 720": [(1280, 720)],
    "1920 x 1080": [(1920, 1080)],
    "0.5 to 2 Mpx": [(816, 612), (1000, 1000), (1333, 1000), (1632, 1224)],
}
STATES = ("cold", "warm")
CLOCKS = ("wall", "cpu")
SETUP = Setup(scan="hashweir.pipeline.scan:prepare", path=(), limits=Limits(), memory_bytes=2**31)
BARE = """
import sys
from hashweir.adapters import sandbox_child
sandbox_child.lock_down = lambda memory_bytes: ((), {})
sandbox_child.main(*(int(one) for one in sys.argv[1:4]))
"""


async def bare_process() -> ScanProcess:
    """A scan process that never locks itself down."""
    ours, theirs = socket.socketpair()
    errors, arena = os.memfd_create("stderr"), Arena()
    with theirs:
        popen = subprocess.Popen(  # noqa: ASYNC220, as the original does
            [sys.executable, "-I", "-c", BARE, str(theirs.fileno()), str(os.getpid()), str(arena.descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=(theirs.fileno(), arena.descriptor),
            env=ENVIRONMENT,
            cwd="/",
        )
    arena.handed_over()
    process = ScanProcess(popen, Link(ours), arena, errors)
    await process.prepare(SETUP)
    return process


async def measure(pairs: int, seed: int) -> dict[str, Any]:
    """Seconds of every arm and the ratios between them, by size of picture."""
    fenced, bare = await start_process(SETUP), await bare_process()
    try:
        scan = prepare(Limits())
        chance = random.Random(seed)
        found: dict[str, Any] = {"machine": platform.platform(), "pairs": pairs, "fences": fenced.fences}
        for name, sizes in SIZES.items():
            contents = [encode(photo(size=size), "JPEG") for size in sizes]
            found[name] = await _measure(fenced, bare, scan, contents, pairs, chance)
        return found
    finally:
        await fenced.end()
        await bare.end()


async def _measure(
    fenced: ScanProcess,
    bare: ScanProcess,
    scan: ScanFunction,
    contents: Sequence[bytes],
    pairs: int,
    chance: random.Random,
) -> dict[str, Any]:
    jobs: list[Work] = [(content, "image/jpeg", (), exact.sha256(content)) for content in contents]

    async def there(process: ScanProcess) -> None:
        for job in jobs:
            await process.run([job], 60)

    async def here() -> None:
        for content in contents:
            scan(content, "image/jpeg", ())

    arms: dict[str, tuple[Callable[[], Awaitable[object]], int | None]] = {
        "fenced": (lambda: there(fenced), fenced.pid),
        "bare": (lambda: there(bare), bare.pid),
        "here": (here, None),
    }
    took: dict[tuple[str, str, str], list[float]] = {(a, b, c): [] for a in arms for b in STATES for c in CLOCKS}
    for number in range(pairs + 3):
        for arm in chance.sample(list(arms), len(arms)):
            work, pid = arms[arm]
            for state in STATES:
                used, started = _processor_s(pid), time.perf_counter()
                await work()
                wall = time.perf_counter() - started
                if number >= 3:
                    took[arm, state, "wall"].append(wall)
                    took[arm, state, "cpu"].append(_processor_s(pid) - used)
    ratios = {
        f"{one} / {other}, {state}, {clock}": _spread(
            [a / b for a, b in zip(took[one, state, clock], took[other, state, clock], strict=True)]
        )
        for one, other in (("fenced", "bare"), ("bare", "here"), ("fenced", "here"))
        for state in STATES
        for clock in CLOCKS
    }
    return {
        "ms": {" ".join(of): round(1e3 * statistics.median(all_), 2) for of, all_ in took.items()},
        "ratios": ratios,
    }


def _processor_s(pid: int | None) -> float:
    """Seconds on a processor, of this process and of the main thread of another, which does all of its work."""
    other = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 if pid else 0.0
    return other + time.process_time()


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 3), "quartiles from": round(low, 3), "to": round(high, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = asyncio.run(measure(options.pairs, options.seed))
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(found["machine"], f"{found['pairs']} pairs, seed {options.seed}, fences: {', '.join(found['fences'])}")
    for name in SIZES:
        print(f"\n{name}\n  ms  ", ", ".join(f"{arm} {ms}" for arm, ms in found[name]["ms"].items()))
        for pair, spread in found[name]["ratios"].items():
            print(f"  {pair:28} {spread['median']:.3f}  ({spread['quartiles from']:.3f} to {spread['to']:.3f})")


if __name__ == "__main__":
    main()
