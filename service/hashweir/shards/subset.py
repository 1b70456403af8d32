"""Which of a store's shards are followed: `0-3,8/16` are five of sixteen."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

MOST_SHARDS = 1024
_PARTS = re.compile(r"(\d{1,4}(?:-\d{1,4})?(?:,\d{1,4}(?:-\d{1,4})?)*)/(\d{1,4})", re.ASCII)


class Subset(NamedTuple):
    """Numbers of shards, ascending, and how many shards the store has."""

    numbers: tuple[int, ...]
    total: int

    @property
    def missing(self) -> str:
        """The shards that are not among them, spelled alike; empty where there are none."""
        return spelled(set(range(self.total)).difference(self.numbers), self.total)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return spelled(self.numbers, self.total)


def parse(text: str) -> Subset:
    """Numbers and ranges (both ends included) of a total. Raises ValueError, in a sentence."""
    found = _PARTS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} names no shards: write 0-3/16 for the first four of sixteen")
    total, numbers = int(found[2]), set[int]()
    for part in found[1].split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
        if int(last or first) < int(first):
            raise ValueError(f"{part} in {text!r} ends before it begins")
    if not 1 <= total <= MOST_SHARDS or max(numbers) >= total:
        raise ValueError(f"{text!r}: of N shards (1 to {MOST_SHARDS}), 0 to N - 1 may be named")
    return Subset(tuple(sorted(numbers)), total)


def spelled(numbers: Iterable[int], total: int) -> str:
    """Numbers in ranges, of a total; empty where there are none."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(sorted(numbers)), lambda place: place[1] - place[0])
    ]
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"{','.join(parts)}/{total}" if parts else ""
