"""Canaries on a real broker: each partition of a real worker's gets them, and only the verdicts topic shows them."""

from __future__ import annotations

import asyncio

import pytest

from tests.servers.kafka import KafkaBroker
from tests.servers.store import ValkeyServer
from tests.system.rig import PARTITIONS, Rig, Verdicts, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.store, pytest.mark.slow]


async def test_every_partition_is_watched_from_end_to_end(broker: KafkaBroker, valkey_server: ValkeyServer) -> None:
    """Made by `check --create`, sent to the partition meant, decoded, hashed, found, acked; nothing else is touched."""
    extra = {"HASHWEIR_WORKER__CANARY_PERIOD_SECONDS": "0.5", "HASHWEIR_WORKER__ALLOW_EMPTY": "true"}
    with Rig(broker.bootstrap, valkey_server.url, "canaries", extra=extra) as rig:
        rig.run("check", exits=3)
        rig.create()
        rig.create()
        assert "canary" in rig.run("sets", "list")
        rig.run("sets", "create", "canary", "--owner", "me", "--origin", "own-review", exits=1)
        rig.run("sets", "off", "canary")
        rig.run("check", "--create", exits=3)
        rig.run("sets", "activate", "canary")
        rig.run("check")
        node = rig.node("one")
        await asyncio.to_thread(node.wait_ready)
        async with Verdicts(rig) as verdicts, Verdicts(rig, "matches") as matches:
            await asyncio.to_thread(wait_for, lambda: _turns(node.page("/metrics")[1]) >= 5 * PARTITIONS, 60, node.tail)
            await verdicts.read(500)
            await matches.read(500)
            page = node.page("/metrics")[1]
            assert node.terminate() == 0
            await verdicts.read(500)
        assert not matches.by_id
        assert len(verdicts.by_id) >= 5 * PARTITIONS
        assert all(name.startswith("canary-one-") for name in verdicts.by_id)
        assert _value(page, "hashweir_uploads_total") == 0
        assert _value(page, "hashweir_end_to_end_seconds_count") == 0
        assert _value(page, "hashweir_canary_seconds_count") >= 5 * PARTITIONS
        assert _value(page, "hashweir_retention_seconds") == 604_800
        assert _value(page, "hashweir_records_taken_total") >= 5 * PARTITIONS


def _turns(page: str) -> float:
    return _value(page, 'hashweir_canary_uploads_total{result="found"}')


def _value(page: str, name: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith((name + " ", name + "{"))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
