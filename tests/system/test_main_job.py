"""The main job on real servers, with workers and the store killed under it, judged by a brute-force matcher."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import sys
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.servers.kafka import KafkaBroker
from tests.servers.store import ValkeyServer
from tests.system import oracle
from tests.system.churn import Churn
from tests.system.corpus import Item, Sent, items, uploads
from tests.system.oracle import Known
from tests.system.rig import HASHWEIR, Node, Rig, Said, Verdicts

pytestmark = [pytest.mark.broker, pytest.mark.store, pytest.mark.slow, pytest.mark.timeout(600)]
AT_FIRST = 600
"""Uploads that are sent at once. The others follow in equal parts, one before each kill."""
FAULTS = {"scan_died", "scan_deadline", "scan_bad_reply", "internal_error"}


@dataclass
class Scenario:
    """What is known, what is sent, and what the brute-force matcher says of it."""

    known: list[Known]
    churned: list[str]
    sent: list[Sent]
    expected: dict[str, set[tuple[str, str]]]
    near_churned: dict[str, set[str]]
    """Values of the churned entries within radius, by upload."""


def make(seed: int, count: int) -> Scenario:
    """A scenario of `count` uploads, judged beforehand by the oracle."""
    held = _clear_items(items(seed, 90, 40))
    known = [_known(one) for one in held]
    sent = list(uploads(seed, count, held))
    seen = {one.id: oracle.look(one) for one in sent if one.sort != "malformed"}
    pictures = sorted({one.pdq for one in seen.values() if one.pdq is not None})
    churned = random.Random(seed).sample(pictures, 40)
    exact = [Known("files", f"file-{n}", "sha256", seen[name].sha256) for n, name in enumerate(list(seen)[::50])]
    churn = [Known("churn", value, "pdq", value) for value in churned]
    return Scenario(
        known=known + exact,
        churned=churned,
        sent=sent,
        expected={name: oracle.hits(one, known + exact) for name, one in seen.items()},
        near_churned={name: {item for _, item in oracle.hits(one, churn)} for name, one in seen.items()},
    )


def _clear_items(held: list[Item]) -> list[Item]:
    """Pictures with too little structure are no good entries: an import flags them."""
    return [one for one in held if one.sort == "text" or oracle.pdq(one.content)[1] >= 80]


def _known(one: Item) -> Known:
    if one.sort == "image":
        return Known("photos", one.name, "pdq", oracle.pdq(one.content)[0])
    text = one.content.decode()
    return Known("texts", one.name, "tlsh", oracle.normal_tlsh(text), len(oracle.normal(text)))


@pytest.fixture
def store() -> Iterator[ValkeyServer]:
    """A store of this test's own, for it is killed."""
    with ValkeyServer(append_only=True) as server:
        yield server


def fill(rig: Rig, scenario: Scenario) -> None:
    """Topics, store and all sets; one more set for what comes and goes."""
    rig.create()
    for name in ("photos", "texts", "files"):
        rig.fill(name, [one for one in scenario.known if one.set == name])
    rig.fill("churn", [Known("churn", "never", "pdq", "00" * 31 + "01")])


async def kill_repeatedly(
    node: Node, kills: int, seed: int, verdicts: Verdicts, more: Callable[[], Awaitable[None]]
) -> None:
    """SIGKILL at random moments, each after it acked 20 uploads more and before it can have acked all; start it again.

    `more` sends some uploads: had all been sent at once, a fast machine would have judged them before the last kill.
    """
    chance = random.Random(seed)
    for _ in range(kills):
        least = chance.randint(20, 45)
        deadline = time.monotonic() + 60
        await more()
        while await asyncio.to_thread(node.metric, "hashweir_uploads_total") < least:
            assert time.monotonic() < deadline, f"{node.name} acked too little to be killed: {node.tail()}"
            await verdicts.read()
        await asyncio.sleep(chance.uniform(0, 0.2))
        await asyncio.to_thread(node.kill)
        node.start()


def check_bodies(verdicts: dict[str, list[Said]]) -> None:
    """No id has two different canonical bodies at the same position."""
    for name, copies in verdicts.items():
        bodies = defaultdict(set)
        for one in copies:
            bodies[json.loads(one.body)["position"]].add(one.body)
        assert all(len(same) == 1 for same in bodies.values()), f"{name} has two bodies at one position"


def check_matches(scenario: Scenario, churn: Churn, verdicts: dict[str, list[Said]], names: dict[str, str]) -> int:
    """Every copy of every verdict says what the brute-force matcher says; how many copies were compared."""
    compared = 0
    for name, expected in scenario.expected.items():
        for one in verdicts[name]:
            body = json.loads(one.body)
            assert body["reason"] not in FAULTS, body
            hits = {(hit["set"], names[hit["item"]]) for hit in body["hits"] if hit["set"] != "churn"}
            assert hits == expected, f"{name}: {hits} instead of {expected}"
            present = {hit["item"] for hit in body["hits"] if hit["set"] == "churn"}
            as_of = int(one.headers["as_of"])
            for value in scenario.near_churned[name]:
                says = names[value] in present
                allowed = churn.ledger.allowed(value, as_of, one.at_ms)
                assert says in allowed, f"{name}: churned entry {'there' if says else 'missing'}"
            compared += 1
    return compared


def check_reasons(sent: list[Sent], verdicts: dict[str, list[Said]]) -> None:
    """What is beyond use is unscanned for its own reason, each time it is judged."""
    for one in sent:
        if one.reason is not None:
            said = [json.loads(copy.body) for copy in verdicts[one.id]]
            assert {(body["outcome"], body["reason"]) for body in said} == {("unscanned", one.reason)}, one.id


def item_names(scenario: Scenario) -> dict[str, str]:
    """Item ids, as the format page derives them, to the names that the oracle uses."""
    named = {oracle.item_id(one.set, one.item): one.item for one in scenario.known}
    return named | {value: oracle.item_id("churn", value) for value in scenario.churned}


async def run_scenario(
    rig: Rig,
    scenario: Scenario,
    store: ValkeyServer,
    *,
    kills: int,
    command: tuple[str, ...] = (*HASHWEIR, "work"),
    patience_s: float = 180,
) -> str:
    """Run it with two workers, of which one is killed again and again, and the store once; a line of figures."""
    ids = [one.id for one in scenario.sent]
    first, second = rig.node("w1", command), rig.node("w2", command)
    first.wait_ready()
    second.wait_ready()
    churn, stop = Churn(rig, "churn", scenario.churned, seed=kills), asyncio.Event()
    async with Verdicts(rig) as verdicts:
        changing = asyncio.create_task(churn.run(stop))
        began = time.monotonic()
        unsent = deque(scenario.sent)

        async def send(count: int) -> None:
            await rig.send([unsent.popleft() for _ in range(count)])

        await send(AT_FIRST)
        more = functools.partial(send, (len(ids) - AT_FIRST) // kills)
        killing = asyncio.create_task(kill_repeatedly(first, kills, seed=7, verdicts=verdicts, more=more))
        while len(verdicts.by_id) < len(ids) // 2 and not killing.done():
            await verdicts.read()
        await asyncio.to_thread(store.kill)
        await asyncio.sleep(1.0)  # how long the store is away, not a wait for something
        await asyncio.to_thread(store.start)
        await killing
        await send(len(unsent))
        await verdicts.wait_for_all(ids, patience_s)
        took = time.monotonic() - began
        stop.set()
        await changing
        assert [first.terminate(), second.terminate()] == [0, 0], first.tail() + second.tail()
        while await verdicts.read(500):
            pass
    check_bodies(verdicts.by_id)
    check_reasons(scenario.sent, verdicts.by_id)
    compared = check_matches(scenario, churn, verdicts.by_id, item_names(scenario))
    said = sum(len(copies) for copies in verdicts.by_id.values())
    assert first.kills == kills
    return (
        f"{len(ids)} uploads in {took:.0f} s, {kills} kills, {churn.done} changes, "
        f"{said - len(ids)} repeats, {compared} verdicts compared"
    )


def test_nothing_lost_and_nothing_wrong(
    broker: KafkaBroker, store: ValkeyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten SIGKILLs and a store that dies: every upload has its verdict, every verdict is the brute-force one."""
    scenario = make(seed=1, count=2_000)
    with Rig(broker.bootstrap, store.url, "main-job") as rig:
        fill(rig, scenario)
        line = asyncio.run(run_scenario(rig, scenario, store, kills=10))
    with capsys.disabled():
        print(f"\n{line}")


def test_committing_too_early_is_noticed(broker: KafkaBroker, store: ValkeyServer) -> None:
    """The same run with workers that commit before the ack loses uploads, and is seen to."""
    scenario = make(seed=2, count=700)
    mutant = (sys.executable, "-m", "tests.system.commits_early", "work")
    with Rig(broker.bootstrap, store.url, "mutant") as rig:
        fill(rig, scenario)
        with pytest.raises(AssertionError, match="without a verdict"):
            asyncio.run(run_scenario(rig, scenario, store, kills=1, command=mutant, patience_s=30))
