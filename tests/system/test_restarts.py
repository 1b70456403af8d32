"""Stopping is a feature: rolling restarts by SIGTERM under load lose nothing and repeat nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.servers.kafka import KafkaBroker
from tests.servers.store import ValkeyServer
from tests.system.corpus import Sent, passage
from tests.system.oracle import Known
from tests.system.rig import Node, Rig, Verdicts

pytestmark = [pytest.mark.broker, pytest.mark.store, pytest.mark.slow, pytest.mark.timeout(600)]
RESTARTS = 50


def posts() -> Iterator[Sent]:
    """Endless short texts."""
    chance = random.Random(5)
    number = 0
    while True:
        headers = (("ce_id", f"p{number}".encode()), ("ce_source", b"test"), ("content-type", b"text/plain"))
        yield Sent(f"p{number}", "text", passage(chance)[:600].encode(), headers)
        number += 1


async def keep_sending(rig: Rig, sent: list[str], stop: asyncio.Event) -> None:
    """Forty uploads a second until told to stop."""

    def until_stopped() -> Iterator[Sent]:
        for one in posts():
            if stop.is_set():
                return
            sent.append(one.id)
            yield one

    await rig.send(until_stopped(), per_second=40)


async def restart_in_turn(nodes: list[Node]) -> None:
    """Both workers by turns: one drains and comes back while the other goes on."""
    for turn in range(RESTARTS):
        node = nodes[turn % 2]
        assert await asyncio.to_thread(node.terminate) == 0, node.tail()
        node.start()
        await asyncio.to_thread(node.wait_ready)


async def roll(rig: Rig) -> tuple[list[str], Verdicts]:
    """Restart under load; what was sent and what was said."""
    nodes = [rig.node("r1"), rig.node("r2")]
    for node in nodes:
        node.wait_ready()
    sent: list[str] = []
    stop = asyncio.Event()
    async with Verdicts(rig) as verdicts:
        sending = asyncio.create_task(keep_sending(rig, sent, stop))
        await restart_in_turn(nodes)
        stop.set()
        await sending
        await verdicts.wait_for_all(sent, 60)
        for node in nodes:
            assert node.terminate() == 0, node.tail()
        while await verdicts.read(500):
            pass
    return sent, verdicts


def test_fifty_restarts_lose_and_repeat_nothing(
    broker: KafkaBroker, valkey_server: ValkeyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty drains under load: every upload has exactly one verdict."""
    with Rig(broker.bootstrap, valkey_server.url, "rolling") as rig:
        rig.create()
        rig.fill("photos", [Known("photos", "one", "pdq", "0f" * 32)])
        rig.fill("texts", [Known("texts", "one", "sha256", "0f" * 32)])
        sent, verdicts = asyncio.run(roll(rig))
    repeated = {name: len(copies) for name, copies in verdicts.by_id.items() if len(copies) != 1}
    with capsys.disabled():
        print(f"\n{RESTARTS} restarts, {len(sent)} uploads, {len(repeated)} repeated")
    assert set(sent) == verdicts.by_id.keys()
    assert not repeated
