"""All that is known, kept live: the writer's side of `shards.view`. One thread (the loop) calls it.

Changes are applied to the shards and to one table per (kind, form) over all shards; `publish` then makes them
visible at once by storing one new view.
"""

from __future__ import annotations

import hashlib
import struct
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from hashweir.model import Batch, Set, SetState
from hashweir.ports import Clock, Position, SetsState, Standing
from hashweir.shards.compact import Compaction
from hashweir.shards.shard import Shard
from hashweir.shards.subset import Subset
from hashweir.shards.tables import Tables
from hashweir.shards.view import Content, KnownView

_PLACE = struct.Struct(">IQQ")
_FOREVER = float("inf")
_STRENGTH: Mapping[SetState, int] = {"off": 0, "shadow": 1, "active": 2}


@dataclass(frozen=True, slots=True)
class Trust:
    """How far what was applied may be used, for `publish`. `verified_at` is on the monotonic clock (seconds)."""

    loaded: bool = False
    doubtful: bool = True
    rewound: bool = False
    verified_at: float = 0.0
    as_of_ms: int = 0


class SavedSets(msgspec.Struct, array_like=True, frozen=True):
    """Sets and provenance. `unread` are batches that entries name, `off` sets that a rewound store has no say in."""

    sets: SetsState | None
    batches: dict[str, Batch]
    unread: list[str]
    off: dict[str, Set]
    off_after: int | None


class LiveKnown:
    """Implements `ports.Known`. `view` alone reads the clock: age is judged even while nobody follows."""

    def __init__(
        self, clock: Clock, soft_limit_s: float = 10.0, hard_limit_s: float = 300.0, tables: Tables | None = None
    ) -> None:
        """Empty: standing `empty` until `begin`, loading and the first `publish`."""
        self.shards: list[Shard] = []
        """Those that are followed, by number."""
        self.tables = tables or Tables()
        self._clock = clock
        self._limits = soft_limit_s, hard_limit_s
        self._batches: dict[str, Batch | None] = {}
        self._sets: SetsState | None = None
        self._by_name: Mapping[str, Set] = {}
        self._names: Mapping[int, str] = {}
        self._off: dict[str, Set] = {}
        self._off_after: int | None = None
        self._missing = ""
        self._trust = Trust()
        self._version = 0
        self._views: deque[tuple[int, weakref.ref[KnownView]]] = deque()
        self._fresh_until = _FOREVER
        self._content = self._snapshot()
        self._view = self._make()

    def begin(self, shards: int, only: Subset | None = None) -> None:
        """Set the shards, once their number is known: all, or `only` some. Raises ValueError for others later on."""
        followed = only or Subset(tuple(range(shards)), shards)
        if self.shards and followed.numbers != tuple(one.number for one in self.shards):
            raise ValueError(f"{len(self.shards)} shards are loaded, the store has {shards}")
        self._missing = followed.missing
        if not self.shards:
            self.shards.extend(Shard(number, self.tables) for number in followed.numbers)

    # ── reading ──

    def view(self) -> KnownView:
        """The current state. Costs one look at the clock; past a limit, a new view says so."""
        if self._clock.monotonic() >= self._fresh_until:
            self._view = self._make()
        return self._view

    @property
    def sets_position(self) -> Position:
        """Where the sets stand; sequence 0 before they were first read."""
        return self._sets.position if self._sets else Position(epoch=0, seq=0)

    def missing_batches(self) -> list[str]:
        """Batches that applied entries name and `put_batches` has not answered."""
        return sorted(self.tables.batches_named - self._batches.keys())

    def lacks_sets(self) -> set[int]:
        """Numbers of sets of which entries were applied, and which the sets read so far do not have."""
        return self.tables.holds.keys() - self._names.keys()

    # ── changing ──

    def put_batches(self, found: Mapping[str, Batch], asked: Iterable[str]) -> None:
        """Take provenance records; those asked for and not found are remembered as missing."""
        for batch_id in asked:
            self._batches[batch_id] = found.get(batch_id)
            self.tables.batches_named.discard(batch_id)

    def put_sets(self, state: SetsState) -> bool:
        """Take all sets; whether the store's own history of them went back.

        While it has, a set that was switched off after the point it went back to stays off (or in shadow) until a
        later change of it, or until another epoch says that somebody ruled on it.
        """
        old = {one.name: one for one in self._sets.sets} if self._sets else {}
        now = {one.name: one for one in state.sets}
        if self._sets and state.position.epoch != self._sets.position.epoch:
            self._off, self._off_after = {}, None
        elif self._sets and (
            state.position.seq < self._sets.position.seq
            or any(name not in now or now[name].version < was.version for name, was in old.items())
        ):
            self._off_after = state.position.seq
            for name, was in old.items():
                if name in now and _STRENGTH[now[name].state] > _STRENGTH[was.state]:
                    self._off[name] = was
        after = -1 if self._off_after is None else self._off_after
        self._off = {
            one.name: self._off[one.name] for one in state.sets if one.name in self._off and one.version <= after
        }
        kept = tuple(
            msgspec.structs.replace(one, state=self._off[one.name].state) if one.name in self._off else one
            for one in state.sets
        )
        self._sets = SetsState(position=state.position, sets=kept, time_ms=state.time_ms)
        self._by_name = {one.name: one for one in kept}
        self._names = {one.number: one.name for one in kept}
        return self._off_after is not None

    def publish(self, trust: Trust) -> None:
        """Make everything applied so far visible at once, and say how far it may be trusted."""
        self._version += 1
        self._trust = trust
        self._content = self._snapshot()
        self._view = self._make()
        self.tables.version = self._version + 1
        self.sweep()

    def sweep(self) -> bool:
        """Some of what no view counts any more leaves the index; whether there is more."""
        while self._views and self._views[0][1]() is None:
            self._views.popleft()
        return self.tables.sweep(self._views[0][0])

    def compaction(self) -> Compaction | None:
        """Work that is due to be rid of garbage, for a thread. One at a time."""
        key = self.tables.wasteful()
        return Compaction(self.tables, self.shards, key) if key else None

    # ── a copy for a later process ──

    def saved_sets(self) -> SavedSets:
        """Sets and provenance as they are, and which provenance was not read yet."""
        batches = {batch_id: batch for batch_id, batch in self._batches.items() if batch is not None}
        unread = self.tables.batches_named | (self._batches.keys() - batches.keys())
        return SavedSets(self._sets, batches, sorted(unread), dict(self._off), self._off_after)

    def adopt_sets(self, saved: SavedSets) -> None:
        """Begin with what a former process had of sets and provenance."""
        self._sets, self._batches = saved.sets, dict(saved.batches)
        self.tables.batches_named = set(saved.unread)
        self._off, self._off_after = dict(saved.off), saved.off_after
        kept = saved.sets.sets if saved.sets else ()
        self._by_name = {one.name: one for one in kept}
        self._names = {one.number: one.name for one in kept}

    # ── views ──

    def _snapshot(self) -> Content:
        digest = hashlib.blake2b(digest_size=16)
        for shard in self.shards:
            digest.update(_PLACE.pack(shard.number, shard.position.epoch, shard.position.seq))
            digest.update(shard.kept_digest())
        digest.update(_PLACE.pack(2**32 - 1, self.sets_position.epoch, self.sets_position.seq))
        for name in sorted(self._off):
            digest.update(b"off" + name.encode())
        return Content(
            version=self._version,
            tables={key: (table, len(table)) for key, table in self.tables.by_key.items()},
            sets=self._by_name,
            names=self._names,
            holds=self.tables.holds,
            digest=digest.digest(),
        )

    def _make(self) -> KnownView:
        standing, self._fresh_until = self._standing(self._clock.monotonic())
        capped = standing not in ("verified", "empty")
        position = hashlib.blake2b(self._content.digest + bytes([capped]), digest_size=16).hexdigest()
        trust = self._trust
        view = KnownView(self._content, self._batches, position, trust.as_of_ms, standing, trust.rewound, self._missing)
        self._views.append((self._content.version, weakref.ref(view)))
        return view

    def _standing(self, now: float) -> tuple[Standing, float]:
        """The standing at a moment, and the moment from which it may be another one."""
        trust = self._trust
        if not trust.loaded:
            return "empty", _FOREVER
        if trust.doubtful:
            return "doubtful", _FOREVER
        soft, hard = (trust.verified_at + limit for limit in self._limits)
        if now >= hard:
            return "stale", _FOREVER
        if now >= soft or trust.rewound:
            return "degraded", hard
        return "verified", soft
