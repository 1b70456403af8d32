"""Look-back on real servers: sets that are filled only after the uploads, by workers that are killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.servers.kafka import KafkaBroker
from tests.servers.store import ValkeyServer
from tests.system import oracle
from tests.system.corpus import Sent, items, uploads
from tests.system.oracle import Known
from tests.system.rig import Node, Rig, Said, Verdicts, form_of, wait_for
from tests.system.test_main_job import check_bodies

pytestmark = [pytest.mark.broker, pytest.mark.store, pytest.mark.slow, pytest.mark.timeout(600)]
UPLOADS = 400
KILLS = 4
SETS = {"photos": Known("photos", "other", "pdq", "00" * 31 + "01"), "texts": Known("texts", "other", "md5", "0f" * 16)}


def learn(rig: Rig, known: list[Known], turn: int) -> None:
    """Import entries into the sets that are active already."""
    for name in SETS:
        rows = [
            f"{one.kind},{one.value},{one.item},{form_of(one)},{one.length or ''}" for one in known if one.set == name
        ]
        if rows:
            file = rig.folder / f"{name}-{turn}.csv"
            file.write_text("kind,value,item,form,length\n" + "\n".join(rows) + "\n")
            rig.run("sets", "import", name, str(file))


def scenario(seed: int) -> tuple[list[Known], list[Sent], dict[str, set[tuple[str, str]]]]:
    """Entries, uploads, and how many items each upload is near, by the brute-force matcher."""
    held = [one for one in items(seed, 60, 30) if one.sort == "text" or oracle.pdq(one.content)[1] >= 80]
    known = []
    for one in held:
        if one.sort == "image":
            known.append(Known("photos", one.name, "pdq", oracle.pdq(one.content)[0]))
        else:
            text = one.content.decode()
            known.append(Known("texts", one.name, "tlsh", oracle.normal_tlsh(text), len(oracle.normal(text))))
    sent = [one for one in uploads(seed, UPLOADS, held) if one.sort != "malformed"]
    return known, sent, {one.id: oracle.hits(oracle.look(one), known) for one in sent}


async def kill(node: Node) -> None:
    """SIGKILL, once all that it judged is saved; start it again."""
    now = time.time()
    await asyncio.to_thread(
        wait_for, lambda: node.metric("hashweir_look_back_saved_timestamp_seconds") > now + 0.5, 30, node.tail
    )
    await asyncio.to_thread(node.kill)
    node.start()


def newest(copies: list[Said]) -> set[tuple[str, str]]:
    """The hits (set, item) of the verdict that a consumer keeps: the one with the largest `as_of`."""
    body = json.loads(max(copies, key=lambda one: int(one.headers["as_of"])).body)
    return {(hit["set"], hit["item"]) for hit in body["hits"]}


async def run(rig: Rig, seed: int) -> str:
    """The whole story; a line of figures."""
    known, sent, expected = scenario(seed)
    nodes = []
    for name in ("w1", "w2"):
        rig.extra |= {"HASHWEIR_LOOK_BACK__FOLDER": str(rig.folder / name), "HASHWEIR_LOOK_BACK__SAVE_SECONDS": "0.3"}
        nodes.append(rig.node(name))
    for node in nodes:
        node.wait_ready()
    async with Verdicts(rig) as verdicts:
        await rig.send(sent)
        await verdicts.wait_for_all([one.id for one in sent], 120)
        assert not any(newest(copies) for copies in verdicts.by_id.values())
        size = -(-len(known) // KILLS)
        for turn in range(KILLS):
            # Entries come while one worker is dead, or dies with them half looked back for.
            killing = asyncio.create_task(kill(nodes[turn % 2]))
            if turn % 2:
                await killing
            await asyncio.to_thread(learn, rig, known[turn * size : (turn + 1) * size], turn)
            await killing
        deadline = time.monotonic() + 120
        while missing := [
            name for name, wanted in expected.items() if len(newest(verdicts.by_id[name])) != len(wanted)
        ]:
            assert time.monotonic() < deadline, f"{len(missing)} uploads, such as {missing[:3]}: {nodes[0].tail()}"
            await verdicts.read()
        late = {
            name: [one for one in copies if one.headers["via"] == b"look-back"]
            for name, copies in verdicts.by_id.items()
        }
        # The same uploads once more: what is said live now has to be what was said late, byte for byte.
        for node in nodes:
            await asyncio.to_thread(node.wait_ready)
        await rig.send(sent)
        again = {name: len(copies) for name, copies in verdicts.by_id.items()}
        while any(len(verdicts.by_id[name]) <= count for name, count in again.items()):
            assert time.monotonic() < deadline + 120
            await verdicts.read()
        assert [node.terminate() for node in nodes] == [0, 0], nodes[0].tail()
        while await verdicts.read(500):
            pass
    check_bodies(verdicts.by_id)
    equal = 0
    for name, wanted in expected.items():
        assert bool(late[name]) == bool(wanted), f"{name}: late verdicts where none is due, or none where one is"
        live = [one.body for one in verdicts.by_id[name] if one.headers["via"] == b"live"]
        equal += any(one.body in live for one in late[name])
        assert len(newest(verdicts.by_id[name])) == len(wanted)
    assert equal, "no upload was judged live at the position of its late verdict: the bodies were not compared"
    files = list(rig.folder.rglob("*.ring"))
    assert files
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    said = sum(map(len, late.values()))
    hit = sum(map(bool, expected.values()))
    return f"{len(sent)} uploads, {hit} known later, {KILLS} kills, {said} late verdicts, {equal} equal to a live one"


def test_what_is_known_later_is_said_later(
    broker: KafkaBroker, valkey_server: ValkeyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four SIGKILLs: every upload that a later entry matches gets its late verdict, no other gets one."""
    with Rig(broker.bootstrap, valkey_server.url, "look-back") as rig:
        rig.create()
        for name, one in SETS.items():
            rig.fill(name, [one])
        line = asyncio.run(run(rig, seed=3))
    with capsys.disabled():
        print(f"\n{line}")
