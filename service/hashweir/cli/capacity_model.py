"""What a load needs, from what one upload of each medium and one entry were measured to cost.

Processor times count hashweir's own processes on cores as busy and as fast as those of the measurement; decision 0016
has the machine, the commands and the check against runs that the constants do not come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

UTILISATION: Final = 0.7
"""Share of the cores that planned load may take: the rate at which latency is measured, and room to catch up."""
SCAN_PROCESSES: Final = 8
"""Most scan processes of one worker (`scan.processes`)."""
GROWTH: Final = 2
"""Partitions per worker: the group can double before a topic has to grow, which would move keys."""
MIB: Final = 2**20


class Cost(msgspec.Struct, frozen=True):
    """What one upload of a medium costs: processor time of the worker and of its scan processes, and its bytes."""

    worker_ms: float
    scan_ms: float
    kb: float


COSTS: Final[Mapping[str, Cost]] = {
    "photo": Cost(1.5, 6.2, 212),
    "post": Cost(0.4, 0.24, 1.0),
    "pdf": Cost(1.4, 8.6, 6),
    "clip": Cost(3.4, 43.0, 54),
}
"""Per upload, less WORKER_CORES: `python -m loadtests run steady` and `text` at 70 % of the sustained rate (while more
wait, an upload costs less), `pdf` and `clip` while saturated. A photo is a JPEG of 0.5 to 2 megapixels, a post a text
of 1 kB, a PDF one to five pages of text, a clip 5 s of 640 by 360."""
WORKER_CORES: Final = 0.04
"""What a worker takes whatever comes: runs of `steady` at 24 and at 65 photos a second, on a line."""
ENTRY_BYTES: Final = 152
"""Of a worker: index 113 (`python -m tests.bench.index_upkeep`, 10 M) and rows 39 (`tests.bench.cold_start`, 10 M)."""
ENTRY_STORE_BYTES: Final = 120
"""Of Redis or Valkey, 10 M entries: decision 0002, `python -m tests.bench.store`."""
STORE_FIXED_MIB: Final = 12
"""Streams and empty shards of 16 shards: decision 0002."""
SCRUB_CORES: Final = 0.035
"""Of a worker, per million entries, where each chunk is compared every 10 s: `python -m tests.bench.cold_start`."""
SCRUB_STORE_CORES: Final = 0.027
"""Of the store, per million entries and worker."""
WORKER_MIB: Final = 90
"""A worker with few entries, without what is in flight: the load tests' `worker MiB`."""
FLIGHT_MIB: Final = 2 * 64
"""`worker.in_flight_bytes`, and as much again in the client's buffers."""
SCAN_MIB: Final = 160
"""One scan process: the load tests' `scan MiB`, divided by their number."""
LOOK_BACK_BYTES: Final = 230
"""An upload that is remembered (`look_back.uploads`): decision 0014."""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What to provide. Cores and memory of workers are totals over all of them unless they say `per_worker`."""

    uploads_per_second: float
    entries: int
    mix: dict[str, float]
    utilisation: float
    worker_cores: float
    scan_cores: float
    cores: float
    workers: int
    scan_processes_per_worker: int
    memory_mib_per_worker: int
    partitions: int
    store_mib: int
    store_memory_mib: int
    store_cores: float
    stream_mb_per_second: float
    stream_gib_per_day: float
    constants: dict[str, object]


def needs(
    uploads_per_second: float,
    entries: int,
    mix: Mapping[str, float],
    *,
    utilisation: float = UTILISATION,
    look_back: int = 1_000_000,
) -> Needs:
    """What this rate of this mix against so many entries needs.

    `mix` gives relative shares of the media in `COSTS`. Raises KeyError for another medium, ValueError where no share
    or no rate is above 0.
    """
    whole = sum(mix.values())
    if not (0 < whole < math.inf and min(mix.values()) >= 0 and 0 < uploads_per_second < math.inf):
        raise ValueError("rate and shares have to be finite and above 0")
    if not (0 < utilisation <= 1 and entries >= 0):
        raise ValueError("the utilisation lies between 0 and 1, and there are no fewer entries than 0")
    shares = {name: share / whole for name, share in mix.items()}
    main = uploads_per_second * sum(share * COSTS[name].worker_ms for name, share in shares.items()) / 1000
    scan = uploads_per_second * sum(share * COSTS[name].scan_ms for name, share in shares.items()) / 1000
    idle = WORKER_CORES + SCRUB_CORES * entries / 1e6
    # The worker's own process runs on one core, whatever it has; every worker scrubs all entries.
    spare = utilisation - idle
    if spare <= 0:
        raise ValueError(f"comparing {entries:,} entries takes {idle:.2f} cores: set index.scrub_round_seconds higher")
    workers = max(1, math.ceil(main / spare), math.ceil(scan / utilisation / SCAN_PROCESSES))
    processes = max(1, math.ceil(scan / utilisation / workers))
    kb = sum(share * COSTS[name].kb for name, share in shares.items())
    memory = (
        WORKER_MIB + FLIGHT_MIB + processes * SCAN_MIB + (ENTRY_BYTES * entries + LOOK_BACK_BYTES * look_back) / MIB
    )
    store = STORE_FIXED_MIB + ENTRY_STORE_BYTES * entries / MIB
    return Needs(
        uploads_per_second=uploads_per_second,
        entries=entries,
        mix=shares,
        utilisation=utilisation,
        worker_cores=round(main + idle * workers, 3),
        scan_cores=round(scan, 3),
        cores=round((main + scan + idle * workers) / utilisation, 2),
        workers=workers,
        scan_processes_per_worker=processes,
        memory_mib_per_worker=math.ceil(memory),
        partitions=max(6, GROWTH * workers),
        store_mib=math.ceil(store),
        # A rewrite of the append-only file copies pages that change meanwhile: room for as much again.
        store_memory_mib=math.ceil(2 * store),
        store_cores=round(SCRUB_STORE_CORES * entries / 1e6 * workers, 3),
        stream_mb_per_second=round(uploads_per_second * kb / 1000, 3),
        stream_gib_per_day=round(uploads_per_second * kb * 1000 * 86_400 / 2**30, 1),
        constants={
            "costs": COSTS,
            "worker_cores": WORKER_CORES,
            "entry_bytes": ENTRY_BYTES,
            "entry_store_bytes": ENTRY_STORE_BYTES,
            "scrub_cores_per_million": SCRUB_CORES,
            "worker_mib": WORKER_MIB,
            "scan_mib": SCAN_MIB,
            "look_back_bytes": LOOK_BACK_BYTES,
        },
    )
