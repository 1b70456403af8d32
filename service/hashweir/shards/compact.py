"""A table without its garbage, built beside the one that is in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hashweir.shards.records import BLOCK_ROWS
from hashweir.shards.shard import Shard
from hashweir.shards.table import Table
from hashweir.shards.tables import Refs, TableKey, Tables, of_form, refs_of, rows_of, visible

_AT_ONCE = 16 * BLOCK_ROWS


class Compaction:
    """Only rows that slots have go along. Searches, views and changes of slots go on meanwhile.

    What a search finds follows from the bytes alone, so that a table whose memory was damaged comes out right.
    """

    def __init__(self, tables: Tables, shards: Sequence[Shard], key: TableKey) -> None:
        """Notes which rows slots have now; `build` reads them."""
        self._tables, self._shards = tables, shards
        self._key, self._old, self._new = key, tables.reading(), Table(key[0])
        self._before: list[tuple[Refs, frozenset[bytes]]] = []
        """Per shard the reference of each slot, and the entries kept withdrawn."""
        for shard in shards:
            self._before.append((shard.refs(key[0]).copy(), frozenset(shard.kept)))
        self._built: list[tuple[NDArray[np.bool_], Refs]] = []
        """Per shard which slots are in the new table, and their references to it."""

    def build(self) -> None:
        """Make the new table. Takes long, so that it belongs into a thread."""
        for refs, kept in self._before:
            built, moved = of_form(refs, self._key[1]), np.zeros_like(refs)
            moved[built] = self._carry(refs[built], kept)
            self._built.append((built, moved))
        while self._new.index.tend():
            pass

    def finish(self) -> None:
        """Put the new table in place of the old one, for changes to come and for views that are made from now on.

        Slots that changed meanwhile are brought after.
        """
        kind, form = self._key
        for shard, (before, _), (built, moved) in zip(self._shards, self._before, self._built, strict=True):
            now, stays = shard.refs(kind), built.copy()
            both = min(len(now), len(before))
            stays[:both] &= now[:both] == before[:both]
            stays[both:] = False
            left = rows_of(moved[built & ~stays])
            self._new.garbage += len(left)
            self._new.withdraw(left)
            late = of_form(now, form)
            late[:both] &= ~stays[:both]
            np.copyto(now[:both], moved[:both], where=stays[:both])
            if late.any():
                now[late] = self._carry(now[late], frozenset(shard.kept))
        self._tables.put(self._key, self._new)

    def _carry(self, refs: Refs, kept: frozenset[bytes]) -> Refs:
        """Bring rows over; their new references."""
        first = len(self._new)
        for at in range(0, len(refs), _AT_ONCE):
            images, sides = self._old.take(self._key[0], refs[at : at + _AT_ONCE])
            self._new.add(images, sides, visible(self._key[0], images, kept))
        return refs_of(self._key[1], first, len(refs))
