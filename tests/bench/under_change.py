"""A follower that serves lookups while its store is changed, killed and put back to an older state.

    python -m tests.bench.under_change [--entries 1000000] [--lookups-per-second 500] [--import-per-second 10000]
                                       [--lives 12]

A Valkey with an append-only file (`appendfsync always`) is filled with random PDQ entries. A process follows it and is
asked as a worker asks (`pipeline.lookup_batches`, over views that may be judged by) at fixed moments, whatever became
of the questions before. `lookups` count from those moments, of which timers alone are up to a millisecond late; `stage`
from when the question was asked, as a worker's metric of that name does. Who had no view to judge by is no part of
either: `viewless` says how long there was none, and `caught_up` how long the answer took from then on. `slowest` says
what the slowest hundredth was made of (means, ms): `loop`, until the loop came to it, and `lookup`. `cores` says what
each party used, and what its threads waited for a processor, in per cent of one.

Its first life: quiet; single adds and withdrawals, from the return of the write to the first view that has them;
imports, each at half as much again, until lookups take too long or the store gives no more. Its second life: an import,
at whose side 1 % of all entries are withdrawn and the store is killed and started; then an older append-only file is
put in its place. `turns` are the standings of views, in seconds after the store answered again. Memory is
`smaps_rollup`, its peak the kernel's high-water mark since it was steady. Exit code 1 where a lookup returned an entry
after a view without it. Long because both processes and what they tell each other are one story.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access, Link
from hashweir.errors import Unreachable
from hashweir.lifecycle import calm
from hashweir.model import Fingerprint, Scan
from hashweir.pipeline.deliver import ViewGate
from hashweir.pipeline.lookup_batches import Lookups
from hashweir.ports import PackedPart, SlotChange
from hashweir.sets import commands
from hashweir.sets.bulk import BulkWriter
from hashweir.sets.read import Row
from hashweir.sets.validate import Change, Validator
from hashweir.sets.write import new_operation, now_ms
from hashweir.shards.follow import Follower
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SLOT_FORMS
from hashweir.shards.tables import ACTIVE
from hashweir.wiring.judging import LOOKUP_THREADS
from tests.bench.cold_start import memory
from tests.bench.spent import Account
from tests.contract.following import SetClock
from tests.filled import PREFIX, SHARDS, fill
from tests.servers.store import ValkeyServer

RADIUS = 31
QUERIES = 20_000
SINGLES = 250
QUIET_S, RATE_S, IMPORT_S, AFTER_S = 10.0, 8.0, 20.0, 10.0
TOO_LONG_MS = 10.0
FIELDS = SLOT_FORMS["pdq"]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    if not seconds:
        return {}
    p50, p99, most = (round(float(np.percentile(seconds, share)) * 1e3, 2) for share in (50, 99, 100))
    return {"n": len(seconds), "p50": p50, "p99": p99, "max": most}


PARTS = ("loop", "lookup")


def slowest(lookups: list[tuple[float, ...]]) -> dict[str, float]:
    """What the slowest hundredth was made of: means in milliseconds."""
    if not lookups:
        return {}
    worst = sorted(lookups, key=sum)[-max(1, len(lookups) // 100) :]
    return dict(zip(PARTS, np.round(np.mean(worst, axis=0) * 1e3, 2).tolist(), strict=True))


def begin_peak() -> None:
    """The high-water mark of this process' memory begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


# ── the process that follows ──


class Asked:
    """A follower, what it is asked, and what came of it since somebody wanted to know."""

    def __init__(self, url: str, rate: float) -> None:
        self.store = RedisStore(Access(url=url), PREFIX)
        alarms: list[str] = []
        self.follower = Follower(
            self.store, SetClock(), on_change=self._changed, on_alarm=lambda reason, *_: alarms.append(reason)
        )
        self._alarms, self._rate = alarms, rate
        threads, gate = ThreadPoolExecutor(LOOKUP_THREADS, "lookup"), ViewGate(self.follower.known)
        self._lookup = Lookups(gate.usable_view, threads).lookup
        self._asking: set[asyncio.Task[None]] = set()
        self._account = Account(names={"MainThread": "loop", "lookup": "lookups", "": "others"})
        self._gone: dict[str, int] = {}
        """Entries seen withdrawn, numbered in that order."""
        self._gone_values: list[bytes] = []
        self._back = 0
        """How often one of them was returned by a later view."""
        self._watched: set[bytes] = set()
        self._due = 0.0
        """When the next lookup is to be asked."""
        self._begin()

    def _begin(self) -> None:
        self._lookups: list[tuple[float, ...]] = []
        """Seconds of each of `PARTS`."""
        self._viewless: list[float] = []
        self._caught_up: list[float] = []
        self._live: list[float] = []
        self._events: list[tuple[str, bool, float]] = []
        self._standings: dict[str, int] = {}
        self._turns: list[tuple[float, str]] = []
        """When the view's standing was another one than before."""

    def _changed(self, change: SlotChange) -> None:
        """A change is visible from now on."""
        value, active = change.image[:32], change.image[FIELDS.state] == ACTIVE
        self._live.append(max(0.0, time.time() - change.at_ms / 1000))
        if value in self._watched:
            self._events.append((value.hex(), active, time.monotonic()))
        entry = change.image[FIELDS.entry : FIELDS.entry + 16].hex()
        if not active and entry not in self._gone:
            self._gone[entry] = len(self._gone)
            self._gone_values.append(value)

    def _queries(self) -> list[bytes]:
        """Half of them within the radius of an entry."""
        rng, shards = random.Random(1), self.follower.known.shards
        made = []
        for number in range(QUERIES):
            query = bytearray(rng.randbytes(32))
            if number % 2:
                shard = shards[rng.randrange(len(shards))]
                query = bytearray(shard.slot("pdq", rng.randrange(shard.count("pdq")))[0][:32])
                for bit in rng.sample(range(256), rng.randrange(RADIUS + 1)):
                    query[bit // 8] ^= 1 << bit % 8
            made.append(bytes(query))
        return made

    async def ask(self) -> None:
        """Lookups for ever; every fifth is for an entry that was withdrawn, once there are any."""
        queries, number = self._queries(), 0
        self._due = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, self._due - time.monotonic()))
            standing = self.follower.known.view().standing
            self._standings[standing] = self._standings.get(standing, 0) + 1
            if not self._turns or self._turns[-1][1] != standing:
                self._turns.append((time.time(), standing))
            while self._due <= time.monotonic():  # all of them: a turn of the loop may take longer than they are apart
                query = queries[number % QUERIES]
                if number % 5 == 0 and self._gone_values:
                    query = self._gone_values[number % len(self._gone_values)]
                task = asyncio.create_task(self._ask_one(query, self._due))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
                number, self._due = number + 1, self._due + 1 / self._rate

    async def _ask_one(self, query: bytes, due: float) -> None:
        one = Fingerprint(kind="pdq", form="canonical", recipe="pdq/canonical/1", value=query.hex(), quality=90)
        began, gone = time.monotonic(), len(self._gone)
        _, found, viewless_s = await self._lookup(Scan(media_class="image", media_type=None, fingerprints=(one,)))
        took_s = time.monotonic() - began - viewless_s
        if viewless_s:
            self._viewless.append(viewless_s)
            self._caught_up.append(took_s)
        else:
            self._lookups.append((began - due, took_s))
        self._back += sum(self._gone.get(near.entry.id, gone) < gone for near in found)

    def sweep(self) -> int:
        """Look up every entry that was withdrawn; how many of them are found."""
        view, values = self.follower.known.view(), self._gone_values
        found = (view.search("pdq", "canonical", values[at : at + 64], 0) for at in range(0, len(values), 64))
        return sum(one.entry.id in self._gone for some in found for one in some)

    def tell(self) -> dict[str, Any]:
        """What was seen since the last time."""
        status = Path("/proc/self/status").read_text()
        facts = {
            "lookups": percentiles([sum(parts) for parts in self._lookups]),
            "stage": percentiles([parts[PARTS.index("lookup")] for parts in self._lookups]),
            "viewless": percentiles(self._viewless),
            "caught_up": percentiles(self._caught_up),
            "slowest": slowest(self._lookups),
            "cores": self._account.tell(),
            "changes_to_live": percentiles(self._live),
            "standings": self._standings,
            "turns": self._turns,
            "alarms": dict(Counter(self._alarms)),
            "rows": sum(shard.count("pdq") for shard in self.follower.known.shards),
            "withdrawn_seen": len(self._gone),
            "withdrawn_returned": self._back,
            "peak": int(status.split("VmHWM:")[1].split()[0]) * 1024,
            "events": self._events,
            **memory(),
        }
        self._begin()
        self._due = time.monotonic()  # to say all this takes up to a tenth of a second, for which nobody has to wait
        return facts

    async def obey(self, word: str, rest: list[str]) -> dict[str, Any]:
        """One line from the parent: `tell`, `watch VALUES`, `steady`, `sweep` or `settle`."""
        if word == "watch":
            self._watched = {bytes.fromhex(one) for one in rest}
        elif word == "settle":
            await settled(self.follower, self.store)
        elif word == "steady":
            begin_peak()
        elif word == "sweep":
            return {"found": await asyncio.to_thread(self.sweep)}
        else:
            return self.tell()
        return {}


async def settled(follower: Follower, store: RedisStore) -> None:
    """Until everything that the store has is visible, and no upkeep is due."""
    while True:
        try:
            seqs = [head.position.seq for head in await store.heads()]
        except Unreachable:
            await asyncio.sleep(0.1)
            continue
        stats = follower.stats()
        usable = follower.known.view().standing in ("verified", "degraded")
        if usable and [one.applied_seq for one in stats] == seqs and not any(one.doubt for one in stats):
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    await follower.tended.wait()


async def follow(url: str, rate: float, began: float) -> None:
    """Follow, be asked, and answer the parent line by line."""
    asked = Asked(url, rate)
    following = asyncio.create_task(asked.follower.run())
    await asked.follower.ready.wait()
    print(json.dumps({"ready_s": round(time.time() - began, 2)}), flush=True)
    await settled(asked.follower, asked.store)
    calm()
    asking = asyncio.create_task(asked.ask())
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        word, *rest = line.decode().split()
        print(json.dumps(await asked.obey(word, rest)), flush=True)
        assert not asking.done()
        assert not following.done()
    for task in (asking, following):
        task.cancel()
    await asyncio.wait([asking, following])
    await asked.store.close()


# ── the parent: the store, and who writes to it ──


class Child:
    """The process that follows."""

    def __init__(self, process: asyncio.subprocess.Process, server: ValkeyServer) -> None:
        self._process, self._server = process, server
        self._others = {"writers": Account(), "store": Account(server.pid)}

    async def say(self, *words: str) -> dict[str, Any]:
        """Its answer to a line."""
        assert self._process.stdin
        assert self._process.stdout
        if words:
            self._process.stdin.write((" ".join(words) + "\n").encode())
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        if "cores" in answer:
            answer["cores"] |= {name: account.tell()["all"] for name, account in self._others.items()}
        return answer

    def restarted(self) -> None:
        """The store is another process now."""
        self._others["store"] = Account(self._server.pid)


@asynccontextmanager
async def follower_of(server: ValkeyServer, rate: float) -> AsyncIterator[Child]:
    """A process that follows and is asked, settled."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.under_change", "follow", server.url, repr(rate), repr(time.time())),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    child = Child(process, server)
    show("ready", await child.say())
    await child.say("settle")
    try:
        yield child
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


class Import:
    """Random entries into the set `known`, by the writer of `hashweir sets import`, at a rate. Survives the store."""

    def __init__(self, store: RedisStore, rate: float, seconds: float, seed: int) -> None:
        self._store, self._rate, self._count = store, rate, int(rate * seconds)
        self._rng = random.Random(seed)
        self.written = 0
        self.seconds = 0.0

    def _rows(self, count: int) -> Iterator[tuple[int, Row]]:
        for number in range(count):
            yield number + 1, Row(kind="pdq", value=self._rng.randbytes(32).hex(), quality=90)

    async def run(self) -> float:
        """Entries a second that it came to."""
        into, began = await commands.find_set(self._store, "known"), time.monotonic()
        while self.written < self._count:
            start, first = time.monotonic(), self.written
            checker = Validator(into, principal="bench", now_ms=now_ms())
            made = BulkWriter(self._store, "bench", into, new_operation(), now_ms(), None)
            try:
                async with made as writer:
                    run: list[Change] = []
                    for _, change in checker.check(self._rows(self._count - first)):
                        assert isinstance(change, Change)
                        run.append(change)
                        if len(run) == 256:
                            await writer.write(run)
                            self.written, run = self.written + len(run), []
                            behind = start + (self.written - first) / self._rate - time.monotonic()
                            await asyncio.sleep(max(0.0, behind))
                    await writer.write(run)
                    self.written += len(run)
            except Unreachable:
                await asyncio.sleep(0.2)
        return self.written / (time.monotonic() - began)


async def singles(store: RedisStore, child: Child) -> dict[str, Any]:
    """Add and withdraw one entry after the other; what the follower saw meanwhile, and how soon."""
    rng = random.Random(5)
    rows = [Row(kind="pdq", value=rng.randbytes(32).hex(), quality=90) for _ in range(SINGLES)]
    await child.say("watch", *(row.value for row in rows))
    await child.say("tell")
    returned: dict[tuple[str, bool], float] = {}
    for row in rows:
        await commands.add(store, commands.LOCAL, "known", [row])
        returned[row.value, True] = time.monotonic()
        await asyncio.sleep(rng.uniform(0, 0.03))
        await commands.withdraw(store, commands.LOCAL, "known", [row], reason="bench")
        returned[row.value, False] = time.monotonic()
        await asyncio.sleep(rng.uniform(0, 0.03))
    await asyncio.sleep(2)
    facts = await child.say("tell")
    seen = {(value, active): at for value, active, at in facts["events"]}
    assert seen.keys() == returned.keys(), "changes that were never seen"
    for name, active in (("add_to_live", True), ("withdrawal_to_live", False)):
        facts[name] = percentiles([max(0.0, seen[key] - at) for key, at in returned.items() if key[1] == active])
    return facts


async def withdraw_some(store: RedisStore, entries: int, apart_s: float) -> int:
    """A tenth of the entries in every tenth chunk, 100 at a time; how many."""
    done = 0
    for shard in range(SHARDS):
        chunks = -(-(entries // SHARDS) // CHUNK_SLOTS)
        for number in range(0, chunks, 10):
            chunk = await patient(partial(store.read_chunk, shard, "pdq", number))
            slots = [chunk.slots[at : at + SLOT_BYTES] for at in range(0, len(chunk.slots), 10 * SLOT_BYTES)]
            slots = [slot for slot in slots if slot[FIELDS.state] == ACTIVE]
            part = PackedPart(
                operation=new_operation(),
                shard=shard,
                principal="bench",
                verbs=b"W\x01" * len(slots),
                slots=b"".join(slots),
                sides=bytes(SIDE_BYTES * len(slots)),
            )
            applied = await patient(partial(store.apply_packed, part))
            assert set(applied.results) == {"withdrawn"}, applied.results
            done += len(slots)
            await asyncio.sleep(apart_s)
    return done


async def patient(work: Any) -> Any:
    """Repeat what is idempotent until the store is back."""
    while True:
        try:
            return await work()
        except Unreachable:
            await asyncio.sleep(0.1)


def show(name: str, facts: dict[str, Any], back: float = 0.0) -> None:
    """One line; sizes in MB, times of turns in seconds after the store was back."""
    shown = {key: value for key, value in facts.items() if key not in ("events", "turns")}
    if back:
        shown["turns"] = [(round(at - back, 2), standing) for at, standing in facts["turns"]]
    for key in ("Rss", "Pss", "peak"):
        if key in shown:
            shown[key] = round(shown[key] / 1e6)
    print(f"{name} (load {os.getloadavg()[0]:.1f}): {json.dumps(shown)}", flush=True)


async def first_life(server: ValkeyServer, store: RedisStore, rate: float) -> None:
    """Quiet, single changes, and imports that become faster."""
    async with follower_of(server, rate) as child:
        await child.say("tell")
        await asyncio.sleep(QUIET_S)
        show("quiet", await child.say("tell"))
        show("single changes", await singles(store, child))
        asked = 10_000.0
        while True:
            importing = Import(store, asked, RATE_S, int(asked))
            got = await importing.run()
            facts = await child.say("tell")
            show(f"import of {asked:.0f}/s, {got:.0f}/s reached", facts)
            if facts["lookups"]["p99"] > TOO_LONG_MS or got < 0.8 * asked:
                return
            await child.say("settle")
            await child.say("tell")
            asked *= 1.5


async def second_life(server: ValkeyServer, store: RedisStore, entries: int, rate: float, import_rate: float) -> bool:
    """Import, withdrawals, SIGKILL, an older file; whether no withdrawn entry came back."""
    folder = server.log_file.parent
    async with follower_of(server, rate) as child:
        await child.say("steady")
        await child.say("tell")
        await asyncio.sleep(QUIET_S)
        steady = await child.say("tell")
        show("steady", steady)
        shutil.copytree(folder / "appendonlydir", folder / "older")
        chunks = SHARDS * -(-entries // SHARDS // CHUNK_SLOTS // 10)
        importing = asyncio.create_task(Import(store, import_rate, IMPORT_S, 7).run())
        withdrawing = asyncio.create_task(withdraw_some(store, entries, IMPORT_S / 2 / chunks))
        await asyncio.sleep(IMPORT_S * 0.7)
        show("import and withdrawals", await child.say("tell"))
        server.kill()
        began = time.monotonic()
        await asyncio.to_thread(server.start)
        child.restarted()
        print(f"the store was away for {time.monotonic() - began:.1f} s", flush=True)
        back = time.time()
        got, withdrawn = await asyncio.gather(importing, withdrawing)
        await child.say("settle")
        after = await child.say("tell")
        show(f"killed and started; import {got:.0f}/s in all; {withdrawn} withdrawn", after, back)
        assert after["withdrawn_seen"] == withdrawn, "withdrawals that were never seen"
        server.kill()
        shutil.rmtree(folder / "appendonlydir")
        (folder / "older").rename(folder / "appendonlydir")
        await asyncio.to_thread(server.start)
        child.restarted()
        back = time.time()
        await child.say("settle")
        show("an older file: until it was read", await child.say("tell"), back)
        await asyncio.sleep(AFTER_S)
        last = await child.say("tell")
        show("an older file: afterwards", last)
        found = (await child.say("sweep"))["found"]
        for name, before in (("before", steady), ("after", after)):
            print(f"peak {last['peak'] / before['Rss']:.2f} of what was steady {name} the import")
        print(f"withdrawn entries returned: {last['withdrawn_returned']}; found when all are looked up: {found}")
        return not found and not last["withdrawn_returned"]


async def rewritten(link: Link) -> None:
    """Until the server has rewritten its append-only file."""
    running = True
    while running:
        await asyncio.sleep(0.1)
        (text,) = await link.exchange(("INFO", "persistence"))
        running = b"aof_rewrite_in_progress:1" in text or b"aof_rewrite_scheduled:1" in text


async def main(entries: int, rate: float, import_rate: float, lives: str) -> int:
    """Both lives, or one of them, over one store."""
    ValkeyServer.start_s = 120.0
    with ValkeyServer(append_only=True, settings=["--auto-aof-rewrite-percentage", "0"]) as server:
        link = Link(Access(url=server.url))
        await link.exchange(("CONFIG", "SET", "appendfsync", "no"))
        await fill(server.url, entries, named=False)
        # What fills a store in seconds takes it a minute to read again; a store of some age has it rewritten.
        await link.exchange(("BGREWRITEAOF",))
        await rewritten(link)
        await link.exchange(("CONFIG", "SET", "appendfsync", "always"))
        await link.close()
        store = RedisStore(Access(url=server.url, connect_s=120.0), PREFIX)
        await store.open()
        if "1" in lives:
            await first_life(server, store, rate)
        right = "2" not in lives or await second_life(server, store, entries, rate, import_rate)
        await store.close()
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["follow"]:
        asyncio.run(follow(sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--entries", type=int, default=1_000_000)
        parser.add_argument("--lookups-per-second", type=float, default=500)
        parser.add_argument("--import-per-second", type=float, default=10_000)
        parser.add_argument("--lives", default="12")
        given = parser.parse_args()
        sys.exit(asyncio.run(main(given.entries, given.lookups_per_second, given.import_per_second, given.lives)))
