"""What holds for everything that scans: the pool of processes and its twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hashweir.adapters.memory_sandbox import MemorySandbox
from hashweir.adapters.sandbox import ProcessSandbox
from hashweir.model import Limits, Upload
from hashweir.pipeline.scan import prepare, scan
from hashweir.ports import Sandbox
from tests.pdfs import Sheet, lines, locked, pdf, scanned
from tests.pictures import encode, giant_claims, one_bit_bomb, photo, photos

LIMITS = Limits()
TEXT = b"The quick brown fox jumps over the lazy dog, and then it runs off into the forest to sleep."


def upload(content: bytes | None, media_type: str | None = "image/png") -> Upload:
    return Upload(source="test", id="1", content=content, media_type=media_type)


def make(name: str) -> Sandbox:
    if name == "memory":
        return MemorySandbox(prepare(LIMITS))
    return ProcessSandbox(
        scan="hashweir.pipeline.scan:prepare",
        count=2,
        limits=LIMITS,
        deadline_s={"image": 20, "text": 20},
        memory_bytes=2**30,
    )


@pytest.fixture(params=["memory", "processes"])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    made = make(request.param)
    await made.start()
    yield made
    await made.stop()


async def test_it_answers_what_the_scan_function_answers(sandbox: Sandbox) -> None:
    contents: list[tuple[bytes, str | None]] = [(one, "image/png") for one in photos().values()]
    contents += [(TEXT, "text/plain"), (b"", "text/plain"), (b"", None), (b"\xff", "text/plain")]
    contents += [(one, "image/png") for one in (one_bit_bomb(), *giant_claims().values())]
    contents += [(encode(photo(), "JPEG")[:9000], "image/jpeg")]
    contents += [(encode(photo(size=(300, 200)), one), None) for one in ("AVIF", "HEIF")]
    document = pdf(scanned(photo()), Sheet(lines("Two lines of words for a page of text. " * 5)))
    contents += [(one, "application/pdf") for one in (document, document[:700], locked())]
    results = await asyncio.gather(*(sandbox.scan(upload(*one)) for one in contents))
    for (content, media_type), result in zip(contents, results, strict=True):
        expected = scan(content, media_type, LIMITS)
        for field in ("media_class", "media_type", "fingerprints", "checked", "notes", "reason", "attempts"):
            assert getattr(result, field) == getattr(expected, field)


async def test_timings_tell_the_two_stages(sandbox: Sandbox) -> None:
    result = await sandbox.scan(upload(photos()["astronaut.png"]))
    assert set(result.timings) == {"decode", "hash"}
    assert all(0 < seconds < 20 for seconds in result.timings.values())


async def test_an_upload_without_content_is_a_bug_of_the_caller(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="content"):
        await sandbox.scan(upload(None))


@pytest.mark.parametrize("name", ["memory", "processes"])
async def test_nothing_is_scanned_after_the_stop(name: str) -> None:
    sandbox = make(name)
    await sandbox.start()
    await sandbox.stop()
    await sandbox.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        await sandbox.scan(upload(b"x"))


async def test_it_says_how_busy_it_is(sandbox: Sandbox) -> None:
    """Nobody waits and nobody is busy while nothing is scanned; what is counted adds up to what was asked."""
    before = sandbox.load()
    assert (before.busy, before.waiting) == (0, 0)
    scans = asyncio.gather(*(sandbox.scan(upload(TEXT + b"%d" % n, "text/plain")) for n in range(20)))
    seen = []
    while not scans.done():
        seen.append(sandbox.load())
        await asyncio.sleep(0)
    await scans
    assert max(one.busy for one in seen) == before.processes
    assert all(one.busy + one.waiting <= 20 for one in seen)
    assert (max(one.waiting for one in seen) > 0) is (before.processes > 0)
    assert (before.resident_bytes > 0) is (before.processes > 0)
    assert sandbox.load()[1:3] == (0, 0)
