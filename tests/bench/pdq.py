"""PDQ against its reference: the same bits, and how much sooner.

    .venv/bin/python -m tests.bench.pdq [--scale N] [--seed N] [--rounds N]

Prints one table. Times are CPU times of this process with one thread per library; every ratio comes from one run in
which both sides take turns. Each side runs `--rounds` times in a row, of which the median counts: three, for in a scan
process nothing comes between pictures either; with one, each finds the caches as the other side left them. A total is
over all pictures, near-ties included. `--scale 10` takes a tenth of the pictures.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, get_args

# Before numpy comes in, as in scan processes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pdqhash
from PIL import Image

from hashweir.hashing import pdq
from hashweir.model import FormGroup, Limits, Turn
from hashweir.pipeline.decode import Picture, decode
from hashweir.pipeline.decode_views import Luma
from tests.varied import DIHEDRAL, Pixels, jpeg, picture, pixels, sizes

TURNS: tuple[Turn, ...] = get_args(Turn)
LIMITS = Limits()
FAST: tuple[FormGroup, ...] = ("fast",)
CLASSES = {
    "512 x 512": (512, 512, 300),
    "720p": (1280, 720, 300),
    "1080p": (1920, 1080, 200),
    "12 Mpx": (4000, 3000, 80),
}
"""Width, height and how many of each."""
VARIED = 1600
"""Pictures of all sizes from 5 pixels a side."""


@dataclass
class Tally:
    """What was seen of one class of sizes. Times are seconds of CPU, one per picture."""

    rounds: int
    times: dict[str, list[float]] = field(default_factory=dict)
    pictures: int = 0
    graphics: int = 0
    differ: int = 0
    jpeg_differ: int = 0
    by_reference: int = 0
    worst_ratio: float = 1e9
    moved: float = 0.0
    """The farthest that the reference moved two coefficients beside the median towards each other, in pictures that it
    need not decide."""
    turned: list[int] = field(default_factory=list)
    """Distances of the seven turned hashes to the hashes of the turned pixels."""
    flips: list[int] = field(default_factory=list)
    """The same of `pdqhash.compute_dihedral`, which turns the coefficients."""
    signed: list[int] = field(default_factory=list)
    """Of our own turned coefficients and `pdqhash.compute_dihedral`."""
    fast: list[int] = field(default_factory=list)
    given_up: int = 0

    def time(self, what: str, run: Callable[[], Any]) -> Any:
        times = []
        for _ in range(self.rounds):
            started = process_time()
            result = run()
            times.append(process_time() - started)
        self.times.setdefault(what, []).append(median(times))
        return result

    def ratio(self, slow: str, quick: str, digits: int = 1) -> str:
        total = sum(self.times[slow]) / sum(self.times[quick])
        each = median(a / b for a, b in zip(self.times[slow], self.times[quick], strict=True))
        return f"{total:.{digits}f} ({each:.{digits}f})"

    def per_picture(self, what: str) -> str:
        return f"{median(self.times[what]) * 1000:.2f}"


def corpus(seed: int, scale: int) -> Iterator[tuple[str, int, int, int]]:
    """Class, seed, width and height of every picture."""
    for number, (width, height) in enumerate(sizes(seed, VARIED // scale, 5, 1000)):
        yield "varied", seed + number, width, height
    for place, (name, (width, height, count)) in enumerate(CLASSES.items(), 1):
        for number in range(max(count // scale, 3)):
            yield name, seed + 10_000 * place + number, width, height


def examine(tally: Tally, seed: int, width: int, height: int, *, graphic: bool) -> None:
    """One picture, every way."""
    file = jpeg(seed, picture(seed, width, height, graphic=graphic))
    rgb = pixels(Image.open(BytesIO(file)))
    tally.pictures += 1
    tally.graphics += graphic
    bits, quality = tally.time("reference", lambda: pdqhash.compute(rgb))
    expected = np.packbits(bits).tobytes(), int(quality)
    tally.differ += tally.time("ours", lambda: pdq.fingerprint(rgb)) != expected
    sampled = tally.time("one", lambda: pdq.sample(rgb))
    turned = tally.time("eight", lambda: pdq.sample(rgb).turned(TURNS))
    signed = tally.time("dihedral", lambda: pdq.dihedral(rgb, pdq.sample(rgb), DIHEDRAL))
    tally.differ += (sampled.value, sampled.quality) != expected
    tally.by_reference += sampled.by_reference
    tally.worst_ratio = min(tally.worst_ratio, tally.times["reference"][-1] / tally.times["ours"][-1])
    tally.jpeg_differ += tally.time("threatexchange", lambda: threatexchange(file)) != expected
    tally.jpeg_differ += tally.time("jpeg", lambda: exact(file)) != expected
    tally.time("eight of a jpeg", lambda: eight(file))
    tally.time("decode", lambda: decode(file, None, LIMITS))
    found = tally.time("fast", lambda: quickly(file))
    if found is None:
        tally.given_up += 1
    elif quality >= 50:
        tally.fast.append(distance(found[0], expected[0]))
    if not sampled.by_reference and sampled.views is not None:
        tally.moved = max(tally.moved, moved(rgb, sampled))
    if quality >= 50 and min(width, height) >= 256 and width * height < 3_000_000 and seed % 5 == 2:
        tally.turned += [distance(a, real(rgb, turn)) for a, turn in zip(turned, TURNS, strict=True)]
        dihedral, _ = pdqhash.compute_dihedral(rgb)
        reference = {np.packbits(one).tobytes() for one in dihedral}
        tally.signed += [distance(np.packbits(a).tobytes(), b) for a, b in zip(dihedral[1:], signed, strict=True)]
        tally.flips += [min(distance(real(rgb, turn), one) for one in reference) for turn in TURNS]


def threatexchange(file: bytes) -> tuple[bytes, int]:
    """A file's hash as python-threatexchange makes it."""
    bits, quality = pdqhash.compute(np.asarray(Image.open(BytesIO(file))))
    return np.packbits(bits).tobytes(), int(quality)


def exact(file: bytes) -> tuple[bytes, int]:
    """A file's canonical hash."""
    decoded = decode(file, None, LIMITS)
    assert isinstance(decoded, Picture)
    return pdq.fingerprint(decoded.rgb)


def eight(file: bytes) -> list[bytes]:
    """The hashes of all turns of a file."""
    decoded = decode(file, None, LIMITS)
    assert isinstance(decoded, Picture)
    return pdq.sample(decoded.rgb).turned(TURNS)


def quickly(file: bytes) -> tuple[bytes, int] | None:
    """A file's fast hash; None where it was given up, after the canonical one was made."""
    decoded = decode(file, None, LIMITS, FAST)
    assert isinstance(decoded, Luma)
    sampled = pdq.sample_scaled(decoded.grey, decoded.height, decoded.width, decoded.factor)
    if sampled is None:
        exact(file)
        return None
    return sampled.value, sampled.quality


def moved(rgb: Pixels, sampled: pdq.Sampled) -> float:
    """By how much the reference draws any two coefficients together that lie on either side of the median, near it."""
    assert sampled.views is not None
    ours = (pdq.DCT @ sampled.views[0, 0] @ pdq.DCT.T).ravel()
    reference, _ = pdqhash.compute_float(rgb)
    error = ours - np.asarray(reference)[::-1]
    low, high = np.partition(ours, (127, 128))[127:129]
    below, above = (ours <= low) & (ours > low - 0.02), (ours >= high) & (ours < high + 0.02)
    return float(error[above].max() - error[below].min())


def real(rgb: Pixels, turn: Turn) -> bytes:
    """The hash of the pixels turned."""
    return pdq.fingerprint(pixels(Image.fromarray(rgb).transpose(Image.Transpose[turn.replace("-", "_").upper()])))[0]


def distance(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def share(values: list[int], most: int) -> str:
    within = sum(one <= most for one in values) / max(len(values), 1)
    return f"{within:.1%} of {len(values)} within {most} bits, at most {max(values, default=0)}"


def machine() -> str:
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
    names = ("numpy", "pdqhash", "Pillow", "simplejpeg")
    return f"{model}, {os.cpu_count()} cores; " + ", ".join(f"{name} {version(name)}" for name in names)


def report(tallies: dict[str, Tally]) -> None:
    print("\nratios of total CPU time (median of the ratios of single pictures); ms are medians")
    print(
        "hash: pdqhash / ours; jpeg, fast: Pillow and pdqhash / ours from bytes; bound: the same / our decoding alone"
    )
    print("eight: all turns / one hash, of pixels, and from bytes; signs: the same of turns by coefficients, of pixels")
    print("worst: least pdqhash / ours of any picture\n")
    widths = (20, 8, 6, 6, 8, 8, 14, 6, 8, 8, 14, 14, 14, 12, 12, 12)
    head: tuple[str, ...] = ("", "pictures", "ties", "differ", "pdqhash", "ours ms", "hash", "worst")
    head += ("jpeg ms", "decode", "jpeg", "bound", "fast", "eight", "of a jpeg", "signs")
    print(" ".join(f"{word:>{width}}" for word, width in zip(head, widths, strict=True)))
    for name, tally in tallies.items():
        row = (
            name,
            tally.pictures,
            f"{tally.by_reference / tally.pictures:.1%}",
            tally.differ + tally.jpeg_differ,
            tally.per_picture("reference"),
            tally.per_picture("ours"),
            tally.ratio("reference", "ours"),
            f"{tally.worst_ratio:.2f}",
            tally.per_picture("jpeg"),
            tally.per_picture("decode"),
            tally.ratio("threatexchange", "jpeg"),
            tally.ratio("threatexchange", "decode"),
            tally.ratio("threatexchange", "fast"),
            tally.ratio("eight", "one", 2),
            tally.ratio("eight of a jpeg", "jpeg", 2),
            tally.ratio("dihedral", "one", 2),
        )
        print(" ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
    every = list(tallies.values())
    print(f"\npictures {sum(one.pictures for one in every)}, of them graphics {sum(one.graphics for one in every)}")
    print(f"hash or quality not that of the reference: {sum(one.differ + one.jpeg_differ for one in every)}")
    print(
        f"two coefficients moved towards each other by at most {max(one.moved for one in every):.5f} (TIE is {pdq.TIE})"
    )
    print(f"turned, against the turned pixels: {share([d for one in every for d in one.turned], 8)}")
    print(f"the same by turned coefficients (compute_dihedral): {share([d for one in every for d in one.flips], 8)}")
    totals = {what: sum(sum(one.times[what]) for one in every) for what in ("one", "eight", "dihedral")}
    eight, signs = totals["eight"] / totals["one"], totals["dihedral"] / totals["one"]
    print(f"over all pictures: eight {eight:.2f}, signs {signs:.2f}")
    print(f"our turned coefficients, against compute_dihedral: {share([d for one in every for d in one.signed], 2)}")
    for name, tally in tallies.items():
        print(f"fast, quality >= 50, {name}: {share(tally.fast, 2)}; given up {tally.given_up}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{machine()}; seed {options.seed}, scale 1/{options.scale}, medians of {options.rounds}")
    tallies: dict[str, Tally] = {}
    for name, seed, width, height in corpus(options.seed, options.scale):
        graphic = seed % 16 == 0
        kind = f"{name} graphics" if graphic else name
        examine(tallies.setdefault(kind, Tally(options.rounds)), seed, width, height, graphic=graphic)
    report(tallies)


if __name__ == "__main__":
    main()
