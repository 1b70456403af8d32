"""A chunk as it is at one moment: rows never change, so it is read whenever and wherever there is time for it."""

from __future__ import annotations

from dataclasses import dataclass

from hashweir.model import Kind
from hashweir.shards._sums import chunk_sum
from hashweir.shards.layout import digest
from hashweir.shards.tables import Reading, Refs

Mark = tuple[int, int, int]
"""The chunk's sum, its first reference, and the CRC-32 of all that is kept of its rows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A chunk as it is at one moment, to be read later on in any thread."""

    kind: Kind
    first: int
    refs: Refs
    sum: int
    reading: Reading

    def read(self) -> tuple[bytes, bytes]:
        """Slots and side records, concatenated."""
        if not self.refs.size:
            return b"", b""
        images, sides = self.reading.take(self.kind, self.refs)
        return images.tobytes(), sides.tobytes()

    def intact(self) -> bool:
        """Whether the bytes still give the sum that is kept for them."""
        return chunk_sum(self.first, *self.read()) == self.sum

    def mark(self) -> Mark | None:
        """Stays the same for as long as the chunk and its memory do, and costs a fraction of the digest.

        None where the rows lie scattered. Both the references and what is behind them count.
        """
        checksum = self.reading.checksum(self.kind, self.refs)
        return None if checksum is None else (self.sum, int(self.refs[0]), checksum)

    def digest(self) -> bytes:
        """As `layout.digest` of the bytes."""
        return digest(*self.read())
