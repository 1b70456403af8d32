"""Every implementation of `ports.Store`, and entries to fill them with."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from hashweir.adapters.memory_store import MemoryStore
from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.hashing import HASHERS
from hashweir.model import KINDS, Entry, Form, Kind
from hashweir.ports import Edit, Part, Store
from hashweir.shards import layout
from tests.servers.store import RedisServer, ValkeyServer

SHARDS = 2
_FORMS: dict[Kind, Form] = {"tlsh": "raw", "text": "normal"}
_prefixes = itertools.count(1)


class Deployment:
    """One empty store per prefix; `connect` gives one more client of it, with nothing shared but the server."""

    def __init__(self, make: Callable[[str], Store], prefix: str) -> None:
        self._make = make
        self._prefix = prefix
        self._open: list[Store] = []

    async def connect(self, *, create: bool = True) -> Store:
        store = self._make(self._prefix)
        self._open.append(store)
        if create:
            await store.create(SHARDS)
            await store.open()
        return store

    async def __aenter__(self) -> Deployment:
        return self

    async def __aexit__(self, *_: object) -> None:
        for store in self._open:
            await store.close()


Deployments = Callable[[], Deployment]


def deployments(implementation: str, stack: ExitStack) -> Deployments:
    """A source of fresh deployments: `memory`, `valkey` or `redis`. Raises ServerError without a server."""
    if implementation == "memory":
        twins: dict[str, MemoryStore] = {}

        def make(prefix: str) -> Store:
            return twins.setdefault(prefix, MemoryStore())

    else:
        server = stack.enter_context(ValkeyServer() if implementation == "valkey" else RedisServer())

        def make(prefix: str) -> Store:
            # Either way of digesting has its turn.
            return RedisStore(Access(url=server.url), prefix, near=implementation == "valkey")

    return lambda: Deployment(make, f"test{next(_prefixes)}")


def entries(seed: int = 1, *, set_name: str = "known", kinds: Sequence[Kind] = KINDS) -> Iterator[Entry]:
    """Endless different entries, kinds by turns, every fifth with a name that outgrows the side record."""
    rng = random.Random(seed)
    for number, kind in enumerate(itertools.cycle(kinds)):
        value = rng.randbytes(HASHERS[kind].width)
        form = _FORMS.get(kind, "canonical")
        name = f"item {number} " + ("with a name that is longer than most" if number % 5 == 0 else "")
        yield Entry(
            id=layout.entry_id(set_name, kind, form, value),
            set=set_name,
            kind=kind,
            form=form,
            value=HASHERS[kind].show(value),
            item=layout.item_id(set_name, name),
            item_name=name,
            quality=rng.randrange(101) if kind == "pdq" else None,
            length=rng.randrange(10_000) if kind in ("tlsh", "text") else None,
            batch=rng.randbytes(8).hex(),
            added_ms=1_700_000_000_000 + number,
        )


def shard_of(entry: Entry, shards: int = SHARDS) -> int:
    return layout.shard_of(HASHERS[entry.kind].parse(entry.value), shards)


def in_shard(shard: int, seed: int = 1, *, kinds: Sequence[Kind] = KINDS) -> Iterator[Entry]:
    """Endless entries of one shard."""
    return (entry for entry in entries(seed, kinds=kinds) if shard_of(entry) == shard)


def add(entry: Entry) -> Edit:
    return Edit(verb="add", entry=entry, set_number=7)


def withdraw(entry: Entry) -> Edit:
    return Edit(verb="withdraw", entry=entry, set_number=7)


def part(operation: str, *edits: Edit, shard: int = 0) -> Part:
    return Part(operation=operation, shard=shard, principal="an analyst", edits=edits)
