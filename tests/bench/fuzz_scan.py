"""Spoilt files through the sandbox: `python -m tests.bench.fuzz_scan [--inputs N] [--seed S] [--processes P]`.

Every input is a small file of some format with flipped bits, cut short, spliced with another, stretched, or with a
header that lies (PNG's with its checksum made good). The law: each ends in a fingerprint or in a reason, no process
dies without an upload whose answer says so, and the parent's memory stays flat. Exit status 1 where it is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import random
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from hashweir.adapters.sandbox import ProcessSandbox
from hashweir.errors import REASONS
from hashweir.model import KINDS_OF, FormGroup, Limits, Upload
from tests.pictures import encode, photo

FORMS: tuple[FormGroup, ...] = get_args(FormGroup)
EXTREMES = (b"\x00", b"\xff", b"\x7f\xff", b"\xff\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x00", b"\x40\x00")
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>endobj\n"
    b"4 0 obj<</Length 96>>stream\nBT /F1 9 Tf 9 90 Td (The quick brown fox jumps over the lazy dog and runs into "
    b"the woods.) Tj ET\nendstream endobj\n5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n"
    b"trailer<</Root 1 0 R>>\n%%EOF\n"
)


@dataclass
class Report:
    """What came of it. Times in seconds, memory in bytes."""

    inputs: int
    seed: int
    seconds: float = 0.0
    per_second: float = 0.0
    fingerprinted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    """Inputs (by number) that ended in neither a perceptual fingerprint nor a reason of the table."""
    deaths_noted: int = 0
    """Attempts that failed, by the answers of the uploads themselves."""
    resident_before: int = 0
    resident_after: int = 0

    @property
    def sound(self) -> bool:
        """Whether the law held; memory may grow by 32 MiB, which allocators keep."""
        died = sum(self.ends[why] for why in self.ends if why != "recycled")
        return not self.unanswered and died == self.deaths_noted and self.resident_after < self.resident_before + 2**25


def samples() -> dict[str, tuple[bytes, str]]:
    """Small files of every format that is decoded here, and of those that an extra would decode."""
    small, tiny = photo(size=(160, 120)), photo("coffee.png", size=(64, 64))
    frames = [tiny, tiny.rotate(90)]
    found = {
        "jpeg": (encode(small, "JPEG"), "image/jpeg"),
        "jpeg progressive": (encode(small, "JPEG", progressive=True, quality=60), "image/jpeg"),
        "jpeg cmyk": (encode(tiny.convert("CMYK"), "JPEG"), "image/jpeg"),
        "jpeg grey": (encode(tiny.convert("L"), "JPEG", exif=_exif()), "image/jpeg"),
        "mpo": (encode(tiny, "MPO", save_all=True, append_images=[frames[1]]), "image/jpeg"),
        "png": (encode(tiny, "PNG"), "image/png"),
        "png palette": (encode(small.quantize(16), "PNG", transparency=0), "image/png"),
        "png 16 bit": (encode(tiny.convert("L").convert("I;16"), "PNG"), "image/png"),
        "png alpha": (encode(tiny.convert("RGBA"), "PNG", icc_profile=bytes(200)), "image/png"),
        "apng": (encode(tiny, "PNG", save_all=True, append_images=[frames[1]]), "image/png"),
        "gif": (encode(small, "GIF"), "image/gif"),
        "gif moving": (encode(tiny, "GIF", save_all=True, append_images=[frames[1]]), "image/gif"),
        "webp": (encode(small, "WEBP"), "image/webp"),
        "webp lossless": (encode(tiny.convert("RGBA"), "WEBP", lossless=True), "image/webp"),
        "webp moving": (encode(tiny, "WEBP", save_all=True, append_images=[frames[1]]), "image/webp"),
        "avif": (encode(small, "AVIF", exif=_exif()), "image/avif"),
        "avif moving": (encode(tiny, "AVIF", save_all=True, append_images=[frames[1]]), "image/avif"),
        "heic": (encode(small, "HEIF", exif=_exif()), "image/heic"),
        "heic tiles": (encode(small, "HEIF", tile_size=64), "image/heic"),
        "text": ("The quick brown fox, перевал и горы, ﬀ, 素早い茶色の狐. ".encode() * 4, "text/plain"),
        "pdf": (PDF, "application/pdf"),
    }
    if importlib.util.find_spec("av") is not None:
        found["mp4"] = (_mp4(frames), "video/mp4")
    return found


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return exif.tobytes()


def _mp4(frames: list[Image.Image]) -> bytes:
    av: Any = importlib.import_module("av")
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in frames * 2:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))
    return file.getvalue()


def mutated(count: int, seed: int) -> Iterator[tuple[str, bytes, str]]:
    """(what was done to what, content, declared type), the same for the same seed and libraries."""
    chance = random.Random(seed)
    files = samples()
    for _ in range(count):
        name = chance.choice(list(files))
        content, media_type = files[name]
        way = chance.choice(("flip", "cut", "splice", "stretch", "lie", "zero", "two"))
        spoilt = bytearray(content)
        for one in ("flip", "lie") if way == "two" else (way,):
            _spoil(spoilt, one, chance, chance.choice(list(files.values()))[0])
        yield f"{way} {name}", bytes(spoilt), media_type if chance.random() < 0.9 else "text/plain"


def _spoil(spoilt: bytearray, way: str, chance: random.Random, other: bytes) -> None:
    at = chance.randrange(len(spoilt))
    match way:
        case "flip":
            for _ in range(chance.randrange(1, 17)):
                spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        case "cut":
            del spoilt[at:]
        case "splice":
            spoilt[at:] = other[chance.randrange(len(other)) :]
        case "stretch":
            spoilt[at:at] = spoilt[at : at + chance.randrange(1, 300)] * chance.randrange(1, 4)
        case "zero":
            spoilt[at : at + chance.randrange(1, 400)] = bytes(chance.randrange(1, 400))
        case "lie":
            extreme = chance.choice(EXTREMES)
            start = chance.randrange(min(len(spoilt), chance.choice((32, 64, 700))))
            spoilt[start : start + len(extreme)] = extreme
            if spoilt[12:16] == b"IHDR":
                spoilt[29:33] = struct.pack(">I", zlib.crc32(spoilt[12:29]))


async def run(inputs: int, seed: int, processes: int, memory_bytes: int = 2**30, deadline_s: float = 20.0) -> Report:
    """Send so many inputs through a pool of so many processes, four at a time for each."""
    report = Report(inputs=inputs, seed=seed)

    def note_end(why: str) -> None:
        report.ends[why] += 1

    sandbox = ProcessSandbox(
        scan="hashweir.pipeline.scan:prepare",
        count=processes,
        limits=Limits(),
        deadline_s={"image": deadline_s},
        memory_bytes=memory_bytes,
        when_ended=note_end,
    )
    await sandbox.start()
    places = asyncio.Semaphore(4 * processes)
    mutants = mutated(inputs, seed)
    try:
        await asyncio.gather(*(_one(sandbox, places, report, *mutant) for mutant in mutated(50, seed + 1)))
        report.fingerprinted, report.deaths_noted = 0, 0
        for counted in (report.reasons, report.ends):
            counted.clear()
        report.resident_before = _resident()
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for what, content, media_type in mutants:
                await places.acquire()
                group.create_task(_one(sandbox, None, report, what, content, media_type)).add_done_callback(
                    lambda _: places.release()
                )
        report.seconds = time.perf_counter() - started
        report.resident_after = _resident()
    finally:
        await sandbox.stop()
    report.per_second = inputs / report.seconds
    return report


async def _one(
    sandbox: ProcessSandbox,
    places: asyncio.Semaphore | None,
    report: Report,
    what: str,
    content: bytes,
    media_type: str,
) -> None:
    async with places or asyncio.Semaphore():
        forms = FORMS if len(content) % 2 else ()
        scan = await sandbox.scan(Upload(source="fuzz", id=what, content=content, media_type=media_type), forms)
    words = {word for word in scan.checked.values() if word != "ok"}
    reason = scan.reason or next(iter(words), None)
    perceptual = [one for one in scan.fingerprints if one.kind not in ("sha256", "md5")]
    expected = KINDS_OF[scan.media_class] if scan.media_class else ()
    report.reasons[reason or "ok"] += 1
    report.fingerprinted += bool(perceptual)
    report.deaths_noted += scan.attempts - 1 + (scan.reason in ("scan_died", "scan_deadline", "scan_memory"))
    if not (perceptual and expected) and reason not in REASONS:
        report.unanswered.append(what)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 2))
    options = parser.parse_args()
    report = asyncio.run(run(options.inputs, options.seed, options.processes))
    print(json.dumps(vars(report) | {"sound": report.sound}, indent=2))
    sys.exit(not report.sound)


if __name__ == "__main__":
    main()
