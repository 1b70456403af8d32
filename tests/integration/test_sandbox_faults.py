"""Scan processes that crash, hang, eat memory, lie or vanish. The parent and the neighbours go on.

Long because each way to go wrong is a story of its own, told on the same pool.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashweir.adapters.sandbox import ProcessSandbox
from hashweir.adapters.sandbox_frames import BadReply, unpack_ready, unpack_replies
from hashweir.adapters.sandbox_process import Why
from hashweir.errors import REASONS, HashweirError
from hashweir.hashing import exact
from hashweir.model import Limits, Scan, Upload
from tests.pictures import FORMATS, damaged, encode, photo

ROOT = str(Path(__file__).parents[2])
ZERO = {"kind": "md5", "form": "canonical", "recipe": "md5/canonical/1", "value": "0" * 32}


def upload(content: bytes, media_type: str = "image/png") -> Upload:
    return Upload(source="test", id="1", content=content, media_type=media_type)


class Pool:
    def __init__(self, **options: Any) -> None:
        self.ends: Counter[Why] = Counter()
        given: dict[str, Any] = {
            "scan": "tests.servers.hostile_scan:prepare",
            "path": (ROOT,),
            "count": 2,
            "limits": Limits(),
            "deadline_s": {"image": 15.0, "text": 0.3},
            "memory_bytes": 2**30,
            "when_ended": self._count,
        }
        self.sandbox = ProcessSandbox(**(given | options))
        self.counted = asyncio.Event()

    def _count(self, why: Why) -> None:
        self.ends[why] += 1
        self.counted.set()

    async def back_to(self, count: int, without: Set[int] = frozenset()) -> None:
        """Wait until so many processes are ready, none of them one of those."""
        async with asyncio.timeout(20):
            # The pool tells nobody that it is whole again.
            while len(self.sandbox.pids) != count or without & set(self.sandbox.pids):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Pool]:
    pool = Pool(**options)
    await pool.sandbox.start()
    try:
        yield pool
    finally:
        pids = pool.sandbox.pids
        async with asyncio.timeout(8):
            await pool.sandbox.stop()
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with running() as made:
        yield made


def require_failed(result: Scan, content: bytes, reason: str) -> None:
    assert result.reason == reason
    assert result.attempts == 2
    assert result.fingerprints == exact.fingerprints(content)
    assert {result.checked["sha256"], result.checked["md5"]} == {"ok"}
    assert {word for kind, word in result.checked.items() if kind not in ("sha256", "md5")} == {reason}


FAULTS: list[tuple[bytes, str, str, Why]] = [
    (b"segv", "image/png", "scan_died", "signal"),
    (b"signal 6", "image/png", "scan_died", "signal"),
    (b"signal 9", "image/png", "scan_died", "signal"),
    (b"exit 0", "image/png", "scan_died", "exit"),
    (b"exit 3", "image/png", "scan_died", "exit"),
    (b"raise", "image/png", "scan_died", "exit"),
    (b"hang", "text/plain", "scan_deadline", "deadline"),
    (b"spin", "text/plain", "scan_deadline", "deadline"),
    (b"mistake", "image/png", "scan_bad_reply", "bad_reply"),
    (b"memory 4000000000", "image/png", "scan_memory", "memory"),
    (b"send \x00\x01\x00\x01" + bytes(70_000), "image/png", "scan_bad_reply", "bad_reply"),
    (b"send \xff\xff\xff\xff", "image/png", "scan_bad_reply", "bad_reply"),
    (b"send \x00\x00\x00\x04junk", "image/png", "scan_bad_reply", "bad_reply"),
    (b"send \x00\x00\x00\x00", "image/png", "scan_bad_reply", "bad_reply"),
    (b"send \x00\x00\x00\x09half", "text/plain", "scan_deadline", "deadline"),
]


@pytest.mark.parametrize(("content", "media_type", "reason", "why"), FAULTS, ids=lambda value: str(value)[:20])
async def test_a_fault_is_tried_again_and_then_named(
    pool: Pool, content: bytes, media_type: str, reason: str, why: Why
) -> None:
    before = set(pool.sandbox.pids)
    require_failed(await pool.sandbox.scan(upload(content, media_type)), content, reason)
    assert pool.ends == {why: 2}
    await pool.back_to(2)
    assert len(before & set(pool.sandbox.pids)) == 1, "the neighbour was touched"
    assert (await pool.sandbox.scan(upload(b"fine"))).reason is None


async def test_a_process_that_hangs_up_and_lives_is_killed(pool: Pool) -> None:
    require_failed(await pool.sandbox.scan(upload(b"hang-up")), b"hang-up", "scan_died")


@pytest.mark.parametrize(
    "lie",
    [
        {"fingerprints": [ZERO | {"value": "0" * 31}]},
        {"fingerprints": [ZERO | {"value": "A" * 32}]},
        {"fingerprints": [ZERO | {"value": "\x1b[31m" + "0" * 27}]},
        {"fingerprints": [ZERO | {"kind": "pdq"}]},
        {"fingerprints": [ZERO | {"form": "raw"}]},
        {"fingerprints": [ZERO | {"recipe": "md5/canonical/9"}]},
        {"fingerprints": [ZERO | {"length": 2**40}]},
        {"fingerprints": [ZERO] * 1025},
        {"checked": {"pdq": "ok"}},
        {"checked": {"md5": "fine"}, "fingerprints": [ZERO]},
        {"checked": {"tlsh": "too_short"}},
        {"checked": {"pdq": "store_unreachable"}, "media_class": "image"},
        {"reason": "anything"},
        {"reason": "set_not_found"},
        {"notes": ["hello"]},
        {"notes": ["mostly_ascii"] * 50},
        {"timings": {"lookup": 1.0}},
        {"timings": {"decode": -1.0}},
        {"timings": {"decode": 1e300}},
        {"attempts": 2},
        {"media_type": "x" * 300},
    ],
    ids=lambda lie: msgspec.json.encode(lie).decode()[:40],
)
async def test_answers_that_no_honest_process_gives(lie: dict[str, Any]) -> None:
    body = {"media_class": None, "media_type": None} | lie
    reply = msgspec.msgpack.encode([{"number": 1, "scan": body}])
    with pytest.raises(BadReply):
        unpack_replies(reply, [1])


async def test_one_lie_through_the_whole_pool(pool: Pool) -> None:
    body = {"media_class": None, "media_type": None, "reason": "anything"}
    content = b"lie " + msgspec.json.encode(body)
    require_failed(await pool.sandbox.scan(upload(content)), content, "scan_bad_reply")


async def test_texts_that_are_scanned_together_fail_one_by_one(pool: Pool) -> None:
    """Whatever one of them does to its process, each of the others has its scan, and it alone is blamed."""
    contents = [b"text %d" % number for number in range(12)]
    for bad, reason in ((b"segv", "scan_died"), (b"memory 4000000000", "scan_memory"), (b"hang", "scan_deadline")):
        asked = [*contents, bad]
        scans = await asyncio.gather(*(pool.sandbox.scan(upload(one, "text/plain")) for one in asked))
        for content, scan in zip(contents, scans, strict=False):
            assert (scan.reason, scan.fingerprints) == (None, exact.fingerprints(content))
        require_failed(scans[-1], bad, reason)
    await pool.back_to(2)


async def test_texts_are_shared_out_and_nobody_waits_for_who_gave_up(pool: Pool) -> None:
    """All processes get some, and a text that nobody waits for any more is not scanned."""
    gone, *scans = [asyncio.create_task(pool.sandbox.scan(upload(b"try pid %d" % n, "text/plain"))) for n in range(9)]
    await asyncio.sleep(0)
    gone.cancel()
    assert {scan.media_type for scan in await asyncio.gather(*scans)} == {str(pid) for pid in pool.sandbox.pids}
    assert pool.sandbox.load().waiting == pool.sandbox.load().busy == 0


def test_replies_of_another_shape() -> None:
    honest = {"number": 1, "scan": {"media_class": None, "media_type": None}}
    assert unpack_replies(msgspec.msgpack.encode([honest]), [1]) != [None]
    for reply in (
        honest | {"number": 2},
        honest | {"more": 1},
        {"number": 1},
        {"number": 1, "scan": {"media_class": "film", "media_type": None}},
        {"number": 1, "scan": {"media_class": None, "media_type": None, "extra": 1}},
        [1, None],
        None,
    ):
        with pytest.raises(BadReply):
            unpack_replies(msgspec.msgpack.encode([reply]), [1])
    second = honest | {"number": 2}
    for replies in ([], [honest, honest], [honest, second], [second, honest]):
        with pytest.raises(BadReply):
            unpack_replies(msgspec.msgpack.encode(replies), [1])
    for body in (b"", b"\x93" * 60_000, b"\x81\xa1\xff\x01", msgspec.msgpack.encode([honest])[:-1]):
        with pytest.raises(BadReply):
            unpack_replies(body, [1])
        with pytest.raises(BadReply):
            unpack_ready(body)


async def test_an_answer_too_many_does_not_reach_the_next_upload(pool: Pool) -> None:
    # The digest of this very content can't stand in it, so the first of the two is no honest answer either.
    extra = msgspec.msgpack.encode([{"number": 1, "scan": {"media_class": None, "media_type": "forged"}}])
    twice = (len(extra).to_bytes(4, "big") + extra) * 2
    require_failed(await pool.sandbox.scan(upload(b"send " + twice)), b"send " + twice, "scan_bad_reply")
    results = [await pool.sandbox.scan(upload(b"fine")) for _ in range(4)]
    assert {result.media_type for result in results} == {"image/png"}


async def test_a_process_that_dies_idle_is_replaced(pool: Pool) -> None:
    gone = set(pool.sandbox.pids)
    for pid in gone:
        os.kill(pid, signal.SIGKILL)
    await pool.back_to(2, without=gone)
    assert pool.ends == {"signal": 2}
    result = await pool.sandbox.scan(upload(b"fine"))
    assert (result.reason, result.attempts) == (None, 1)


async def test_a_process_that_dies_after_its_answer_is_replaced(pool: Pool) -> None:
    for _ in range(5):
        pid = int((await pool.sandbox.scan(upload(b"try pid"))).media_type or "")
        os.kill(pid, signal.SIGKILL)
    results = await asyncio.gather(*(pool.sandbox.scan(upload(b"fine")) for _ in range(6)))
    assert {result.reason for result in results} == {None}
    await pool.back_to(2)


async def test_neighbours_are_not_disturbed() -> None:
    async with running(count=3) as pool:
        hostile = [b"segv", b"exit 1", b"send junk-of-a-frame", b"memory 9000000000"] * 2
        jobs = [pool.sandbox.scan(upload(one)) for one in hostile]
        fine = [pool.sandbox.scan(upload(b"fine %d" % number)) for number in range(60)]
        results = await asyncio.gather(*jobs, *fine)
        assert [result.reason for result in results[len(hostile) :]] == [None] * 60
        assert {result.attempts for result in results[len(hostile) :]} == {1}
        for number, result in enumerate(results[len(hostile) :]):
            assert result.fingerprints == exact.fingerprints(b"fine %d" % number)
        await pool.back_to(3)


async def test_the_loop_stays_free_meanwhile(pool: Pool) -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watcher = asyncio.create_task(watch())
    contents = [b"segv", b"exit 1", b"memory 9000000000", b"fine" * 250_000]
    await asyncio.gather(*(pool.sandbox.scan(upload(one)) for one in contents))
    watcher.cancel()
    assert longest < 0.5


async def test_a_cancelled_scan_leaves_no_stale_answer(pool: Pool) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.sandbox.scan(upload(b"hang")), 0.05)
    await pool.back_to(2)
    result = await pool.sandbox.scan(upload(b"fine"))
    assert result.fingerprints == exact.fingerprints(b"fine")
    with pytest.raises(TimeoutError):  # while the retry's process is being started
        await asyncio.wait_for(pool.sandbox.scan(upload(b"segv")), 0.1)
    await pool.back_to(2)
    assert (await pool.sandbox.scan(upload(b"fine"))).reason is None


async def test_processes_are_replaced_after_so_many_jobs() -> None:
    async with running(count=1, recycle_after=5) as pool:
        first = pool.sandbox.pids
        seen: set[str | None] = set()
        async with asyncio.timeout(20):
            while len(seen) < 3:
                seen.add((await pool.sandbox.scan(upload(b"try pid"))).media_type)
        assert pool.ends["recycled"] >= 2
        assert set(pool.ends) == {"recycled"}
        await pool.back_to(1, without=set(first))


async def test_processes_serve_for_some_time_however_many_jobs_they_had() -> None:
    """Starting one costs as much as thousands of short texts."""
    began = time.monotonic()  # before the process: it is never older than what is measured here
    async with running(count=1, recycle_after=2, recycle_s=0.5) as pool, asyncio.timeout(20):
        while not pool.ends["recycled"]:
            await pool.sandbox.scan(upload(b"try pid"))
        assert time.monotonic() - began >= 0.5


async def test_stopping_ends_what_is_in_flight() -> None:
    pool = Pool()
    await pool.sandbox.start()
    scans = [asyncio.create_task(pool.sandbox.scan(upload(b"hang"))) for _ in range(5)]
    while (await asyncio.wait(scans, timeout=0.1))[0]:
        pass
    started = time.perf_counter()
    await pool.sandbox.stop()
    outcomes = await asyncio.gather(*scans, return_exceptions=True)
    assert time.perf_counter() - started < 5
    assert {type(outcome) for outcome in outcomes} == {RuntimeError}
    assert pool.sandbox.pids == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scan": "tests.servers.hostile_scan:fail"}, "codec is not there"),
        ({"scan": "tests.servers.no_such:prepare"}, "no_such"),
        ({"path": ()}, "tests"),
    ],
)
async def test_a_start_that_fails_says_why(options: dict[str, Any], words: str) -> None:
    pool = Pool(**options)
    with pytest.raises(HashweirError, match=words) as caught:
        await pool.sandbox.start()
    assert caught.value.reason == "scan_died"


PARENT = """
import asyncio, sys
from hashweir.adapters.sandbox import ProcessSandbox
from hashweir.model import Limits, Upload

async def main():
    sandbox = ProcessSandbox(scan="tests.servers.hostile_scan:prepare", path=(sys.argv[1],), count=2,
        limits=Limits(), deadline_s={"image": 60.0}, memory_bytes=2**30)
    await sandbox.start()
    busy = asyncio.create_task(sandbox.scan(Upload(source="s", id="1", content=b"spin")))
    await asyncio.sleep(0)
    print(*sandbox.pids, flush=True)
    await busy

asyncio.run(main())
"""


async def test_a_killed_parent_leaves_no_orphans() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    handles = [os.pidfd_open(int(pid)) for pid in (await parent.stdout.readline()).split()]
    assert len(handles) == 2
    parent.kill()
    loop = asyncio.get_running_loop()
    gone = [asyncio.Event() for _ in handles]
    for handle, ended in zip(handles, gone, strict=True):
        loop.add_reader(handle, ended.set)
    async with asyncio.timeout(10):
        for ended in gone:
            await ended.wait()
    for handle in handles:
        loop.remove_reader(handle)
        os.close(handle)
    await parent.wait()


@pytest.mark.slow
@pytest.mark.parametrize("format_name", FORMATS)
async def test_spoilt_files_through_the_real_scan(format_name: str) -> None:
    async with running(scan="hashweir.pipeline.scan:prepare") as pool:
        files = list(damaged(encode(photo(size=(200, 150)), format_name), seed=2, count=300))
        results = await asyncio.gather(*(pool.sandbox.scan(upload(one)) for one in files))
        for content, result in zip(files, results, strict=True):
            assert result.fingerprints[-2:] == exact.fingerprints(content)
            assert result.reason in REASONS or result.checked["pdq"] in ("ok", "truncated")
        assert not pool.ends
