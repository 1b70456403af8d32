"""Small PDF files that ask for much: every one ends in a scan or a reason, within memory and time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from hashweir.adapters.sandbox import ATTEMPTS, ProcessSandbox
from hashweir.model import Limits, Scan, Upload
from tests.pdfs import Sheet, assembled, lines, pdf, stream
from tests.pdfs import scanned as of_picture
from tests.pictures import photo

pytestmark = pytest.mark.slow

MEMORY = 2**30
DEADLINE_S = 4.0
START_S = 10.0
"""A fresh process for the second attempt, on a busy machine."""


def forms(deep: int, wide: int) -> bytes:
    """Forms that each draw the next one `wide` times: wide ** deep lines."""
    objects = [
        b"<</Type /Catalog /Pages 2 0 R>>",
        b"<</Type /Pages /Kids [3 0 R] /Count 1>>",
        b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R /Resources <</XObject <</X 5 0 R>>>>>>",
        stream(b"/X Do "),
    ]
    for number in range(deep):
        last = number == deep - 1
        body = b"0 0 m 9 9 l S " if last else b"/X Do " * wide
        head = b"/Type /XObject /Subtype /Form /BBox [0 0 99 99] /Resources <</XObject <</X %d 0 R>>>>" % (number + 6)
        objects.append(stream(body, head))
    return assembled(objects)


def giant_picture() -> bytes:
    """A picture of 40,000 x 40,000 grey pixels, all the same."""
    head = b"/Type /XObject /Subtype /Image /ColorSpace /DeviceGray /BitsPerComponent 8 /Width 40000 /Height 40000"
    return assembled(
        [
            b"<</Type /Catalog /Pages 2 0 R>>",
            b"<</Type /Pages /Kids [3 0 R] /Count 1>>",
            b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R /Resources <</XObject <</X 5 0 R>>>>>>",
            stream(b"99 0 0 99 0 0 cm /X Do"),
            stream(bytes(10_000_000), head),
        ]
    )


BOMBS = {
    "300,000 text operators": lambda: pdf(Sheet(b"BT /F 9 Tf 9 800 Td " + b"(a) Tj " * 300_000 + b"ET")),
    "the same on 40 pages": lambda: pdf(*[Sheet(b"BT /F 9 Tf 9 800 Td " + b"(ab) Tj T* " * 90_000 + b"ET")] * 40),
    "a million rectangles": lambda: pdf(Sheet(b"0 0 9 9 re f " * 1_000_000)),
    "1 GB of blanks": lambda: pdf(Sheet(b" " * 2**30)),
    "300 MB of blanks, deflated twice": lambda: pdf(Sheet(b" " * 300_000_000), deflated=2),
    "30 MB of text": lambda: pdf(Sheet(b"BT /F 9 Tf 9 800 Td (" + b"text " * 6_000_000 + b") Tj ET")),
    "forms within forms": lambda: forms(deep=9, wide=12),
    "a form that draws itself": lambda: forms(deep=1, wide=1).replace(b"/X 6 0 R", b"/X 5 0 R"),
    "a giant picture": giant_picture,
    "a page a mile wide": lambda: pdf(Sheet(lines("wide"), size=(2_000_000_000, 3))),
    "pages that are their own parents": lambda: pdf(Sheet()).replace(b"/Kids [5 0 R]", b"/Kids [2 0 R]"),
}


def resident(pid: int) -> int:
    """Bytes of memory that a process has in use; 0 where it is gone."""
    with suppress(OSError, StopIteration):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return 0


class Peak:
    """The most memory that any process of the pool was seen with, in bytes."""

    def __init__(self) -> None:
        self.most = 0

    async def watch(self, sandbox: ProcessSandbox) -> None:
        while True:
            self.most = max(self.most, *map(resident, sandbox.pids), 0)
            await asyncio.sleep(0.02)


@pytest.fixture
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    made = ProcessSandbox(
        scan="hashweir.pipeline.scan:prepare",
        count=1,
        limits=Limits(),
        deadline_s={"image": DEADLINE_S, "document": DEADLINE_S},
        memory_bytes=MEMORY,
    )
    await made.start()
    yield made
    await made.stop()


async def scanned(sandbox: ProcessSandbox, content: bytes) -> Scan:
    return await sandbox.scan(Upload(source="test", id="1", media_type="application/pdf", content=content))


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_ends_in_a_scan_or_a_reason(sandbox: ProcessSandbox, name: str) -> None:
    content = await asyncio.to_thread(BOMBS[name])
    assert len(content) < 2 * 2**20
    peak = Peak()
    watcher = asyncio.create_task(peak.watch(sandbox))
    began = time.monotonic()
    result = await scanned(sandbox, content)
    took = time.monotonic() - began
    watcher.cancel()
    print(f"{name}: {len(content)} bytes, {took:.1f} s, {peak.most >> 20} MiB, {result.reason or result.checked}")
    assert result.reason is not None or set(result.checked.values()) != {"ok"} or len(result.fingerprints) > 2
    assert peak.most <= 1.1 * MEMORY
    assert took <= (DEADLINE_S + 1) * result.attempts + START_S * (result.attempts - 1)
    assert result.attempts <= ATTEMPTS
    fine = await scanned(sandbox, pdf(Sheet(lines("A harmless line of text. " * 30))))
    assert fine.checked["tlsh"] == "ok"


async def test_real_pages_in_a_locked_down_process(sandbox: ProcessSandbox) -> None:
    """Nothing is left to be loaded after the lock-down, when no file can be opened any more."""
    result = await scanned(sandbox, pdf(of_picture(photo()), Sheet(lines("Some words on a second page. " * 30))))
    assert {result.checked[kind] for kind in ("pdq", "tlsh", "text")} == {"ok"}
    assert [one.page for one in result.fingerprints if one.kind == "pdq"] == [1]
