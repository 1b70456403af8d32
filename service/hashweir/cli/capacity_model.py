"""What a load needs, from what one upload of each medium and one entry were measured to cost.

Processor times count hashweir's own processes on cores as busy and as fast as those of the measurement; decision 0016
has the machine, the commands and the check against runs that the constants do not come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from hashweir.config import Config

UTILISATION: Final = 0.7
"""Share of the cores that planned load may take: the rate at which latency is measured, and room to catch up."""
SCAN_PROCESSES: Final = 8
"""Most scan processes of one worker, where `scan.processes` leaves it open."""
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
ENTRY_MOST_BYTES: Final = 210
"""Of a worker at its worst: 1.12 of the index while it is merged (decision 0010), rows twice while they are compacted
(0011)."""
ENTRY_STORE_BYTES: Final = 120
"""Of Redis or Valkey, 10 M entries: decision 0002, `python -m tests.bench.store`."""
STORE_FIXED_MIB: Final = 12
"""Streams and empty shards of 16 shards: decision 0002."""
SCRUB_CORE_S: Final = 0.36
"""Of a worker, to compare a million entries once: 978 chunks of 290 us, and a round is over in 0.8 of its time."""
SCRUB_STORE_CORE_S: Final = 0.56
"""Of the store, the same for one worker, at 460 us a chunk. Each is the dearer case of decision 0011: for the store
that it digests (it is on another machine, a Redis 7.0), for a worker that it gets the chunks (it is on this one)."""
STORE_CORES: Final = 0.5
"""What comparing may take of the one core that runs all commands of a Redis or Valkey: a worker that starts, imports
and changes need the rest."""
LONGEST_ROUND_S: Final = 86_400
"""With longer rounds silent damage would go unseen for days."""
WORKER_MIB: Final = 90
"""A worker with few entries, without what is in flight: the load tests' `worker MiB`."""
COPIES: Final = 2
"""Of what is in flight or fetched: as much again is in the buffers of the client, or on its way to a scan process."""
SCAN_MIB: Final = 160
"""One scan process, as usual: the load tests' `scan MiB`, divided by their number."""
LOOK_BACK_BYTES: Final = 230
"""An upload that is remembered (`look_back.uploads`): decision 0014."""
CACHED_BYTES: Final = 2048
"""A scan that is remembered (`scan.cache_scans`)."""


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
    memory_usual_mib_per_worker: int
    memory_limit_mib_per_worker: int
    partitions: int
    store_mib: int
    store_memory_mib: int
    store_cores: float
    scrub_round_seconds: float
    stream_mb_per_second: float
    stream_gib_per_day: float
    constants: dict[str, object]


def needs(
    uploads_per_second: float,
    entries: int,
    mix: Mapping[str, float],
    *,
    utilisation: float = UTILISATION,
    config: Config | None = None,
) -> Needs:
    """What this rate of this mix against so many entries needs, of workers that are configured like this.

    `mix` gives relative shares of the media in `COSTS`. Where a worker or the store could not compare all entries
    within `index.scrub_round_seconds`, the plan has the shortest round, in whole seconds, in which they can. Raises
    KeyError for another medium, ValueError where no share or no rate is above 0, or no round would do.
    """
    config = config or Config()
    whole = sum(mix.values())
    if not (0 < whole < math.inf and min(mix.values()) >= 0 and 0 < uploads_per_second < math.inf):
        raise ValueError("rate and shares have to be finite and above 0")
    if not (WORKER_CORES < utilisation <= 1 and entries >= 0):
        raise ValueError(f"the utilisation lies between {WORKER_CORES} and 1, and there are no fewer entries than 0")
    shares = {name: share / whole for name, share in mix.items()}
    main = uploads_per_second * sum(share * COSTS[name].worker_ms for name, share in shares.items()) / 1000
    scan = uploads_per_second * sum(share * COSTS[name].scan_ms for name, share in shares.items()) / 1000
    most = config.scan.processes or SCAN_PROCESSES
    round_s = config.index.scrub_round_seconds
    while True:
        # The worker's own process runs on one core, whatever it has; every worker compares all entries.
        idle = WORKER_CORES + SCRUB_CORE_S * entries / 1e6 / round_s
        if utilisation > idle:
            workers = max(1, math.ceil(main / (utilisation - idle)), math.ceil(scan / utilisation / most))
            store_cores = SCRUB_STORE_CORE_S * entries / 1e6 * workers / round_s
            if store_cores <= STORE_CORES:
                break
        round_s = math.floor(round_s) + 1
        if round_s > LONGEST_ROUND_S:
            raise ValueError(
                f"comparing {entries:,} entries takes too much of the store's core or of a worker's, with any"
                " index.scrub_round_seconds up to a day"
            )
    processes = config.scan.processes or max(1, math.ceil(scan / utilisation / workers))
    kb = sum(share * COSTS[name].kb for name, share in shares.items())
    usual, limit = memory_mib(entries, processes, config)
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
        memory_usual_mib_per_worker=math.ceil(usual),
        memory_limit_mib_per_worker=math.ceil(limit),
        partitions=max(6, GROWTH * workers),
        store_mib=math.ceil(store),
        # A rewrite of the append-only file copies pages that change meanwhile: room for as much again.
        store_memory_mib=math.ceil(2 * store),
        store_cores=round(store_cores, 3),
        scrub_round_seconds=round_s,
        stream_mb_per_second=round(uploads_per_second * kb / 1000, 3),
        stream_gib_per_day=round(uploads_per_second * kb * 1000 * 86_400 / 2**30, 1),
        constants={
            "costs": COSTS,
            "worker_cores": WORKER_CORES,
            "entry_bytes": ENTRY_BYTES,
            "entry_store_bytes": ENTRY_STORE_BYTES,
            "entry_most_bytes": ENTRY_MOST_BYTES,
            "scrub_core_s_per_million": SCRUB_CORE_S,
            "scrub_store_core_s_per_million": SCRUB_STORE_CORE_S,
            "worker_mib": WORKER_MIB,
            "scan_mib": SCAN_MIB,
            "look_back_bytes": LOOK_BACK_BYTES,
        },
    )


def memory_mib(entries: int, processes: int, config: Config) -> tuple[float, float]:
    """Memory of a worker with so many entries and scan processes, in MiB: as usual, and the most that it may come to.

    The first is what to ask for. The second is a limit that kills no worker for what its configuration allows: each
    scan process at its fence, `scan.memory_bytes`, and all else at its bound. Not added is the last upload of a process
    that is replaced, beside its successor's first: of pictures that are allowed, the largest takes 1.2 GiB of the 2.
    """
    scan, back = processes + config.scan.long_processes, config.look_back
    usual = (
        COPIES * config.worker.in_flight_bytes
        + min(LOOK_BACK_BYTES * back.uploads, back.most_bytes)
        + ENTRY_BYTES * entries
    )
    fetched = config.media.references_at_once * config.limits.file_bytes if config.media.file_root else 0
    limit = (
        COPIES * (config.worker.in_flight_bytes + fetched)
        + CACHED_BYTES * config.scan.cache_scans
        + (back.most_bytes if back.uploads else 0)
        + ENTRY_MOST_BYTES * entries
        + scan * config.scan.memory_bytes
    )
    return WORKER_MIB + scan * SCAN_MIB + usual / MIB, WORKER_MIB + limit / MIB
