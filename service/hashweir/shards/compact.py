"""A table without its garbage, built beside the one that is in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hashweir.shards.records import BLOCK_ROWS
from hashweir.shards.shard import Shard
from hashweir.shards.table import Table
from hashweir.shards.tables import Refs, TableKey, Tables, of_form, refs_of, rows_of

_AT_ONCE = 16 * BLOCK_ROWS


class Compaction:
    """Only rows that slots have go along. Searches and views go on; changes of slots have to wait until `finish`."""

    def __init__(self, tables: Tables, shards: Sequence[Shard], key: TableKey) -> None:
        """Nothing is read yet."""
        self._tables, self._key = tables, key
        self._old, self._new = tables.by_key[key], Table(key[0])
        self._slots: list[tuple[Refs, NDArray[np.intp]]] = []
        """Per shard all its references of the kind, and which of them are to this table."""
        for shard in shards:
            refs = shard.refs(key[0])
            self._slots.append((refs, np.nonzero(of_form(refs, key[1]))[0]))

    def build(self) -> None:
        """Make the new table. Takes long, so that it belongs into a thread."""
        for refs, here in self._slots:
            for at in range(0, len(here), _AT_ONCE):
                rows = rows_of(refs[here[at : at + _AT_ONCE]])
                self._new.add(*self._old.take(rows), ~self._old.hidden(rows))
        while self._new.index.tend():
            pass

    def finish(self) -> None:
        """Put the new table in place of the old one, for changes to come and the views that are made next."""
        first = 0
        for refs, here in self._slots:
            refs[here] = refs_of(self._key[1], first, len(here))
            first += len(here)
        self._tables.put(self._key, self._new)
