"""Rules and dashboard on a live Prometheus that scrapes a running worker: every query answers, and most with data."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.grafana import generate
from hashweir import wiring
from hashweir.adapters.memory_stream import MemoryBroker
from hashweir.config import Config
from hashweir.logs import quiet
from hashweir.metrics import Metrics
from hashweir.model import Limits
from hashweir.pipeline.scan import prepare
from hashweir.ports import Store
from hashweir.sets import commands
from hashweir.sets.canary_set import ensure_canary
from hashweir.sets.read import Row
from tests.pictures import encode, photo
from tests.servers.process import free_port
from tests.servers.prometheus import Prometheus
from tests.servers.store import ValkeyServer
from tests.system.rig import HASHWEIR

pytestmark = [pytest.mark.store, pytest.mark.slow]
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = [DEPLOY / "prometheus/recording.yml", DEPLOY / "prometheus/alerts.yml"]
MAY_BE_EMPTY = {"Time to drain", "Records lost", "Not checked, by no fault of ours"}
"""Nothing lags, nothing is lost; the last is filtered."""
NEEDS_KAFKA = {"Share of the retention used"}
NEEDS_LOOK_BACK = {"Search for one entry, 99th percentile", "How far back, and since they were saved"}
NONE = MAY_BE_EMPTY | NEEDS_KAFKA | NEEDS_LOOK_BACK
TEXT = " ".join(f"word{n} of a sentence that goes on and on" for n in range(60)).encode()


@asynccontextmanager
async def busy_worker(server: ValkeyServer, folder: Path) -> AsyncIterator[int]:
    """A whole worker over a stream in this process, with a little of every kind of upload; its metrics port."""
    port = free_port()
    config = Config.model_validate(
        {
            "store": {"url": server.url, "prefix": f"prometheus-{port}", "shards": 2},
            "scan": {"processes": 1},
            "worker": {"canary_period_seconds": 0.5},
            "metrics": {"port": port},
            "index": {"folder": str(folder), "save_seconds": 1},
        }
    )
    store = wiring.store(config)
    await store.create(2)
    await ensure_canary(store, commands.LOCAL)
    await commands.create(store, commands.LOCAL, name="own", owner="test", origin="own-review")
    broker = wiring.memory_broker()
    lifecycle, parts = wiring.memory_worker(config, broker, store, Metrics(version="test"), quiet())
    running = asyncio.create_task(lifecycle.run())
    flows: list[asyncio.Task[None]] = []
    try:
        await asyncio.wait_for(parts.follower.ready.wait(), 60)
        rows = [Row(kind="pdq", value=(await _pdq()), item="known", quality=100), Row(kind="md5", value="0" * 32)]
        await commands.add(store, commands.LOCAL, "own", rows)
        await commands.activate(store, commands.LOCAL, "own")
        flows = [asyncio.create_task(_flow(broker)), asyncio.create_task(_changes(store))]
        yield port
    finally:
        for flow in flows:
            flow.cancel()
        lifecycle.stop()
        assert await running == 0


async def _pdq() -> str:
    scan = prepare(Limits())(encode(photo(), "JPEG"), "image/jpeg", ())
    return next(one.value for one in scan.fingerprints if one.kind == "pdq")


async def _flow(broker: MemoryBroker) -> None:
    known = encode(photo(), "JPEG")
    kinds: list[tuple[str, Callable[[], bytes]]] = [
        ("image/jpeg", lambda: known),
        ("text/plain", lambda: TEXT + str(random.random()).encode()),
        ("image/png", lambda: b"\x89PNG\r\n\x1a\nbroken"),
    ]
    for number in itertools.count():
        media_type, make = kinds[number % 3]
        headers = (("ce_id", b"u%d" % number), ("ce_source", b"test"), ("content-type", media_type.encode()))
        broker.produce("hashweir.uploads", make(), headers=headers, partition=number % 4)
        await asyncio.sleep(0.05)


async def _changes(store: Store) -> None:
    for number in itertools.count(1):
        await commands.add(store, commands.LOCAL, "own", [Row(kind="md5", value=f"{number:032x}")])
        await asyncio.sleep(0.5)


def filled(query: str) -> str:
    """A panel's query as Grafana sends it."""
    values = {"$__rate_interval": "10s", "$instance": ".*", "$job": "hashweir"}
    for name, value in values.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


async def test_every_query_answers_and_all_rules_run(valkey_server: ValkeyServer, tmp_path: Path) -> None:
    """Each panel has data, but for those where there is rightly none; no rule fails; nothing fires."""
    async with busy_worker(valkey_server, tmp_path) as port:
        with Prometheus([f"127.0.0.1:{port}"], RULES) as prometheus:
            panels = [panel for _, row in generate.ROWS for panel in row]
            deadline = asyncio.get_running_loop().time() + 60
            while True:
                empty = {
                    panel.title
                    for panel in panels
                    for query, _ in panel.queries
                    if not _numbers(await asyncio.to_thread(prometheus.query, filled(query)))
                }
                if empty <= NONE or asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(1)
            assert empty <= NONE
            assert await asyncio.to_thread(prometheus.query, filled(generate.VERSIONS)) is not None
            rules = await asyncio.to_thread(prometheus.rules)
            assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
            firing = await asyncio.to_thread(prometheus.query, 'ALERTS{alertstate="firing"}')
            assert firing == []
            deadline = asyncio.get_running_loop().time() + 60
            while True:  # a rate is low at first: its window begins before the worker did
                shown = await asyncio.to_thread(_top, port)
                told = await asyncio.to_thread(prometheus.query, "sum(rate(hashweir_uploads_total[10s]))")
                alike = shown["uploads"] == pytest.approx(_numbers(told)[0], rel=0.5)
                if alike or asyncio.get_running_loop().time() > deadline:
                    break
            assert alike, (shown["uploads"], told)
            assert shown["canaries"]["found"] > 0
            assert shown["standing"] == {"verified": 1}


def _top(port: int) -> dict[str, Any]:
    command = [*HASHWEIR, "top", f"127.0.0.1:{port}", "--once", "--json", "--every", "3"]
    ran = subprocess.run(command, capture_output=True, timeout=60, check=True)
    return dict(json.loads(ran.stdout))


def _numbers(series: list[dict[str, object]]) -> list[float]:
    values = [float(one["value"][1]) for one in series]  # type: ignore[index]
    return [value for value in values if not math.isnan(value)]


@pytest.mark.parametrize("command", [["check", "rules"], ["test", "rules"]])
def test_promtool_agrees(command: list[str]) -> None:
    """Syntax, and each alert's cases."""
    files = RULES if command[0] == "check" else [DEPLOY / "prometheus/tests/alerts.yml"]
    ran = subprocess.run(
        ["promtool", *command, *map(str, files)], capture_output=True, text=True, timeout=110, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
