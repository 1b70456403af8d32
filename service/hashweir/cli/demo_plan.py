"""What the demo uploads: which media are in the sets, which uploads are edited copies of them, in which order."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice

from hashweir.cli.demo_media import PICTURE_EDITS, TEXT_EDITS, Sample, edited, picture, text

PLANTED_SHARE, LEAST_PLANTED = 0.22, 62
TEXT_SHARE = 0.2
PICTURES, TEXTS, STRANGERS = 36, 12, 2_000
"""Originals in the sets, and random hashes beside them."""
PICTURE_SET, TEXT_SET = "demo-pictures", "demo-texts"


@dataclass(frozen=True, slots=True)
class Planned:
    """One upload of the plan: its content is made late. `original` is the item that it is a copy of, if any."""

    name: str
    is_text: bool
    number: int
    edit: str | None = None
    original: str | None = None


def plan(seed: int, uploads: int) -> list[Planned]:
    """What is uploaded, in order: planted edits of originals in turn, and new media between them."""
    rng = random.Random(seed)
    planted = min(uploads, max(math.ceil(uploads * PLANTED_SHARE), min(LEAST_PLANTED, uploads // 2)))
    texts = round(planted * TEXT_SHARE)
    copies = [
        *islice(_copies(False, PICTURES, PICTURE_EDITS), planted - texts),
        *islice(_copies(True, TEXTS, TEXT_EDITS), texts),
    ]
    new = uploads - planted
    fresh = [(index < new * TEXT_SHARE, 1_000 + index, None, None) for index in range(new)]
    whole = [*copies, *fresh]
    rng.shuffle(whole)
    return [Planned(f"upload-{index:05}", *one) for index, one in enumerate(whole)]


def _copies(is_text: bool, items: int, edits: tuple[str, ...]) -> Iterator[tuple[bool, int, str | None, str | None]]:
    for turn, number in enumerate(cycle(range(items))):
        # Each round shifts the edits, so that in the end every item meets every edit.
        edit = edits[(turn + turn // items) % len(edits)]
        yield is_text, number, edit, item_name(is_text, number)


def originals() -> Iterator[tuple[bool, int]]:
    """The originals in the sets: whether a text, and the number."""
    yield from ((False, number) for number in range(PICTURES))
    yield from ((True, number) for number in range(TEXTS))


def strangers(seed: int) -> list[str]:
    """Random PDQ values: what else a set holds, and nothing must match."""
    rng = random.Random(seed)
    return [rng.randbytes(32).hex() for _ in range(STRANGERS)]


def item_name(is_text: bool, number: int) -> str:
    """What an original is called in its set."""
    return f"{'text' if is_text else 'picture'}-{number}"


def make(seed: int, planned: Planned) -> Sample:
    """The content of a planned upload: a pure function of seed and plan."""
    if planned.edit is None:
        return _new(seed, planned.is_text, planned.number)
    return edited(original(seed, planned.is_text, planned.number), planned.edit, f"{seed}/{planned.name}")


@lru_cache(maxsize=PICTURES + TEXTS)
def original(seed: int, is_text: bool, number: int) -> Sample:
    """An original; kept, for every edit begins with one."""
    return _new(seed, is_text, number)


def _new(seed: int, is_text: bool, number: int) -> Sample:
    return text(seed, number) if is_text else picture(seed, number)
