"""A small world around workers: a memory broker, something known, a judge that does as the upload says.

Long because each part of it plays to the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from hashweir.adapters.memory_stream import MemoryBroker, MemorySink, MemorySource
from hashweir.canary import CANARY_SET, is_canary
from hashweir.errors import HashweirError
from hashweir.logs import quiet
from hashweir.metrics import Metrics
from hashweir.model import Batch, Entry, Form, Hit, Judged, Kind, Set, Upload, Verdict
from hashweir.pipeline.canaries import Canaries
from hashweir.pipeline.decide import verdict_id
from hashweir.pipeline.deliver import Delivery, ViewGate
from hashweir.pipeline.emit import LONG_TOPIC, Emitter
from hashweir.pipeline.ingest import UPLOAD_JSON
from hashweir.pipeline.match import USABLE
from hashweir.pipeline.worker import Limits, Worker
from hashweir.ports import Found, Partition, Query, Sink, Standing
from tests.virtual_time import VirtualClock

TOPIC = "uploads"


class OneView:
    """A view without entries."""

    position = "0" * 32
    as_of_ms = 0
    missing = ""

    def __init__(self, standing: Standing, active: bool, canary: bool) -> None:
        self.standing = standing
        one = Set(name="known", owner="team", origin="own-review", state="active" if active else "shadow")
        own = Set(name=CANARY_SET, owner="hashweir", origin="own-review", state="active", ceiling="none")
        self.sets: Mapping[str, Set] = {"known": one} | ({CANARY_SET: own} if canary else {})

    def holds(self, set_name: str) -> frozenset[Kind]:
        return frozenset()

    def search(
        self,
        kind: Kind,
        form: Form,
        values: Sequence[bytes],
        radius: int,
        accept: Callable[[int, Entry, int], bool] | None = None,
    ) -> list[Found]:
        return []

    def search_many(
        self, kind: Kind, form: Form, queries: Sequence[Query], accept: Callable[[int, Entry, int], bool]
    ) -> list[Found]:
        return []

    def count_entries(self, kind: Kind, form: Form, items: Sequence[str]) -> list[int]:
        return [0] * len(items)

    def batch(self, batch_id: str) -> Batch | None:
        return None


class Knowledge:
    """`Known` whose standing a test sets."""

    def __init__(self, standing: Standing = "verified", *, active: bool = True, canary: bool = False) -> None:
        self.standing: Standing = standing
        self.active = active
        self.canary = canary

    def view(self) -> OneView:
        return OneView(self.standing, self.active, self.canary)


class Scripted:
    """A judge that does what the content says: `slow 3`, `raise`, `flaky`, `fault`, `garbage`, `stuck`, else clear.

    Canaries are found, or have the scan's fault `canary_fault`, or are `canary_stuck`.
    """

    def __init__(self, gate: ViewGate) -> None:
        self._gate = gate
        self.calls: Counter[str] = Counter()
        self.refused: list[str] = []
        self.broken_refusal = False
        self.canary_fault: str | None = None
        self.canary_stuck = False
        self.release = asyncio.Event()

    async def match(self, upload: Upload) -> Judged:
        self.calls[upload.id] += 1
        if is_canary(upload):
            if self.canary_stuck:
                await self.release.wait()
            await self._gate.usable_view()
            return judged(upload, self.canary_fault, () if self.canary_fault else (CANARY_HIT,))
        word, _, rest = (upload.content or b"").decode().partition(" ")
        if word == "slow":
            await asyncio.sleep(float(rest.split()[0]))
        if word == "stuck":
            await self.release.wait()
        if word == "raise" or (word == "flaky" and self.calls[upload.id] == 1):
            raise KeyError("a fault of ours")
        view = await self._gate.usable_view()
        assert view.standing in USABLE, "judged by a state that is not verified"
        reasons = {"fault": "scan_died", "garbage": "undecodable"}
        return judged(upload, reasons.get(word))

    async def refuse(self, upload: Upload, reason: str) -> Judged:
        if self.broken_refusal:
            raise HashweirError("internal_error")
        await self._gate.usable_view()
        self.refused.append(reason)
        return judged(upload, reason)


CANARY_HIT = Hit(
    id="0" * 32,
    kind="pdq",
    form="canonical",
    set=CANARY_SET,
    entry="0" * 32,
    item=CANARY_SET,
    distance=0,
    radius=10,
    band="a",
    quality=100,
    entry_quality=100,
    origin="own-review",
    labels=(),
    ceiling="none",
    action="none",
    state="active",
)


def judged(upload: Upload, reason: str | None = None, hits: tuple[Hit, ...] = ()) -> Judged:
    """A verdict: a match, or unscanned for a reason, else clear."""
    verdict = Verdict(
        id=verdict_id(upload.source, upload.id),
        source=upload.source,
        upload=upload.id,
        sha256=None,
        media_type=upload.media_type,
        media_class="text",
        surface=None,
        account=None,
        outcome="match" if hits else "unscanned" if reason else "clear",
        action="none",
        reason=reason,
        checked={},
        notes=(),
        hits=hits,
        hits_total=len(hits),
        fingerprints=(),
        sets={},
        position="0" * 32,
    )
    return Judged(verdict=verdict, failure=reason, as_of_ms=0, degraded=False, timings={"decode": 0.001})


class WatchedSource(MemorySource):
    """Checks the law of every commit: nothing below it lacks a verdict, or a relay, that the broker has acked."""

    def __init__(self, world: World, long: bool) -> None:
        super().__init__(world.broker, *(("group.long", LONG_TOPIC) if long else ("group", TOPIC)), max_records=50)
        self._world = world

    async def commit(self, epoch: int, offsets: Mapping[Partition, int]) -> None:
        acked, relayed = self._world.verdicts(), set(self._world.ids(LONG_TOPIC))
        for (topic, partition), offset in offsets.items():
            for record in self._world.broker.records(topic):
                if record.partition == partition and record.offset < offset:
                    names = dict(record.headers)
                    place = f"{topic}-{partition}-{record.offset}"
                    name = names.get("ce_id", place.encode()).decode()
                    source = names.get("ce_source", b"test").decode()
                    handed_on = topic == TOPIC and name in relayed
                    assert handed_on or verdict_id(source, name) in acked, "commit passed an upload"
        await super().commit(epoch, offsets)


class Member:
    """One worker process, as far as it matters here."""

    def __init__(
        self, world: World, limits: Limits, allow_empty: bool, long: bool, canary_sink: Sink, canary_s: float
    ) -> None:
        self.gate = ViewGate(world.known, allow_empty=allow_empty)
        self.judge = Scripted(self.gate)
        self.metrics = Metrics()
        self.source = WatchedSource(world, long)
        clock, log = VirtualClock(), quiet()
        self.canaries = Canaries(
            assignment=lambda: self.worker.assignment,
            sink=canary_sink,
            known=world.known,
            clock=clock,
            metrics=self.metrics,
            log=log,
            worker="test",
            period_s=canary_s,
        )
        self.delivery = Delivery(
            judge=self.judge,
            emitter=Emitter(worker="test", versions={}, lane="long" if long else "main"),
            sink=MemorySink(world.broker),
            clock=clock,
            metrics=self.metrics,
            log=log,
            default_source="test",
            relay_long=world.relays and not long,
            jitter=lambda: 1.0,
            on_canary=self.canaries.judged,
        )
        self.worker = Worker(
            source=self.source,
            delivery=self.delivery,
            gate=self.gate,
            clock=clock,
            metrics=self.metrics,
            log=log,
            limits=limits,
        )
        self.running = asyncio.create_task(self.worker.run())
        self.singing = asyncio.create_task(self.canaries.run()) if canary_s else None
        self.alive = True

    async def drain(self, timeout_s: float = 19.0) -> int:
        """As `lifecycle` does; how many uploads were left."""
        self.alive = False
        self.worker.stop_polling()
        await self.running
        left = await self.worker.finish(timeout_s)
        await self.worker.commit_rest(3.0)
        await self.source.stop()
        self._silence()
        return left

    def _silence(self) -> None:
        if self.singing is not None:
            self.singing.cancel()

    def kill(self) -> None:
        """Gone from one moment to the next, with all that was in flight."""
        self.alive = False
        self._silence()
        self.source.kill()
        self.running.cancel()
        for task in list(self.worker._tasks):
            task.cancel()

    def value(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"hashweir_{name}", labels) or 0.0


class World:
    """One broker with one topic."""

    def __init__(self, partitions: int = 2, *, relays: bool = False) -> None:
        """`relays`: its members hand on to the long topic what takes long."""
        self.relays = relays
        self.broker = MemoryBroker(VirtualClock())
        self.broker.create_topic(TOPIC, partitions)
        self.broker.create_topic(LONG_TOPIC, partitions)
        self.known = Knowledge()
        self.produced: set[str] = set()
        self.members: list[Member] = []

    def upload(self, what: str, partition: int) -> str:
        """Put one upload on the stream; its id is the last word of its content."""
        name = f"u{len(self.produced)}"
        headers = (("ce_id", name.encode()), ("ce_source", b"test"), ("content-type", b"text/plain"))
        self.broker.produce(TOPIC, f"{what} {name}".encode(), headers=headers, partition=partition)
        self.produced.add(name)
        return verdict_id("test", name)

    def video(self, partition: int, *, named: bool = True) -> str:
        """Put a video by reference on the stream; its upload id, which is made from its place where it is not named."""
        headers: tuple[tuple[str, bytes], ...] = (("content-type", UPLOAD_JSON.encode()),)
        if named:
            headers += (("ce_id", f"v{len(self.produced)}".encode()), ("ce_source", b"test"))
        value = b'{"uri": "file:///srv/a.mp4", "media_type": "video/mp4"}'
        record = self.broker.produce(TOPIC, value, headers=headers, partition=partition)
        name = f"v{len(self.produced)}" if named else f"{TOPIC}-{partition}-{record.offset}"
        self.produced.add(name)
        return name

    def member(
        self,
        limits: Limits | None = None,
        *,
        allow_empty: bool = False,
        long: bool = False,
        canary_s: float = 0.0,
        canary_sink: Sink | None = None,
    ) -> Member:
        """Start another worker; a `long` one reads the long topic."""
        sink = canary_sink or MemorySink(self.broker)
        one = Member(self, limits or Limits(revoke_drain_s=1.0), allow_empty, long, sink, canary_s)
        self.members.append(one)
        return one

    def verdicts(self) -> Counter[str]:
        """How often each verdict id was written."""
        return Counter(self.ids("verdicts"))

    def ids(self, topic: str) -> list[str]:
        """The id of each record of an output topic."""
        return [dict(record.headers)["ce_id"].decode() for record in self.broker.records(topic)]

    def wanted(self) -> set[str]:
        """The verdict ids of everything produced."""
        return {verdict_id("test", name) for name in self.produced}

    async def until(self, condition: Callable[[], bool], timeout_s: float = 600.0) -> None:
        """Wait in virtual time; fail where a condition never comes true or a worker ended by itself."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                for member in self.members:
                    if member.running.done() and not member.running.cancelled() and member.running.exception():
                        member.running.result()
                await asyncio.sleep(0.05)
