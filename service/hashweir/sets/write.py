"""Operations: up to 256 changes under one id, split by shard, applied part by part, answered when every part is.

Each part is atomic and idempotent in the store by (operation, shard), so whatever fails half-way is completed by
repeating it. The id that the store sees is derived from the caller's id, the place in the file *and the changes*:
a repeat meets its own answers, while a corrected file under the same id is a new operation.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, Literal, Self, TypeVar

import msgspec
from msgspec import Struct

from hashweir.errors import HashweirError, InputError, OutcomeUnknown, Unreachable
from hashweir.model import Entry, Kind, Set, SetEvent, SetName, Value
from hashweir.ports import Applied, Edit, EditResult, Part, Store
from hashweir.sets.validate import Change, Report
from hashweir.shards.layout import shard_of

MOST_CHANGES: Final = 256
ATTEMPTS: Final = 6
BUDGET_S: Final = 20.0
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

T = TypeVar("T")


Publish = Callable[[Sequence[SetEvent]], Awaitable[None]]


class EntryChanged(Value, frozen=True):
    """What became of one entry."""

    entry: str
    kind: Kind
    result: EditResult


class Written(Value, frozen=True):
    """The answer to add, import and withdraw. `outcomes` counts entries by result.

    `entries` and `events` are listed where all fits into one operation (256 changes); of more, events go to
    `publish` operation by operation.
    """

    operation: str
    set: SetName
    outcomes: dict[EditResult, int]
    report: Report
    operations: int = 0
    dry_run: bool = False
    entries: tuple[EntryChanged, ...] = ()
    missing: tuple[str, ...] = ()
    events: tuple[SetEvent, ...] = ()


class Done(Struct, frozen=True, kw_only=True):
    """The answer to an operation: one result per change, in order. `repeated`: every part was there before."""

    results: tuple[EditResult, ...]
    repeated: bool


def new_operation() -> str:
    """A random operation id, 32 hex."""
    return secrets.token_hex(16)


def derived(operation: str, *parts: bytes) -> str:
    """The id, 32 hex, under which the store knows a piece of an operation."""
    made = hashlib.blake2b(digest_size=16)
    for part in (operation.encode(), *parts):
        made.update(len(part).to_bytes(4, "big"))
        made.update(part)
    return made.hexdigest()


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Repeat an idempotent write while the store is away or its outcome unknown: 6 times, begun within 20 s.

    Raises what the last attempt raised; anything but Unreachable at once.
    """
    pause, until = FIRST_PAUSE_S, time.monotonic() + BUDGET_S
    for left in reversed(range(ATTEMPTS)):
        try:
            return await work()
        except Unreachable:
            if not left or time.monotonic() > until:
                raise
        # Jitter, so that writers that lost the same server do not come back together.
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE_S)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def apply(store: Store, principal: str, into: Set, operation: str, index: int, changes: Sequence[Change]) -> Done:
    """Apply 1-256 changes as piece `index` of an operation.

    Raises InputError(operation_too_large); OutcomeUnknown or Unreachable; Refused.
    """
    if not 1 <= len(changes) <= MOST_CHANGES:
        raise InputError("operation_too_large", f"an operation holds 1 to {MOST_CHANGES} changes")
    identity = [(c.verb, _undated(c)) for c in changes]
    known_as = derived(operation, index.to_bytes(8, "big"), msgspec.json.encode(identity))
    by_shard: dict[int, list[int]] = {}
    for place, change in enumerate(changes):
        by_shard.setdefault(shard_of(change.value, store.shards), []).append(place)
    parts = [
        Part(
            operation=known_as,
            shard=shard,
            principal=principal,
            edits=tuple(Edit(verb=changes[i].verb, entry=changes[i].entry, set_number=into.number) for i in places),
        )
        for shard, places in by_shard.items()
    ]
    answers = await asyncio.gather(*(_part(store, part) for part in parts), return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    if failed:
        raise _explain(failed, len(parts))
    results: dict[int, EditResult] = {}
    repeated = True
    for places, answer in zip(by_shard.values(), answers, strict=True):
        assert isinstance(answer, Applied)
        results.update(zip(places, answer.results, strict=True))
        repeated = repeated and answer.repeated
    return Done(results=tuple(results[place] for place in range(len(changes))), repeated=repeated)


async def put_batches(store: Store, changes: Iterable[Change], there: set[str]) -> None:
    """Store the provenance of changes, before any entry refers to it. `there` remembers what was stored."""
    new = {c.entry.batch: c.batch for c in changes if c.batch is not None and c.entry.batch not in there}
    await asyncio.gather(*(patiently(partial(store.put_batch, *one)) for one in new.items()))
    if len(there) > 100_000:  # a file with its own note in every row must not grow this for ever
        there.clear()
    there.update(new)


async def put_set(store: Store, operation: str, changed: Set) -> Set:
    """Create (version 0) or replace a set that was read at `changed.version`; gives it with its new version.

    Raises as `Store.put_set` does.
    """
    known_as = derived(operation, msgspec.json.encode(changed))
    try:
        return await patiently(lambda: store.put_set(known_as, changed, changed.version))
    except Unreachable as error:
        raise repeatable(error, operation) from error


def now_ms() -> int:
    """Wall-clock time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def _part(store: Store, part: Part) -> Applied:
    return await patiently(lambda: store.apply(part))


def _undated(change: Change) -> tuple[object, ...]:
    """All of a change but its time: a repeat is later and still the same."""
    e = change.entry
    return e.id, e.item, e.state, e.quality, e.length, e.batch


def _explain(failed: Sequence[BaseException], parts: int) -> BaseException:
    """The one error for several: a refusal or a fault first, because repeating does not mend it."""
    for error in failed:
        if not isinstance(error, Unreachable):
            return error
    first = failed[0]
    assert isinstance(first, HashweirError)
    words = f"{parts - len(failed)} of {parts} parts confirmed: {first}"
    unknown = len(failed) < parts or any(isinstance(error, OutcomeUnknown) for error in failed)
    return OutcomeUnknown("outcome_unknown", words) if unknown else Unreachable(first.reason, words)


def event_of(entry: Entry, result: EditResult, of: Set, operation: str, time_ms: int) -> SetEvent | None:
    """What platforms must hear of a change: withdrawals always, additions where they count at once."""
    what: Literal["entry_withdrawn", "entry_activated"]
    if result == "withdrawn":
        what = "entry_withdrawn"
    elif result in ("added", "reactivated") and entry.state == "active" and of.state == "active":
        what = "entry_activated"
    else:
        return None
    return SetEvent(what=what, set=of.name, entry=entry.id, item=entry.item, operation=operation, at_ms=time_ms)


def repeatable(error: Unreachable, operation: str, done: int = 0) -> Unreachable:
    """The same error, telling how far it came and how to go on."""
    words = f"{error}; {done} entries are done; repeat the same command with --operation {operation} to complete it"
    return type(error)(error.reason, words)


class Writer:
    """Writes runs of changes as the pieces of one operation and keeps the count."""

    def __init__(
        self, store: Store, principal: str, into: Set, operation: str, time_ms: int, publish: Publish | None
    ) -> None:
        self._store, self._principal, self._into, self._operation = store, principal, into, operation
        self._time_ms, self._publish = time_ms, publish
        self._batches: set[str] = set()
        self._entries: list[EntryChanged] = []
        self._events: list[SetEvent] = []
        self._pieces = 0
        self.outcomes: Counter[EditResult] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is under way after `write`."""

    async def write(self, changes: Sequence[Change]) -> None:
        """Apply at most 256 changes as the next piece. Raises Unreachable, saying how to go on; Refused."""
        try:
            await put_batches(self._store, changes, self._batches)
            done = await apply(self._store, self._principal, self._into, self._operation, self._pieces, changes)
        except Unreachable as error:
            raise repeatable(error, self._operation, sum(self.outcomes.values())) from error
        self._pieces += 1
        self.outcomes.update(done.results)
        pairs = list(zip(changes, done.results, strict=True))
        events = [
            event
            for change, result in pairs
            if (event := event_of(change.entry, result, self._into, self._operation, self._time_ms))
        ]
        if self._publish and events:
            await self._publish(events)
        if self._pieces == 1:
            self._entries = [EntryChanged(entry=c.entry.id, kind=c.entry.kind, result=r) for c, r in pairs]
            self._events = events
        else:
            self._entries, self._events = [], []

    def answer(self, report: Report, *, missing: Sequence[str] = ()) -> Written:
        """What was done in all."""
        return Written(
            operation=self._operation,
            set=self._into.name,
            outcomes={result: count for result, count in sorted(self.outcomes.items()) if count},
            report=report,
            operations=self._pieces,
            entries=tuple(self._entries),
            missing=tuple(missing),
            events=tuple(self._events),
        )
