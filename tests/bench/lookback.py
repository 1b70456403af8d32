"""What the look-back's ring costs: memory per upload, time to remember one, time per new entry, saving and loading.

    python -m tests.bench.lookback [--uploads 1000000] [--seed 1]

Half of the new entries are within 31 bits of some upload. Every answer is compared with numpy's brute force
(`index.flat`) over the same codes in the same run; the ratio says how much faster the ring's own search is. Times are
processor time of one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hashweir.index.flat import FlatPdq
from hashweir.model import Fingerprint, Kind, Scan, Upload
from hashweir.pipeline.ring import Ring, near_many, near_one
from hashweir.pipeline.ring_block import decode, encode

RADIUS = 31
ENTRIES = 40
BULK = (1_000, 10_000)
CHECKED: dict[Kind, str] = {"pdq": "ok", "sha256": "ok", "md5": "ok"}


def resident() -> int:
    """Bytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def item(rng: random.Random, number: int) -> tuple[Upload, Scan]:
    """A picture as it comes over Kafka: an id of 36 characters, a token, three fingerprints."""
    sha256 = hashlib.sha256(number.to_bytes(8, "big")).hexdigest()
    prints = (
        Fingerprint(
            kind="pdq", form="canonical", recipe="pdq/canonical/1", value=rng.randbytes(32).hex(), quality=number % 101
        ),
        Fingerprint(kind="sha256", form="canonical", recipe="sha256/canonical/1", value=sha256),
        Fingerprint(kind="md5", form="canonical", recipe="md5/canonical/1", value=sha256[:32]),
    )
    name = f"{sha256[:8]}-{sha256[8:12]}-{sha256[12:16]}-{sha256[16:20]}-{sha256[20:32]}"
    upload = Upload(source="a-platform", id=name, media_type="image/jpeg", account=sha256[:24], surface="post")
    return upload, Scan(media_class="image", media_type="image/jpeg", fingerprints=prints, checked=dict(CHECKED))


def timed(call: Callable[[], object]) -> float:
    """Processor seconds of one call, for the machine may be shared."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def entries(rng: random.Random, codes: NDArray[np.uint8], count: int) -> list[bytes]:
    """New codes, every second one near an upload."""
    found = []
    for number in range(count):
        value = bytearray(rng.randbytes(32))
        if number % 2:
            value = bytearray(codes[rng.randrange(len(codes))].tobytes())
            for bit in rng.sample(range(256), rng.randrange(RADIUS + 1)):
                value[bit // 8] ^= 1 << bit % 8
        found.append(bytes(value))
    return found


def main() -> None:
    """Print one line per figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uploads", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    ring, before, adding = Ring(asked.uploads, 2**40), resident(), 0.0
    for number in range(asked.uploads):
        upload, scan = item(rng, number)
        began = time.thread_time()
        ring.add(upload, scan, at_ms=number, said=number)
        adding += time.thread_time() - began
    print(f"uploads {len(ring):,}, seed {asked.seed}")
    print(
        f"memory per upload: {(resident() - before) / len(ring):.0f} B resident, {ring.bytes / len(ring):.0f} B counted"
    )
    print(f"to remember an upload: {adding / len(ring) * 1e6:.1f} us")

    tables = ring.tables()
    codes = np.concatenate([block.by_kind["pdq"].values for block in tables])
    flat = FlatPdq()
    flat.add(codes.tobytes())
    ours, brute = [], []
    for value in entries(rng, codes, ENTRIES):
        ours.append(timed(partial(near_one, tables, "pdq", value, RADIUS)))
        brute.append(timed(partial(flat.search, value, RADIUS)))
        assert near_one(tables, "pdq", value, RADIUS).tolist() == flat.search(value, RADIUS).row.tolist()
    middle, other = statistics.median(ours), statistics.median(brute)
    print(
        f"one new pdq entry: {middle * 1e3:.2f} ms, p95 {sorted(ours)[-2] * 1e3:.2f} ms; numpy {other / middle:.1f} x"
    )
    kinds: tuple[Kind, ...] = ("sha256", "md5")
    for kind in kinds:
        some = [block.by_kind[kind].values[0].tobytes() for block in tables[:ENTRIES]]
        took = [timed(partial(near_one, tables, kind, value, 0)) for value in some]
        print(f"one new {kind} entry: {statistics.median(took) * 1e3:.2f} ms")
    for count in BULK:
        joined = b"".join(entries(rng, codes, count))
        took_s = timed(partial(near_many, tables, "pdq", joined, RADIUS))
        print(f"{count:,} new pdq entries together: {took_s:.2f} s, {took_s / count * 1e3:.3f} ms each")

    blocks, _ = ring.changed()
    began = time.thread_time()
    files = [encode(block.parts()) for block in blocks]
    saving = time.thread_time() - began
    began = time.thread_time()
    after = Ring(asked.uploads, 2**40)
    after.adopt([decode(file) for file in files])
    reading, size = time.thread_time() - began, sum(map(len, files)) / 2**20
    print(f"all {size:.0f} MiB: packed in {saving:.2f} s, read in {reading:.2f} s")
    assert len(after) == len(ring)


if __name__ == "__main__":
    main()
