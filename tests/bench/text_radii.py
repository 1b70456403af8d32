"""How far apart unrelated texts and edited copies are, per language and length: the radii of `tlsh`.

    python -m tests.bench.text_radii FOLDER [--seed 1] [--write]

FOLDER holds a folder of UTF-8 text files per language, named as the language (`en`, `fa`), paragraphs apart by blank
lines; where there is no such folder, `tests.bench.text_corpus` makes it out of Debian packages. Printed are the table
as JSON and a summary: both forms, both distances (without TLSH's length term, as the service does, and with it).
Unrelated are windows of one language that do not overlap and have next to no phrases in common; a paragraph
that comes again is left out. `--write` puts the table into service/hashweir/hashing/text_radii.json.
Long because sampling, editing and judging are one experiment.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tlsh

from hashweir.hashing.text import normal_form, one_byte_per_character
from hashweir.pipeline.fingerprint import MOSTLY
from tests.bench.text_corpus import make

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000)
"""Lengths of the hashed form: characters of the normal form, bytes of the raw one."""
FORMS = ("normal", "raw")
FALSE_PER_PAIR = 5e-7
"""One false hit per 10,000 uploads against 200 texts, each of them of the upload's length."""
BANKS = (200, 10_000)
DISTANCES = ("diffxlen", "diff")
"""TLSH's distance without the term for the length, and with it."""
SHAPE = -0.1
"""Of the tail of distances where pairs are too few to count: with it, and 4 million pairs, radii counted and radii of
the tail differ by 6 at most."""
LEAST_RECALL = 0.6
"""Of copies with 5 % of the words changed: under it, a length class only logs."""
LEAST_GAIN = 0.01
"""Of the same copies: what a radius has to find more than a smaller one. Short texts change little with a word, and
texts of a kind that was not measured may lie nearer than those that were."""
MOST_WINDOWS, SHIFTS, COPIES = 3_000, 4, 150
MOST_RADIUS = 128
"""Where the search for a radius begins."""
LEAST_PAIRS = 20_000
"""A language with fewer pairs of a length has no say in that length's radius."""
RELATED = 0.05
"""Share of four-word phrases from which on two windows count as copies of each other, and are no unrelated pair."""
SCREENED = 4_000
"""So many of the nearest pairs are screened for copies."""
TABLE = Path(__file__).parents[2] / "service" / "hashweir" / "hashing" / "text_radii.json"

Edit = Callable[[str, random.Random, list[str]], str]


# ── edits ──


def _typo(text: str, rng: random.Random, words: list[str]) -> str:
    places = [at for at, letter in enumerate(text) if letter.isalpha()]
    at = rng.choice(places)
    return text[:at] + text[rng.choice(places)] + text[at + 1 :]


def _reworded(share: float) -> Edit:
    def edit(text: str, rng: random.Random, words: list[str]) -> str:
        own = text.split(" ")
        for at in rng.sample(range(len(own)), max(1, round(share * len(own)))):
            own[at] = rng.choice(words)
        return " ".join(own)

    return edit


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?؟۔…])\s+", text)


def _shuffled(text: str, rng: random.Random, words: list[str]) -> str:
    parts = _sentences(text)
    rng.shuffle(parts)
    return " ".join(parts)


def _appended(text: str, rng: random.Random, words: list[str]) -> str:
    at = rng.randrange(len(words) - 15)
    return text + " " + " ".join(words[at : at + 15]) + "."


EDITS: dict[str, Edit] = {
    "one typo": _typo,
    "1 % of words": _reworded(0.01),
    "5 % of words": _reworded(0.05),
    "10 % of words": _reworded(0.10),
    "sentence appended": _appended,
    "cut by 10 %": lambda text, rng, words: text[: len(text) * 9 // 10],
    "cut by 25 %": lambda text, rng, words: text[: len(text) * 3 // 4],
    "lower case": lambda text, rng, words: text.lower(),
    "sentences shuffled": _shuffled,
    "doubled spaces": lambda text, rng, words: text.replace(" ", "  "),
}


# ── texts and their hashes ──


def corpora_of(folder: Path) -> dict[str, str]:
    """The text of every language in a folder, which is made where it is missing."""
    if not folder.exists():
        make(folder)
    return {path.name: read(path) for path in sorted(folder.iterdir()) if path.is_dir()}


def read(folder: Path) -> str:
    """All paragraphs of a language, each once, joined by spaces."""
    seen: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")):
        for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
            seen.setdefault(re.sub(r"\W+", "", paragraph.lower()), " ".join(paragraph.split()))
    return " ".join(seen.values())


def hashed(form: str, text: str) -> bytes | None:
    """The 35 bytes of a text's TLSH in this form."""
    content = one_byte_per_character(normal_form(text)) if form == "normal" else text.encode()
    value = str(tlsh.hash(content))
    return None if value in ("TNULL", "") else bytes.fromhex(value[2:])


def windows(corpus: str, form: str, size: int, rng: random.Random) -> list[tuple[int, str]]:
    """Windows of this length: the place of each in the corpus, and its text."""
    per_character = 1.0 if form == "normal" else len(corpus.encode()) / len(corpus)
    width = round(size / per_character)
    starts = list(range(0, len(corpus) - width, max(1, width // SHIFTS)))
    if len(starts) > MOST_WINDOWS:
        starts = sorted(rng.sample(starts, MOST_WINDOWS))
    return [(start, corpus[start : start + width]) for start in starts]


class Distances:
    """`diffxlen` of one value to many, from the definition: body, checksum and the two quartile ratios.

    `diff` has a term for the two length bytes as well.
    """

    def __init__(self, values: list[bytes], distance: str = "diffxlen") -> None:
        table = np.frombuffer(b"".join(values), np.uint8).reshape(-1, 35)
        self._checksums, self._ratios = table[:, 0], table[:, 2]
        # The byte's two hexadecimal digits stand in reverse order.
        lengths = table[:, 1] >> 4 | table[:, 1] << 4
        self._lengths = lengths.astype(np.int64) if distance == "diff" else np.zeros(len(values), np.int64)
        buckets = np.stack([table[:, 3:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(len(values), -1)
        # Bucket 0..3 as 000, 001, 011, 111: bits that differ count the steps between two buckets.
        self._planes = [np.packbits(buckets >= level, axis=1).view(np.uint64) for level in (1, 2, 3)]

    def of(self, row: int) -> npt.NDArray[np.int16]:
        """Distances of a row to all rows behind it, 2,500 at most."""
        after = slice(row + 1, None)
        differs = [plane[after] ^ plane[row] for plane in self._planes]
        far = sum((np.bitwise_count(one).sum(axis=1).astype(np.int64) for one in differs), start=np.int64(0))
        far += 3 * np.bitwise_count(differs[0] & differs[1] & differs[2]).sum(axis=1).astype(np.int64)
        far += self._checksums[after] != self._checksums[row]
        for shift in (0, 4):
            apart = np.abs((self._ratios[after] >> shift & 15).astype(np.int64) - int(self._ratios[row] >> shift & 15))
            apart = np.minimum(apart, 16 - apart)
            far += np.where(apart <= 1, apart, 12 * (apart - 1))
        apart = np.abs(self._lengths[after] - self._lengths[row])
        apart = np.minimum(apart, 256 - apart)
        far += np.where(apart <= 1, apart, 12 * apart)
        return np.asarray(far, np.int16)


def unrelated(made: list[tuple[int, str, bytes]], distance: str = "diffxlen") -> tuple[npt.NDArray[np.int16], int]:
    """Distances of all unrelated pairs in ascending order, and how many pairs were left out as copies."""
    distances = Distances([value for _, _, value in made], distance)
    starts = np.array([start for start, _, _ in made])
    ends = starts + [len(text) for _, text, _ in made]
    all_far, all_pairs = [], []
    for row in range(len(made) - 1):
        far = distances.of(row)
        apart = starts[row + 1 :] >= ends[row]
        all_far.append(far[apart])
        all_pairs.append(np.stack([np.full(int(apart.sum()), row), np.nonzero(apart)[0] + row + 1], axis=1))
    far, pairs = np.concatenate(all_far), np.concatenate(all_pairs)
    order = np.argsort(far, kind="stable")
    screened = order[:SCREENED]
    phrases = {row: _phrases(made[row][1]) for row in set(pairs[screened].ravel().tolist())}
    copies = np.array([_related(phrases[a], phrases[b]) for a, b in pairs[screened].tolist()], bool)
    return np.concatenate([far[screened[~copies]], far[order[SCREENED:]]]), int(copies.sum())


def _related(one: set[int], other: set[int]) -> bool:
    return len(one & other) > RELATED * min(len(one), len(other))


def _phrases(text: str) -> set[int]:
    words = text.lower().split()
    return {hash(phrase) for phrase in zip(*(words[at:] for at in range(4)), strict=False)}


def false_rate(far: npt.NDArray[np.int16], radius: int) -> float:
    """Share of unrelated pairs within a radius: counted where there are pairs enough, else not less than the tail's.

    The tail is a generalised Pareto distribution of the distances below the nearest thousandth's largest (peaks over
    threshold), its scale by their mean, its shape `SHAPE`.
    """
    counted = float(np.searchsorted(far, radius, side="right")) / len(far)
    few = max(30, round(len(far) / 1_000))
    edge = int(far[few])
    if radius >= edge or len(far) * FALSE_PER_PAIR >= 2:
        return counted
    scale = float((edge - far[:few] + 0.5).mean()) * (1 - SHAPE)
    rest = max(0.0, 1 + SHAPE * (edge - radius) / scale)
    return max(counted, few / len(far) * math.pow(rest, -1 / SHAPE))


# ── the experiment ──


def measure(corpora: dict[str, str], seed: int) -> list[dict[str, Any]]:
    """One row per form, length, language and distance: what unrelated pairs and edits are like."""
    rows = []
    for form in FORMS:
        for size in SIZES:
            for language, corpus in corpora.items():
                rng = random.Random(f"{seed}/{form}/{size}/{language}")
                made = [
                    (start, text, value)
                    for start, text in windows(corpus, form, size, rng)
                    if (value := hashed(form, text))
                ]
                if len(made) < 30:
                    continue
                words = corpus.split(" ")
                chosen = rng.sample(made, min(COPIES, len(made)))
                edited = {
                    name: [(value, hashed(form, edit(text, rng, words))) for _, text, value in chosen]
                    for name, edit in EDITS.items()
                }
                for distance in DISTANCES:
                    far, copies = unrelated(made, distance)
                    edits = {
                        name: sorted(_distance(distance, *pair) for pair in pairs) for name, pairs in edited.items()
                    }
                    where = {"form": form, "size": size, "language": language, "distance": distance}
                    rows.append(where | {"far": far, "copies": copies, "edits": edits})
                print(f"measured {form} {size} {language}: {len(far)} pairs", file=sys.stderr, flush=True)
    return rows


def _distance(distance: str, value: bytes, edited: bytes | None) -> int:
    return 999 if edited is None else int(getattr(tlsh, distance)("T1" + value.hex(), "T1" + edited.hex()))


def radius_at(rows: list[dict[str, Any]]) -> int:
    """The largest radius at which no language has more false pairs than allowed; -1 where there is none."""
    far = [row["far"] for row in rows if len(row["far"]) >= LEAST_PAIRS]
    return next((r for r in range(MOST_RADIUS, -1, -1) if all(false_rate(one, r) <= FALSE_PER_PAIR for one in far)), -1)


def curve(rows: list[dict[str, Any]], form: str, languages: set[str]) -> Iterator[dict[str, Any]]:
    """One row per measured length of a form: its radius, and what that finds and mistakes."""
    for size in SIZES:
        here = [row for row in rows if row["form"] == form and row["size"] == size and row["language"] in languages]
        if any(len(row["far"]) >= LEAST_PAIRS for row in here):
            without, with_length = (_class([row for row in here if row["distance"] == one]) for one in DISTANCES)
            brief = ("radius", "only_logs", "recall_of_5_percent", "false_pairs_per_million")
            yield {"length": size} | without | {"with_length_term": {key: with_length[key] for key in brief}}


def _class(here: list[dict[str, Any]]) -> dict[str, Any]:
    """What a length class of one distance comes to, from the rows of its languages."""
    measured = radius_at(here)
    found = [_mean_share(here, radius) for radius in range(max(measured, 0) + 1)]
    radius = next(radius for radius, share in enumerate(found) if share >= found[-1] - LEAST_GAIN)
    recall = {name: {row["language"]: round(_share(row["edits"][name], radius), 2) for row in here} for name in EDITS}
    worst = max(false_rate(row["far"], radius) for row in here if len(row["far"]) >= LEAST_PAIRS)
    return {
        "radius": radius,
        "only_logs": measured < 0 or found[radius] <= LEAST_RECALL,
        "recall_of_5_percent": round(found[radius], 2),
        "false_pairs_per_million": round(worst * 1e6, 2),
        "false_per_10000_uploads": {str(bank): round(worst * bank * 10_000, 2) for bank in BANKS},
        "recall": recall,
        "unrelated": {
            row["language"]: {
                "pairs": len(row["far"]),
                "copies": row["copies"],
                "median": int(np.median(row["far"])),
                "nearest": int(row["far"][0]),
                "radius_alone": radius_at([row]) if len(row["far"]) >= LEAST_PAIRS else None,
                "false_pairs_per_million": round(false_rate(row["far"], radius) * 1e6, 2),
            }
            for row in here
        },
    }


def _mean_share(here: list[dict[str, Any]], radius: int) -> float:
    """Of copies with 5 % of the words changed, over languages."""
    return sum(_share(row["edits"]["5 % of words"], radius) for row in here) / len(here)


def _share(distances: list[int], radius: int) -> float:
    return sum(one <= radius for one in distances) / len(distances)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    corpora = corpora_of(given.folder)
    text = shown(corpora, measure(corpora, given.seed), given.seed)
    if given.write:
        TABLE.write_text(text, encoding="utf-8")
    print(text)
    print(summary(json.loads(text)["curves"]))


def summary(curves: dict[str, list[dict[str, Any]]]) -> str:
    """The table of decision 0006 in Markdown; recall of 1 and 10 % of words is that of the worst and best language."""
    header = (
        "form | length | radius | false pairs per million | false per 10,000 uploads, 200 / 10,000 texts | "
        "5 % of words | 1 % | 10 % | acts | with the length term: radius | false pairs per million | 5 % of words"
    )
    lines = [f"| {header} |", "|---" * (header.count("|") + 1) + "|"]
    for name, rows in curves.items():
        for row in rows:
            one, ten = (row["recall"][f"{share} % of words"].values() for share in (1, 10))
            hits, length = row["false_per_10000_uploads"], row["with_length_term"]
            cells = [name.replace("_", " "), f"{row['length']:,}", row["radius"], row["false_pairs_per_million"]]
            cells += [f"{hits['200']} / {hits['10000']}", f"{100 * row['recall_of_5_percent']:.0f} %"]
            cells += [f"{100 * min(each):.0f} to {100 * max(each):.0f} %" for each in (one, ten)]
            cells += ["log" if row["only_logs"] else "yes", length["radius"], length["false_pairs_per_million"]]
            lines.append(f"| {' | '.join(map(str, cells))} | {100 * length['recall_of_5_percent']:.0f} % |")
    return "\n".join(lines)


def shown(corpora: dict[str, str], rows: list[dict[str, Any]], seed: int) -> str:
    """The table as JSON."""
    mostly_ascii = {
        name for name, text in corpora.items() if sum(one < "\x80" for one in text) >= MOSTLY * len(text.encode())
    }
    table = {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": seed,
        "false_per_pair": FALSE_PER_PAIR,
        "corpus_characters": {name: len(text) for name, text in corpora.items()},
        "curves": {
            "normal": list(curve(rows, "normal", set(corpora))),
            "raw": list(curve(rows, "raw", mostly_ascii)),
            "raw_of_other_scripts": list(curve(rows, "raw", set(corpora) - mostly_ascii)),
        },
    }
    text = json.dumps(table, indent=1, ensure_ascii=False) + "\n"
    # Innermost objects on one line each: a table, not a ladder.
    return re.sub(r"\{[^{}]*\}", lambda found: " ".join(found.group().split()), text)


if __name__ == "__main__":
    main()
