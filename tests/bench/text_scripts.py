"""From what share of ASCII bytes on a text's `raw` TLSH may be trusted as far as that of English.

    python -m tests.bench.text_scripts FOLDER [--seed 1]

FOLDER as for `tests.bench.text_radii`, with `en` in it. Texts of every other language are mixed with English, six words
at a time, so that a share of their bytes is ASCII; and each language as it is. Printed are the false hits in 10,000
uploads against 200 texts, at the radius that `raw` has for such a length: the worst of all languages for a share.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from hashweir.hashing.radii import reach
from tests.bench.text_radii import LEAST_PAIRS, corpora_of, false_rate, hashed, unrelated, windows

SIZES = (300, 1_000, 3_000)
SHARES = (0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
AT_ONCE = 6
PAIRS = 10_000 * 200


def ascii_share(text: str) -> float:
    """Share of the UTF-8 bytes that are ASCII."""
    return sum(one < "\x80" for one in text) / len(text.encode())


def mixed(english: str, other: str, share: float) -> str:
    """Both in turns, some words of one and then of the other, so that this share of all bytes is ASCII."""
    sides = [iter(_runs(one)) for one in (other, english)]
    made: list[str] = []
    ascii_bytes = all_bytes = 0
    while run := next(sides[ascii_bytes < share * all_bytes], None):
        made.append(run)
        ascii_bytes += sum(one < "\x80" for one in run) + 1
        all_bytes += len(run.encode()) + 1
    return " ".join(made)


def _runs(text: str) -> list[str]:
    words = text.split(" ")
    return [" ".join(words[at : at + AT_ONCE]) for at in range(0, len(words), AT_ONCE)]


def false_hits(corpus: str, size: int, seed: str) -> float | None:
    """In 10,000 uploads against 200 texts of `size` bytes; None where there are too few texts to say."""
    made = [
        (start, text, value)
        for start, text in windows(corpus, "raw", size, random.Random(seed))
        if (value := hashed("raw", text))
    ]
    if len(made) < 60:
        return None
    far, _ = unrelated(made)
    return None if len(far) < LEAST_PAIRS else PAIRS * false_rate(far, reach("raw", size).radius)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    corpora = corpora_of(given.folder)
    print("| ASCII bytes | " + " | ".join(f"{size:,} bytes" for size in SIZES) + " |\n|" + "---|" * (len(SIZES) + 1))
    print(f"| all: en alone | {_cells({'en': corpora['en']}, given.seed)} |", flush=True)
    for share in SHARES:
        texts = {name: mixed(corpora["en"], text, share) for name, text in corpora.items() if ascii_share(text) < share}
        print(f"| {share:.0%} of a mix | {_cells(texts, given.seed)} |", flush=True)
    for name, text in sorted(corpora.items(), key=lambda one: -ascii_share(one[1])):
        print(f"| {ascii_share(text):.0%}: {name} alone | {_cells({name: text}, given.seed)} |", flush=True)


def _cells(texts: dict[str, str], seed: int) -> str:
    cells = []
    for size in SIZES:
        found = {name: false_hits(text, size, f"{seed}/{name}/{size}") for name, text in texts.items()}
        told = {name: rate for name, rate in found.items() if rate is not None}
        worst = max(told, key=lambda name: told[name], default=None)
        cells.append(f"{told[worst]:.3g} ({worst})" if worst else "-")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
