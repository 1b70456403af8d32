"""How soon a change counts: a hash added, then the very next upload of it; the same for a withdrawal."""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import time

import pytest
from aiokafka import AIOKafkaProducer

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.sets import commands
from hashweir.sets.read import Row
from tests.servers.kafka import KafkaBroker
from tests.servers.store import ValkeyServer
from tests.system.oracle import Known
from tests.system.rig import Rig, Verdicts

pytestmark = [pytest.mark.broker, pytest.mark.store, pytest.mark.slow, pytest.mark.timeout(600)]
CHANGES = 200
JSON_TYPE = b"application/vnd.hashweir.upload+json"


class Prober:
    """Asks a running worker about one hash after the other, by uploads that carry only the fingerprint."""

    def __init__(self, rig: Rig, verdicts: Verdicts, producer: AIOKafkaProducer) -> None:
        self._topic = f"{rig.prefix}uploads"
        self._verdicts = verdicts
        self._producer = producer
        self._asked = 0

    async def outcome(self, value: str) -> str:
        """What the worker says of a PDQ hash now."""
        self._asked += 1
        name = f"probe-{self._asked}"
        body = json.dumps({"fingerprints": [{"kind": "pdq", "value": value, "quality": 100}]}).encode()
        headers = [("ce_id", name.encode()), ("content-type", JSON_TYPE)]
        await self._producer.send_and_wait(self._topic, body, headers=headers, partition=self._asked % 6)
        deadline = time.monotonic() + 10
        while name not in self._verdicts.by_id:
            assert time.monotonic() < deadline, "no verdict on a probe"
            await self._verdicts.read(5)
        return str(json.loads(self._verdicts.by_id[name][0].body)["outcome"])

    async def seconds_until(self, value: str, outcome: str) -> float:
        """Seconds from now until a verdict with this outcome was *read*: an upper bound of when it was live."""
        began = time.monotonic()
        while await self.outcome(value) != outcome:
            assert time.monotonic() - began < 10, f"never {outcome}"
        return time.monotonic() - began


def pdq(number: int) -> str:
    """A hash far from all others."""
    return hashlib.sha256(f"live {number}".encode()).hexdigest()


async def measure(rig: Rig) -> tuple[list[float], list[float]]:
    """Seconds to live of 200 adds and of 200 withdrawals, by one warm client."""
    store = RedisStore(Access(url=rig.store_url), rig.name)
    await store.open()
    producer = AIOKafkaProducer(bootstrap_servers=rig.bootstrap, linger_ms=0)
    await producer.start()
    adds: list[float] = []
    withdrawals: list[float] = []
    async with Verdicts(rig) as verdicts:
        prober = Prober(rig, verdicts, producer)
        await prober.outcome(pdq(-1))
        for number in range(CHANGES):
            row = Row(kind="pdq", value=pdq(number))
            await commands.add(store, "test", "live", [row])
            adds.append(await prober.seconds_until(row.value, "match"))
            await commands.withdraw(store, "test", "live", [row], reason="test")
            withdrawals.append(await prober.seconds_until(row.value, "clear"))
    await producer.stop()
    await store.close()
    return adds, withdrawals


def test_the_next_upload_already_counts(
    broker: KafkaBroker, valkey_server: ValkeyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """An added hash matches at once, a withdrawn one stops at once; how soon is printed, with Kafka's way in it."""
    with Rig(broker.bootstrap, valkey_server.url, "live") as rig:
        rig.create()
        rig.fill("live", [Known("live", f"held-{n}", "pdq", pdq(10_000 + n)) for n in range(10_000)])
        node = rig.node("l1")
        node.wait_ready()
        adds, withdrawals = asyncio.run(measure(rig))
        assert node.terminate() == 0, node.tail()
    with capsys.disabled():
        for name, took in (("add", adds), ("withdraw", withdrawals)):
            took.sort()
            middle, high = statistics.median(took) * 1000, took[int(len(took) * 0.99)] * 1000
            print(f"\n{name} to live, verdict read back: median {middle:.0f} ms, p99 {high:.0f} ms, n={len(took)}")
    assert len(adds) == len(withdrawals) == CHANGES
