"""The last uploads that were judged, oldest overwritten: what new entries are compared with (`lookback`).

Uploads are numbered in order; those of a former process have numbers below 0. The ring holds the last `uploads` of
them, or fewer where these would be more than `most_bytes`. Memory goes in blocks, so up to one block more than that.

One thread (the loop) changes the ring. `tables` gives what a search needs, and the searches are plain functions over
it, for another thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashweir.hashing import HASHERS
from hashweir.index import INDEXES
from hashweir.index.scan import near
from hashweir.model import Kind, Scan, Upload
from hashweir.pipeline.ring_block import Block
from hashweir.pipeline.ring_rows import Values, is_exact, keys_of
from hashweir.ports import Index

Numbers = NDArray[np.int64]
BLOCKS = 64
MOST_PER_BLOCK = 16_384
_NONE: Numbers = np.zeros(0, np.int64)
_TOGETHER = 1024
"""Values that one search of an index is asked for: a bound of what it has to answer at once."""


class Tables(NamedTuple):
    """The hash values of one block: `first` is the number of its first upload, those below `alive` are gone."""

    first: int
    alive: int
    by_kind: Mapping[Kind, Values]

    def numbers(self, kind: Kind, rows: NDArray[np.integer[Any]]) -> Numbers:
        """The uploads of rows of a kind, without those that are gone."""
        if not len(rows):
            return _NONE  # the usual case, once per block
        found: Numbers = self.by_kind[kind].owner[rows].astype(np.int64) + self.first
        return found[found >= self.alive]


class Ring:
    """Uploads with their scans, by number."""

    def __init__(self, uploads: int, most_bytes: int) -> None:
        """Holds nothing where `uploads` is 0."""
        self.uploads = uploads
        """The most that it holds."""
        self._most_bytes = most_bytes
        self._per_block = max(1, min(MOST_PER_BLOCK, -(-uploads // BLOCKS)))
        self._blocks: deque[tuple[int, Block]] = deque()
        self._next = 0
        self._serial = 0
        self._changed: set[str] = set()

    # ── adding ──

    def add(self, upload: Upload, scan: Scan, *, at_ms: int, said: int = 0, marks: int = 0) -> int:
        """Add an upload as the newest; its number. A block's name begins with the moment of its first upload."""
        if not self._blocks or self._full(self._blocks[-1][1]):
            if self._blocks:
                self._blocks[-1][1].seal()
            self._serial += 1
            self._blocks.append((self._next, Block(f"{at_ms:016d}-{self._serial:08d}")))
        block = self._blocks[-1][1]
        block.add(upload, scan, at_ms=at_ms, said=said, marks=marks)
        self._changed.add(block.name)
        self._next += 1
        self._shrink()
        return self._next - 1

    def adopt(self, blocks: Sequence[Block]) -> None:
        """Take a former process' uploads, given from old to new, as older than all that are here."""
        first = self._blocks[0][0] if self._blocks else self._next
        for block in reversed(blocks):
            if len(block):
                first -= len(block)
                self._blocks.appendleft((first, block))
        self._shrink()

    def _full(self, block: Block) -> bool:
        # A block of the former process is sealed, and numbers of this one begin at 0.
        return len(block) >= self._per_block or block.bytes >= self._most_bytes // BLOCKS or self._next == 0

    def _shrink(self) -> None:
        while self._blocks and (
            self._next - self.uploads >= self._blocks[0][0] + len(self._blocks[0][1])
            or (len(self._blocks) > 1 and self.bytes > self._most_bytes)
        ):
            self._changed.add(self._blocks.popleft()[1].name)

    # ── looking ──

    def __len__(self) -> int:
        """Uploads that are there."""
        return self._next - self.first

    @property
    def first(self) -> int:
        """Number of the oldest upload."""
        return max(self._blocks[0][0], self._next - self.uploads) if self._blocks else self._next

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return sum(block.bytes for _, block in self._blocks)

    @property
    def oldest_ms(self) -> int:
        """When the oldest upload was added; 0 where there is none."""
        if not len(self):
            return 0
        block, place = self._place(self.first)
        return int(block.at_ms[place])

    def kept(self, number: int) -> tuple[Upload, Scan]:
        """An upload, without its content, and its scan. Raises IndexError where it is gone."""
        block, place = self._place(number)
        return block.kept(place)

    def said(self, number: int) -> int:
        """What was said of an upload last. Raises IndexError where it is gone."""
        block, place = self._place(number)
        return int(block.said[place])

    def say(self, number: int, said: int, marks: int) -> None:
        """Note what was said of an upload, and its marks; one that is gone is passed over."""
        if number >= self.first:
            block, place = self._place(number)
            if (block.said[place], block.marks[place]) != (said, marks):
                block.said[place], block.marks[place] = said, marks
                self._changed.add(block.name)

    def marked(self, marks: int) -> list[int]:
        """The uploads with any of these marks."""
        found: list[int] = []
        for first, block in self._blocks:
            found += (np.nonzero(block.marks & marks)[0] + first).tolist()
        return [number for number in found if number >= self.first]

    def tables(self) -> list[Tables]:
        """All hash values as they stand now, from old to new."""
        return [Tables(first, self.first, block.tables()) for first, block in self._blocks]

    def _place(self, number: int) -> tuple[Block, int]:
        if self.first <= number < self._next:
            for first, block in reversed(self._blocks):
                if number >= first:
                    return block, number - first
        raise IndexError(number)

    # ── saving ──

    def touch(self, names: Iterable[str]) -> None:
        """These could not be saved: they count as changed again."""
        self._changed.update(names)

    def changed(self) -> tuple[list[Block], list[str]]:
        """What changed since the last time: blocks to save, and names of blocks that are gone."""
        names, self._changed = self._changed, set()
        there = [block for _, block in self._blocks if block.name in names]
        return there, sorted(names - {block.name for block in there})


# ── searching: pure, for a thread ──


def near_one(tables: Sequence[Tables], kind: Kind, value: bytes, radius: int) -> Numbers:
    """The uploads with a value of this kind within `radius` of `value`. Of exact kinds it may name others too."""
    found = [_NONE]
    for block, values in _of(tables, kind):
        if values.searched is not None:
            found.append(_by_index(block, kind, values.searched, value, radius))
        elif is_exact(kind):
            rows = np.nonzero(values.keys == np.frombuffer(value[:8], np.uint64)[0])[0]
            found.append(block.numbers(kind, rows))
        else:
            found.append(block.numbers(kind, near(values.fronts, values.values, value, radius)))
    return np.unique(np.concatenate(found))


def near_many(tables: Sequence[Tables], kind: Kind, asked: bytes, radius: int) -> Numbers:
    """The same for many values of one kind, concatenated. For codes it makes an index of the whole ring."""
    blocks = list(_of(tables, kind))
    found = [_NONE]
    if is_exact(kind):
        keys = keys_of(np.frombuffer(asked, np.uint8).reshape(-1, HASHERS[kind].width))
        found += [block.numbers(kind, np.nonzero(np.isin(values.keys, keys))[0]) for block, values in blocks]
    elif any(values.searched is not None for _, values in blocks):
        found += [
            _by_index(block, kind, values.searched, asked, radius)
            for block, values in blocks
            if values.searched is not None
        ]
    elif blocks:
        index = INDEXES[kind]()
        for _, values in blocks:
            index.add(values.values.tobytes())
        while index.tend():
            pass
        numbers = np.concatenate([values.owner.astype(np.int64) + block.first for block, values in blocks])
        found.append(numbers[_rows(index, kind, asked, radius)])
    every = np.unique(np.concatenate(found))
    return every[every >= tables[0].alive] if tables else every


def _by_index(block: Tables, kind: Kind, index: Index, asked: bytes, radius: int) -> Numbers:
    rows = _rows(index, kind, asked, radius)
    return block.numbers(kind, rows[rows < len(block.by_kind[kind].owner)])


def _rows(index: Index, kind: Kind, asked: bytes, radius: int) -> NDArray[np.int64]:
    """The rows that any of these values is near to."""
    step = _TOGETHER * HASHERS[kind].width
    found = [np.unique(index.search(asked[at : at + step], radius).row) for at in range(0, len(asked), step)]
    return np.unique(np.concatenate(found))


def _of(tables: Sequence[Tables], kind: Kind) -> Iterator[tuple[Tables, Values]]:
    return ((block, block.by_kind[kind]) for block in tables if kind in block.by_kind)
