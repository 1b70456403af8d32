"""Scan processes under what the world sends: floods of copies, long jobs, leaks, bombs, spoilt files."""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hashweir.adapters.sandbox import ProcessSandbox
from hashweir.adapters.sandbox_cache import ScanCache
from hashweir.adapters.sandbox_lanes import Lanes
from hashweir.errors import HashweirError
from hashweir.hashing import exact
from hashweir.model import Record, Upload
from hashweir.pipeline.emit import Emitter
from hashweir.pipeline.match import Matcher
from tests.bench import fuzz_scan
from tests.integration.test_sandbox_faults import Pool, running, upload
from tests.pictures import chunk, encode, giant_claims, one_bit_bomb, photo, png
from tests.unit.pipeline.test_match import Flickering
from tests.unit.pipeline.views import ListView, make_entry, make_set

REAL = "hashweir.pipeline.scan:prepare"
TEXT = b"The quick brown fox jumps over the lazy dog, and then it runs off into the forest to sleep."


async def test_copies_get_the_verdict_of_the_first() -> None:
    """The law of the cache: it changes no verdict, whatever type a copy was declared with."""
    picture, tiny = encode(photo(size=(90, 70)), "PNG"), encode(photo(size=(9, 9)), "GIF")
    contents = (picture, tiny, picture[:4000], TEXT, b"short", b"\xff", b"")
    types = ("image/png", "IMAGE/PNG; a=b", "image/gif", "image/x", "text/plain", "text/html", "video/mp4", None)
    uploads = [Upload(source="s", id="u", content=one, media_type=each) for one in contents for each in types]
    known = Flickering(ListView([make_entry(exact.sha256(picture).hex(), "sha256")], {"own": make_set()}))
    emitter = Emitter(worker="w", versions={})
    record = Record(topic="hashweir.uploads", partition=0, offset=3, timestamp_ms=5, value=b"abc")

    async def bodies(sandbox: ProcessSandbox) -> list[list[bytes]]:
        with ThreadPoolExecutor(1) as threads:
            matcher = Matcher(sandbox=sandbox, known=known, usable_view=known.usable, threads=threads)
            judged = [(await matcher.match(one), one) for one in uploads]
        return [[message.value for message in emitter.messages(each, one, record)] for each, one in judged]

    asked: Counter[bool] = Counter()
    async with running(scan=REAL, count=1) as plain:
        expected = await bodies(plain.sandbox)
    async with running(scan=REAL, count=1, cache=ScanCache(99), when_asked=lambda hit: asked.update([hit])) as caching:
        assert await bodies(caching.sandbox) == expected
        first = asked[True]
        assert await bodies(caching.sandbox) == expected
    assert first > 0  # one type, written in two ways
    assert asked[True] > 2 * first


async def test_a_flood_of_copies_is_scanned_once_for_each_process() -> None:
    asked: Counter[bool] = Counter()
    async with running(scan=REAL, cache=ScanCache(9), when_asked=lambda hit: asked.update([hit])) as pool:
        picture = encode(photo(size=(300, 300)), "JPEG")
        results = await asyncio.gather(*(pool.sandbox.scan(upload(picture)) for _ in range(200)))
        assert len({(result.fingerprints, result.reason) for result in results}) == 1
        assert asked[False] <= 2
        assert asked.total() == 200


async def test_a_long_job_never_blocks_the_short_ones() -> None:
    short, long = Pool(count=1), Pool(count=1, deadline_s={"image": 0.2, "video": 60.0})
    lanes = Lanes(short.sandbox, long.sandbox, {"video", "document"})
    await lanes.start()
    try:
        video = asyncio.create_task(lanes.scan(upload(b"hang", "video/mp4")))
        for _ in range(20):
            assert (await lanes.scan(upload(b"fine"))).reason is None
        assert not video.done()
        video.cancel()
        await asyncio.wait([video])
    finally:
        await lanes.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        await lanes.scan(upload(b"fine", "application/pdf"))


async def test_a_lane_that_does_not_start_takes_the_other_with_it() -> None:
    good, bad = Pool(), Pool(scan="tests.servers.hostile_scan:fail")
    with pytest.raises(HashweirError, match="codec"):
        await Lanes(good.sandbox, bad.sandbox, {"video"}).start()
    assert good.sandbox.pids == ()


async def test_a_process_that_keeps_too_much_memory_is_replaced() -> None:
    async with running(count=1, recycle_bytes=150 * 2**20) as pool:
        first = pool.sandbox.pids
        await pool.sandbox.scan(upload(b"try keep 1000000"))
        assert not pool.ends
        await pool.sandbox.scan(upload(b"try keep 200000000"))
        await pool.back_to(1, without=set(first))
        assert pool.ends == {"recycled": 1}


def _deflated(name: bytes, head: bytes, size: int) -> bytes:
    """A chunk of a PNG that unpacks to `size` bytes."""
    return chunk(name, head + zlib.compress(bytes(size), 9))


def bombs() -> dict[str, bytes]:
    row = bytes(16_000 // 8 + 1)
    webp = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (7_000).to_bytes(3, "little") * 2
    return {
        "png of one bit": one_bit_bomb(),
        "png under the limit": png(16_000, 3_000, bits=1, body=row * 3_000),
        "png text": png(8, 8, body=bytes(72), extra=_deflated(b"zTXt", b"k\0\0", 500_000_000) * 3),
        "png utf-8 text": png(8, 8, body=bytes(72), extra=_deflated(b"iTXt", b"k\0\1\0\0\0", 500_000_000) * 3),
        "png profile": png(8, 8, body=bytes(72), extra=_deflated(b"iCCP", b"k\0\0", 500_000_000)),
        "png too much data": png(8, 8, body=bytes(300_000_000)),
        "gif": b"GIF89a" + struct.pack("<HHBBB", 7_000, 7_000, 0x80, 0, 0) + bytes(6) + b"\x2c" + bytes(4)
        + struct.pack("<HHB", 7_000, 7_000, 0) + b"\x02" + b"\xff\x84" * 100 + b"\0\x3b",
        "webp": b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
        "jpeg": encode(photo(size=(64, 64)), "JPEG", progressive=True).replace(
            struct.pack(">HH", 64, 64), struct.pack(">HH", 7_000, 7_000), 1
        ),
        **{f"claims of a {name}": content for name, content in giant_claims().items()},
    }  # fmt: skip


@pytest.mark.slow
async def test_bombs_stay_within_memory_and_time() -> None:
    limit, deadline_s = 2**30, 20.0
    async with running(scan=REAL, count=1, memory_bytes=limit, deadline_s={"image": deadline_s}) as pool:
        for name, content in bombs().items():
            assert len(content) < 2**22
            started = time.perf_counter()
            result = await pool.sandbox.scan(upload(content))
            took = time.perf_counter() - started
            assert took < result.attempts * (deadline_s + 1), name
            assert result.reason or result.checked["pdq"], name
            await pool.back_to(1)
            for pid in pool.sandbox.pids:
                status = (await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)).splitlines()
                peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmPeak"))
                assert peak <= 1.1 * limit, name
            print(f"{name}: {len(content)} bytes, {took:.2f} s, {result.reason or result.checked['pdq']}")
        assert set(pool.ends) <= {"memory"}


@pytest.mark.slow
async def test_spoilt_files_end_in_a_fingerprint_or_a_reason() -> None:
    """The small run of tests/bench/fuzz_scan.py."""
    report = await fuzz_scan.run(inputs=800, seed=3, processes=2)
    assert report.sound, vars(report)
