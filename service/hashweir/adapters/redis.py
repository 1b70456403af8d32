"""Shards and sets in Redis or Valkey. Every change goes through the server functions of `hashweir_1.lua`.

Long because it is one seam: each method is a few commands, and their keys want to be seen together.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from hashweir.adapters.edits import RESULTS, VERBS, pack_part
from hashweir.adapters.redis_link import Access, Command, Link
from hashweir.adapters.redis_near import Near
from hashweir.adapters.redis_replies import (
    HEAD_FIELDS,
    check_layout,
    milliseconds,
    new_epoch,
    read_batch,
    read_head,
    read_record,
    read_set,
    read_sums,
    readable,
)
from hashweir.errors import ConfigError, InputError, OutcomeUnknown, Refused, Unreachable
from hashweir.model import KINDS, Batch, Kind, Set
from hashweir.ports import Applied, Chunk, Head, PackedPart, Part, Position, SetsState, SlotChange
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES

_LIBRARY = Path(__file__).with_name("hashweir_1.lua")
_DAY_MS = 86_400_000
STREAM_LENGTH = 4096
"""Changes that a shard's stream keeps at least (0.5 MB), else one for every sixteenth entry. Who is farther behind
re-reads the chunks whose sums differ."""
_RETRY_S = 0.1
_TRIES = 20
"""A server hardly ever does something else between commands that it was sent together."""
_DIGESTS_AT_ONCE = 4
"""Some 1.3 ms of the server's time, in which it does nothing else."""
_CHANGES_PER_RECORD = 16
"""About what a record of a busy stream holds: 1 of a single change, 256 of a bulk import."""


class RedisStore:
    """A `ports.Store` on one Redis >= 7.0 or Valkey server, with its replicas.

    Changes that a server loses by a failover are found by followers; `replicas` makes that rare: an operation is
    answered when so many have it. A change stream keeps about `stream_length` changes of a shard, operation
    answers live for `answer_days`.
    """

    def __init__(
        self,
        access: Access,
        prefix: str,
        *,
        replicas: int = 0,
        replicas_ms: int = 1000,
        stream_length: int = STREAM_LENGTH,
        answer_days: int = 7,
        near: bool = True,
    ) -> None:
        """Connects to nothing yet. Raises ConfigError for a prefix or address that can't be used.

        `near`: where the address is of this machine, so is the server, which is then spared the digests of chunks.
        """
        if not prefix or not prefix.isprintable() or set(prefix) & set("{}*? []"):
            raise ConfigError(f"store prefix {prefix!r} can't be used in keys")
        self._access = access
        self._prefix = prefix
        self._replicas, self._replicas_ms = replicas, replicas_ms
        self._stream_length, self._answer_ms = stream_length, answer_days * _DAY_MS
        self._link = Link(access)
        # Blocking reads have their own connections, so that a crowd of them can't keep a write waiting.
        self._waiting = Link(access)
        self._near = Near(access, self._link.options, works=near)
        self.shards = 0

    # ── opening ──

    async def open(self) -> None:
        """Reach the server within `connect_s` and read the layout.

        Raises Unreachable(store_unreachable) naming the address, Refused(store_not_created | store_layout).
        """
        layout, shards, ready = (await self._reach(("HMGET", self._sets("head"), "layout", "shards", "ready")))[0]
        if layout is None or ready != b"1":
            raise Refused("store_not_created")
        check_layout(layout)
        self.shards = int(shards)

    async def create(self, shards: int) -> bool:
        """Load the function library and make an empty deployment of so many shards.

        False where one exists: it is not touched, and `shards` does not matter. A creation that was cut short is
        completed with the number of shards it began with. Raises as `open`, and InputError(bad_field).
        """
        if not 1 <= shards <= 1024:
            raise InputError("bad_field", f"{shards} shards; 1 to 1024 are allowed")
        await self._reach(("FUNCTION", "LOAD", "REPLACE", _LIBRARY.read_bytes()))
        head = self._sets("head")
        ((self.shards, ready),) = await self._write(("FCALL", "hashweir_1_claim", 1, head, new_epoch(), shards))
        if ready:
            return False
        shards_keys = ((self._key(n, "head"), self._key(n, "changes")) for n in range(self.shards))
        await self._write(*(("FCALL", "hashweir_1_create_shard", 2, *keys, new_epoch()) for keys in shards_keys))
        await self._write(("FCALL", "hashweir_1_complete", 1, head))
        return True

    async def _reach(self, *commands: Command) -> list[Any]:
        began = time.monotonic()
        while True:
            try:
                return await self._link.exchange(*commands)
            except Unreachable as e:
                if time.monotonic() - began + _RETRY_S > self._access.connect_s:
                    raise Unreachable(e.reason, f"{e} (tried for {self._access.connect_s:g} s)") from None
            await asyncio.sleep(_RETRY_S)

    # ── writing ──

    async def apply(self, part: Part) -> Applied:
        """Apply a part atomically and idempotently by (operation, shard).

        Raises InputError for a part that can't be stored (nothing of it is), OutcomeUnknown where fewer replicas
        than configured confirmed it or the answer was lost, Unreachable, Refused.
        """
        return await self.apply_packed(pack_part(part, self.shards))

    async def apply_packed(self, part: PackedPart) -> Applied:
        """The same with bytes, which the server function checks for lengths, kinds and states. Raises as `apply`."""
        keys = [self._key(part.shard, name) for name in ("head", "changes", f"op:{part.operation}")]
        settings = (self._stream_length, self._answer_ms, part.principal)
        names = (word for at, name in part.names for word in (at + 1, name))
        call = (len(keys), *keys, *settings, part.verbs, part.slots, part.sides, *names)
        if VERBS["add"] in part.verbs[::2]:
            return await self._applied("hashweir_1_apply", *call)
        try:
            return await self._applied("hashweir_1_withdraw", *call)  # the same, which a full store does not refuse
        except Refused as error:
            if error.reason != "store_not_created":
                raise
        return await self._applied("hashweir_1_apply", *call)  # a library of before the other one

    async def _applied(self, function: str, *call: str | bytes | int) -> Applied:
        ((repeated, epoch, seq, results),) = await self._write(("FCALL", function, *call))
        return Applied(
            results=tuple(RESULTS[letter] for letter in results.decode()),
            position=Position(int(epoch), int(seq)),
            repeated=bool(repeated),
        )

    async def new_epoch(self, shard: int | None) -> Position:
        """Begin another history with what is there. Raises Refused(store_changed), and as `apply`."""
        name = self._sets if shard is None else partial(self._key, shard)
        ((epoch,),) = await self._link.exchange(("HMGET", name("head"), "epoch"))
        if epoch is None:
            raise Refused("store_not_created")
        keys = name("head"), name("changes")
        (answer,) = await self._write(("FCALL", "hashweir_1_new_epoch", 2, *keys, epoch, new_epoch(above=int(epoch))))
        return Position(*map(int, answer))

    async def mend_chunk(
        self, shard: int, kind: Kind, number: int, seen: Chunk, right: tuple[bytes, bytes] | None
    ) -> Position:
        """Write what gives the chunk's sum, or accept what is there. Raises Refused(store_changed | bad_field)."""
        keys = self._key(shard, "head"), self._key(shard, "changes")
        digest = hashlib.sha1(seen.slots + seen.sides, usedforsecurity=False).hexdigest()
        settings = self._stream_length, KINDS.index(kind) + 1, number, digest
        (answer,) = await self._write(("FCALL", "hashweir_1_mend", 2, *keys, *settings, *(right or ())))
        return Position(*map(int, answer))

    async def put_set(self, operation: str, changed: Set, expected_version: int) -> Set:
        """Create (expected_version 0) or replace a set; gives number and new version. Idempotent by operation.

        Raises Refused(set_exists | set_not_found | set_changed), and as `apply`.
        """
        keys = [self._sets(name) for name in ("head", "changes", "sets", f"op:{operation}")]
        policy = msgspec.json.encode(msgspec.structs.replace(changed, number=0, version=0))
        settings = (self._stream_length, self._answer_ms, changed.name, expected_version, policy)
        (stored,) = await self._write(("FCALL", "hashweir_1_put_set", len(keys), *keys, *settings))
        return read_set(stored)

    async def put_batch(self, batch_id: str, batch: Batch) -> None:
        """Store a provenance record; a repeat is harmless. Raises as `apply`."""
        keys = self._sets("head"), self._sets("batches")
        await self._write(("FCALL", "hashweir_1_put_batch", 2, *keys, batch_id, msgspec.json.encode(batch)))

    async def _write(self, *commands: Command) -> list[Any]:
        """WAIT counts replicas for the connection it comes on, so it rides behind the write."""
        if not self._replicas:
            return await self._link.exchange(*commands, writes=True)
        wait = ("WAIT", self._replicas, self._replicas_ms)
        *replies, confirmed = await self._link.exchange(*commands, wait, writes=True, wait_s=self._replicas_ms / 1000)
        if confirmed < self._replicas:
            raise OutcomeUnknown(
                "outcome_unknown",
                f"{self._link.address}: {confirmed} of {self._replicas} replicas confirmed within "
                f"{self._replicas_ms} ms: repeat with the same operation id",
            )
        return replies

    # ── reading ──

    async def read_batches(self, batch_ids: Sequence[str]) -> dict[str, Batch]:
        """The provenance records that exist. Raises Unreachable, Refused."""
        if not batch_ids:
            return {}
        (found,) = await self._link.exchange(("HMGET", self._sets("batches"), *batch_ids))
        pairs = zip(batch_ids, found, strict=True)
        return {id_: read_batch(id_, text) for id_, text in pairs if text is not None}

    async def head(self, shard: int) -> Head:
        """A shard's head. Raises Unreachable, Refused."""
        return (await self._heads([shard]))[0]

    async def heads(self) -> list[Head]:
        """All heads in one round trip. Raises Unreachable, Refused."""
        return await self._heads(range(self.shards))

    async def _heads(self, shards: Sequence[int]) -> list[Head]:
        now, info, *rows = await self._link.exchange(
            ("TIME",), ("INFO", "replication"), *(("HMGET", self._key(n, "head"), *HEAD_FIELDS) for n in shards)
        )
        facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        return [read_head(row, milliseconds(now), facts["role"], facts["master_replid"]) for row in rows]

    async def sums(self, shard: int, kind: Kind) -> list[int]:
        """One sum per chunk of this kind, as the store keeps them. Raises Unreachable, Refused."""
        (text,) = await self._link.exchange(("GET", self._key(shard, f"sums:{kind}")))
        return read_sums(text or b"")

    async def read_chunk(self, shard: int, kind: Kind, number: int) -> Chunk:
        """One chunk with its sum and the shard's position, all of one instant.

        Empty beyond the last chunk. Raises Unreachable, Refused.
        """
        (epoch, seq, count), slots, sides, total = await self._at_once(
            ("HMGET", self._key(shard, "head"), "epoch", "seq", f"n:{kind}"),
            ("GET", self._key(shard, f"c:{kind}:{number}")),
            ("GET", self._key(shard, f"s:{kind}:{number}")),
            ("GETRANGE", self._key(shard, f"sums:{kind}"), number * 8, number * 8 + 7),
        )
        if epoch is None:
            raise Refused("store_not_created")
        with readable("a head"):
            used = max(0, min(CHUNK_SLOTS, int(count or 0) - number * CHUNK_SLOTS))
            position = Position(int(epoch), int(seq))
        return Chunk(
            slots=(slots or b"")[: used * SLOT_BYTES],
            sides=(sides or b"")[: used * SIDE_BYTES],
            sum=int.from_bytes(total, "big"),
            position=position,
        )

    async def _at_once(self, head: Command, *commands: Command) -> list[Any]:
        """Answers of one instant, that of the head first: it has a position, which each write moves.

        Not as a transaction, which a full Redis refuses whatever is in it.
        """
        for _ in range(_TRIES):
            *answers, after = await self._link.exchange(head, *commands, head)
            if answers[0] == after:
                return answers
        raise Unreachable("store_unreachable", f"{self._link.address}: changes {_TRIES} times while it is read")

    async def digests(self, shard: int, kind: Kind, first: int, count: int) -> list[bytes]:
        """Digests of chunks, by the server (about 0.3 ms of its time each), or here where it is on this machine.

        Raises Unreachable, Refused.
        """
        if self._near.works:
            names = [
                (self._key(shard, f"c:{kind}:{n}"), self._key(shard, f"s:{kind}:{n}"))
                for n in range(first, first + count)
            ]
            with readable("a head"):
                near = await asyncio.to_thread(self._near.digests, self._key(shard, "head"), names, kind, first)
            if near is not None:
                return near
        found: list[bytes] = []
        for at in range(first, first + count, _DIGESTS_AT_ONCE):
            some = min(_DIGESTS_AT_ONCE, first + count - at)
            command = ("FCALL_RO", "hashweir_1_digests", 1, self._key(shard, "head"), kind, at, some)
            found += [bytes.fromhex(text.decode()) for text in (await self._link.exchange(command))[0]]
        return found

    async def read_changes(self, after: Mapping[int, Position], wait_ms: int, most: int) -> list[SlotChange]:
        """Changes of several shards after their positions, in one blocking read. Raises Unreachable, Refused."""
        if not after:
            return []
        streams = {self._key(shard, "changes").encode(): shard for shard in after}
        # BLOCK 0 would wait for ever.
        block: Command = ("BLOCK", wait_ms) if wait_ms > 0 else ()
        ids = (f"{p.epoch}-{p.seq}" for p in after.values())
        link = self._waiting if block else self._link
        (answer,) = await link.exchange(
            ("XREAD", "COUNT", -(-most // _CHANGES_PER_RECORD), *block, "STREAMS", *streams, *ids),
            wait_s=wait_ms / 1000,
        )
        found: list[SlotChange] = []
        for key, records in answer or ():
            shard = streams[key]
            left = most
            for id_, fields in records:
                changes = read_record(shard, id_, fields, after[shard])[:left]
                found += changes
                left -= len(changes)
                if not left:
                    break
                await asyncio.sleep(0)  # a busy import's records take a while: let others on the loop have their turn
        return found

    async def find(self, shard: int, entry_ids: Sequence[str]) -> dict[str, tuple[Kind, int]]:
        """Where these entries stand: kind and slot. Raises Unreachable, Refused."""
        ids = [bytes.fromhex(id_) for id_ in entry_ids]
        (places,) = await self._link.exchange(("FCALL_RO", "hashweir_1_find", 1, self._key(shard, "head"), *ids))
        pairs = zip(entry_ids, places, strict=True)
        return {id_: (KINDS[place % 8 - 1], place // 8) for id_, place in pairs if place >= 0}

    async def read_names(self, shard: int, items: Sequence[str]) -> dict[str, str]:
        """Item names too long for a side record, by item id. Raises Unreachable, Refused."""
        if not items:
            return {}
        ids = [bytes.fromhex(item) for item in items]
        (names,) = await self._link.exchange(("HMGET", self._key(shard, "names"), *ids))
        return {item: name.decode() for item, name in zip(items, names, strict=True) if name is not None}

    async def read_sets(self) -> SetsState:
        """All sets, at one position. Raises Unreachable, Refused."""
        (layout, epoch, seq), now, values = await self._at_once(
            ("HMGET", self._sets("head"), "layout", "epoch", "seq"), ("TIME",), ("HVALS", self._sets("sets"))
        )
        if layout is None:
            raise Refused("store_not_created")
        check_layout(layout)
        found = sorted((read_set(value) for value in values), key=lambda s: s.number)
        with readable("the sets' head"):
            position = Position(int(epoch), int(seq))
        return SetsState(position=position, sets=tuple(found), time_ms=milliseconds(now))

    async def wait_sets(self, after: Position, wait_ms: int) -> bool:
        """Wait until the sets' position differs from `after`; False when the time ran out. Raises as `open`."""
        if await self._sets_position() != after:
            return True
        if wait_ms <= 0:
            return False
        id_ = f"{after.epoch}-{after.seq}"
        await self._waiting.exchange(
            ("XREAD", "COUNT", 1, "BLOCK", wait_ms, "STREAMS", self._sets("changes"), id_), wait_s=wait_ms / 1000
        )
        # Asked again rather than concluded: a new epoch may sort before the old one, where XREAD does not look.
        return await self._sets_position() != after

    async def _sets_position(self) -> Position:
        ((epoch, seq),) = await self._link.exchange(("HMGET", self._sets("head"), "epoch", "seq"))
        if epoch is None:
            raise Refused("store_not_created")
        with readable("the sets' head"):
            return Position(int(epoch), int(seq))

    async def close(self) -> None:
        """Close all connections. Never raises."""
        await self._link.close()
        await self._waiting.close()
        await asyncio.to_thread(self._near.close)

    def _key(self, shard: int, name: str) -> str:
        return f"{{{self._prefix}:{shard}}}:{name}"

    def _sets(self, name: str) -> str:
        return f"{{{self._prefix}:sets}}:{name}"
