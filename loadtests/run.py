"""One run of a scenario: its own Kafka, Valkey and workers on free ports, the phases, and what was measured."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from loadtests import generate
from loadtests.drive import Driver, spread
from loadtests.generate import Material
from loadtests.scenario import Phase, Scenario, ScenarioError
from loadtests.watch import Sample, Watch, facts
from tests.servers.kafka import KafkaBroker
from tests.servers.store import ValkeyServer
from tests.system.rig import HASHWEIR, Node, Rig

BARE_SECONDS = 8.0
BARE_FILES = 200
BROKER = {
    # The system's own, which grow: with Kafka's 100 KiB a photo passes a socket in several pieces, each with a wake-up.
    "socket.receive.buffer.bytes": "-1",
    "socket.send.buffer.bytes": "-1",
    # No record every half second that says only that time has passed; heartbeats as seldom as by default.
    "metadata.max.idle.interval.ms": "0",
    "broker.heartbeat.interval.ms": "2000",
    "broker.session.timeout.ms": "9000",
}
"""What differs from the tests' broker, which has to start and fail fast: what it does per upload counts here."""
BROKER_JVM = ("-Xms128m", "-Xmn64m")
"""Room for new objects, each photo is one: a third of the collections."""
_SUFFIX = {b"image/jpeg": ".jpg", b"text/plain": ".txt", b"application/pdf": ".pdf", b"video/mp4": ".mp4"}


@dataclass(repr=False)
class Ran:
    """All that a run measured; `report` makes figures of it. `spans` are (first, last) sample by phase.

    Without a `repr` of its own: `asyncio.run` has that of a task's result made, and each upload's bytes would be in it.
    """

    scenario: Scenario
    machine: dict[str, str | int | float]
    scan_processes: int
    workers: int
    rates: list[float] = field(default_factory=list)
    spans: list[tuple[Sample, Sample]] = field(default_factory=list)
    drained_s: list[float] = field(default_factory=list)
    bare: dict[str, float] = field(default_factory=dict)
    """What as many bare processes reached, before the workers ran and after them."""
    bare_by_count: dict[int, dict[str, float]] = field(default_factory=dict)
    """The same by number of processes, where phases have numbers of their own."""
    sustained: float = 0.0
    sustained_by_phase: dict[int, float] = field(default_factory=dict)
    driver: Driver | None = None
    samples: list[Sample] = field(default_factory=list)
    event: str = ""


async def run(
    scenario: Scenario,
    workers: int,
    scan_processes: int,
    say: Callable[[str], None],
    bare_seconds: float = BARE_SECONDS,
) -> Ran:
    """Run a scenario with so many workers of so many scan processes each. Everything started here is ended here."""
    ran = Ran(scenario, facts(), scan_processes, workers)
    say("making the uploads")
    material = await asyncio.to_thread(generate.make, scenario)
    say("starting Kafka and Valkey")
    with (
        KafkaBroker(properties=BROKER, jvm=BROKER_JVM) as kafka,
        ValkeyServer(append_only=True, settings=["--appendfsync", "everysec"]) as store,
        Rig(kafka.bootstrap, store.url, "load") as rig,
    ):
        rig.extra["HASHWEIR_SCAN__PROCESSES"] = str(scan_processes)
        rig.create()
        for name in sorted({one.set for one in material.known}):
            rig.fill(name, [one for one in material.known if one.set == name])
        counts = {workers * (phase.scan_processes or scan_processes) for phase in scenario.phases}
        await _measure_bare(ran, counts | {workers * scan_processes}, material, bare_seconds / 2, say)
        nodes = [rig.node(f"w{number}") for number in range(workers)]
        for node in nodes:
            await asyncio.to_thread(node.wait_ready)
        watch = Watch(nodes, {"kafka": kafka.pid, "valkey": store.pid, "driver": os.getpid()})
        async with Driver(rig, scenario, material) as driver:
            ran.driver = driver
            await _phases(ran, driver, watch, rig, say)
        for node in nodes:
            await asyncio.to_thread(node.terminate)
        # A machine's speed changes with its neighbours' work, within minutes and by a third.
        await _measure_bare(ran, counts | {workers * scan_processes}, material, bare_seconds / 2, say)
        ran.samples = watch.samples
    ran.machine["load_average_after"] = round(os.getloadavg()[0], 2)
    return ran


async def _phases(ran: Ran, driver: Driver, watch: Watch, rig: Rig, say: Callable[[str], None]) -> None:
    looking = asyncio.create_task(watch.run())
    try:
        for number, phase in enumerate(ran.scenario.phases):
            per_second = phase.per_second or phase.times_bare * ran.bare["per_second"]
            per_second = per_second or phase.times_sustained * ran.sustained
            if phase.scan_processes:
                await asyncio.to_thread(_restart, watch.nodes, phase.scan_processes)
            say(f"{phase.name}: {per_second:.0f} uploads/s for {phase.seconds:.0f} s")
            first, began = await watch.look(), time.time()
            async with _event(phase, ran, rig, watch.nodes):
                await driver.phase(number, phase, per_second)
            last, ended = await watch.look(), time.time()
            drained = time.monotonic()
            if phase.drain or number == len(ran.scenario.phases) - 1:
                await driver.drained()
            if phase.saturates:
                # Only now: the verdicts of the last 300 ms are read after the phase.
                ran.sustained = ran.sustained_by_phase[number] = _per_second(driver, began, ended)
            ran.rates.append(per_second + phase.also_per_second)
            ran.spans.append((first, last))
            ran.drained_s.append(time.monotonic() - drained)
        await watch.look()
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def _restart(nodes: list[Node], scan_processes: int) -> None:
    for node in nodes:
        node.terminate()
        node.environment["HASHWEIR_SCAN__PROCESSES"] = str(scan_processes)
        node.start()
    for node in nodes:
        node.wait_ready()


async def _measure_bare(
    ran: Ran, counts: set[int], material: Material, seconds: float, say: Callable[[str], None]
) -> None:
    """Let bare processes run for a while, and add it up with what was measured before."""
    for count in sorted(counts):
        say(f"bare scan processes: {count}")
        said = await asyncio.to_thread(_bare, ran.scenario, material, count, seconds)
        before = ran.bare_by_count.get(count, {"uploads": 0.0, "seconds": 0.0, "cpu_s": 0.0})
        uploads, spent = before["uploads"] + said["uploads"], before["seconds"] + seconds
        cpu_s = before["cpu_s"] + said["uploads"] * said["cpu_ms"] / 1000
        ran.bare_by_count[count] = {
            "processes": count,
            "per_second": uploads / spent,
            "cpu_ms": 1000 * cpu_s / uploads,
            "uploads": uploads,
            "seconds": spent,
            "cpu_s": cpu_s,
        }
    ran.bare = ran.bare_by_count[ran.workers * ran.scan_processes]


def _per_second(driver: Driver, began: float, ended: float) -> float:
    """Verdicts a second in the last two thirds of a phase."""
    since = began + (ended - began) / 3
    in_time = sum(one.verdict_ms is not None and since * 1000 <= one.verdict_ms < ended * 1000 for one in driver.sent)
    return in_time / (ended - since)


def _bare(scenario: Scenario, material: Material, processes: int, seconds: float) -> dict[str, float]:
    """What scan processes alone reach on the files of this scenario, by the bench program."""
    with tempfile.TemporaryDirectory(prefix="hashweir-load-") as folder:
        for number, piece in enumerate(spread(material, scenario.mix, scenario.planted, BARE_FILES)):
            suffix = _SUFFIX[piece.media_type]
            assert mimetypes.guess_type("a" + suffix)[0] == piece.media_type.decode()
            Path(folder, f"{number:04}{suffix}").write_bytes(generate.numbered(piece, number))
        command = [sys.executable, "-m", "tests.bench.scan_alone", folder, str(processes), str(seconds)]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        ran = subprocess.run(command, capture_output=True, env=one_thread, timeout=seconds + 120, check=False)
        if ran.returncode != 0:
            raise ScenarioError(f"the bare scan processes failed: {ran.stderr.decode()[-500:]}")
        said: dict[str, float] = json.loads(ran.stdout)
        return said


@asynccontextmanager
async def _event(phase: Phase, ran: Ran, rig: Rig, nodes: list[Node]) -> AsyncIterator[None]:
    match phase.event:
        case "import":
            task = asyncio.create_task(_import(ran, rig))
        case "stall":
            task = asyncio.create_task(_stall(nodes[0]))
        case _:
            yield
            return
    try:
        yield
        if phase.event == "import":
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _import(ran: Ran, rig: Rig) -> None:
    """Import random entries into a set of their own, by the command line."""
    chance = random.Random(f"import-{ran.scenario.seed}")
    count, file = ran.scenario.event_entries, rig.folder / "bulk.csv"
    rows = (f"pdq,{chance.getrandbits(256):064x},bulk-{n}" for n in range(count))
    file.write_text("kind,value,item\n" + "\n".join(rows) + "\n", encoding="utf-8")
    await asyncio.to_thread(rig.run, "sets", "create", "bulk", "--owner", "load", "--origin", "own-review")
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *HASHWEIR, "sets", "import", "bulk", str(file), env=rig.environment(),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        code = await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    ran.event = f"{count:,} entries imported in {time.monotonic() - began:.1f} s (exit code {code})"


async def _stall(node: Node) -> None:
    """Let a worker stand still every other half second: a consumer that is slow, not dead."""
    assert node.process is not None
    try:
        while True:
            node.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.5)
            node.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
    finally:
        node.process.send_signal(signal.SIGCONT)
