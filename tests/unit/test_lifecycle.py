"""Stopping is a feature: real signals to a real process, and the order of the drain."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from hashweir.errors import ConfigError, HashweirError, Unreachable
from hashweir.lifecycle import EXIT_STUCK, Health, HealthServer, Lifecycle, Parts, calm, exit_code
from hashweir.logs import quiet

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0


class Process:
    """One child. Its first line on stdout says its port, its last what was done."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.unit.lifecycle_process", *arguments]
        self.child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        self.port = json.loads(self.child.stdout.readline())["port"]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.child.pid, number)

    def end(self) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
        """Exit code, further lines of stdout, log lines."""
        out, err = self.child.communicate(timeout=DEADLINE_S)
        return self.child.returncode, _lines(out), _lines(err)

    def ask(self, path: str) -> tuple[int, str]:
        return ask(self.port, path)


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(*arguments: str) -> Process:
        made.append(Process(*arguments))
        return made[-1]

    yield make
    for process in made:
        if process.child.poll() is None:
            process.child.kill()
        process.child.communicate()


def handled(process: Process) -> float:
    page = process.ask("/metrics")[1]
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("hashweir_uploads_total{"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_full_flow_leaves_nothing_half_done(start: Callable[..., Process], number: signal.Signals) -> None:
    """Exit 0; every verdict published is committed, so a successor repeats none; each step in its order."""
    process = start("0.05")
    until(lambda: handled(process) > 100)
    assert process.ask("/ready")[0] == 200
    process.signal(number)
    code, (left,), log = process.end()
    assert code == 0
    assert left["verdicts"] == left["committed"]
    assert 100 < left["verdicts"] < left["produced"]
    assert left["most_per_upload"] == 1
    assert [line["step"] for line in log if line["event"] == "service.drain_step"] == [
        "stop_polling",
        "finish_in_flight",
        "flush_sink",
        "final_commit",
        "leave_group",
        "stop_background",
        "stop_metrics",
    ]
    assert not [line for line in log if line["level"] in ("error", "critical")]


def test_while_draining_the_process_is_live_and_not_ready(start: Callable[..., Process]) -> None:
    """Load balancers turn away at once, nobody restarts it, and the drain can be watched to its end."""
    process = start("2")
    until(lambda: "hashweir_in_flight_items 0.0" not in process.ask("/metrics")[1])
    process.signal(signal.SIGTERM)
    until(lambda: process.ask("/ready")[0] == 503)
    assert json.loads(process.ask("/ready")[1])["checks"]["not_draining"] is False
    assert process.ask("/live")[0] == 200
    assert process.ask("/metrics")[0] == 200
    assert process.end()[0] == 0


def test_a_second_signal_ends_at_once(start: Callable[..., Process]) -> None:
    """Nobody is made to wait for a drain; what was not committed comes again."""
    process = start("60")
    until(lambda: process.ask("/ready")[0] == 200)
    process.signal(signal.SIGTERM)
    until(lambda: process.ask("/ready")[0] == 503)
    began = time.monotonic()
    process.signal(signal.SIGTERM)
    code, lines, _ = process.end()
    assert code == 128 + signal.SIGTERM
    assert lines == []
    assert time.monotonic() - began < 3


def test_a_part_that_fails_ends_the_process_with_its_code(start: Callable[..., Process]) -> None:
    """Nothing runs on without a part; what was in flight is still finished and committed."""
    process = start("0.05", "fail")
    code, (left,), log = process.end()
    assert code == 4
    assert left["verdicts"] == left["committed"] > 0
    (failed,) = [line for line in log if line["event"] == "service.task_failed"]
    assert (failed["task"], failed["reason"]) == ("fail", "store_unreachable")


def test_exit_codes() -> None:
    """The code says who has to act: nobody but a restart (70), the caller (2), a dependency (4), us (1)."""
    assert exit_code(HashweirError("stream_stuck")) == EXIT_STUCK == 70
    assert exit_code(HashweirError("stream_fenced")) == EXIT_STUCK
    assert exit_code(Unreachable("stream_unreachable")) == 4
    assert exit_code(ConfigError("x")) == 2
    assert exit_code(RuntimeError()) == 1


class StepClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ms(self) -> int:
        return int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def server() -> Iterator[HealthServer]:
    made = HealthServer(Health(StepClock(), {"active_set": lambda: True}), CollectorRegistry(), "127.0.0.1", 0)
    made.start()
    yield made
    made.stop()


def test_health_says_which_check_fails(server: HealthServer) -> None:
    """200 or 503 with one JSON shape; unknown paths name the known ones; `/live` looks at the loop alone."""
    port, health = server.port, server.health
    assert ask(port, "/started")[0] == 503
    status, body = ask(port, "/ready")
    checks = {"started": False, "active_set": True, "not_draining": True}
    assert (status, json.loads(body)) == (503, {"ok": False, "checks": checks})
    health.started = True
    assert ask(port, "/started")[0] == ask(port, "/ready")[0] == ask(port, "/live")[0] == 200
    clock = health._clock
    assert isinstance(clock, StepClock)
    clock.seconds = 31.0
    assert ask(port, "/live")[0] == 503
    health.beat()
    assert ask(port, "/live")[0] == 200
    assert ask(port, "/secret") == (404, "/metrics, /live, /started, /ready\n")


def test_a_taken_port_is_a_matter_of_configuration(server: HealthServer) -> None:
    """The message names the address; exit code 2."""
    second = HealthServer(Health(StepClock(), {}), CollectorRegistry(), "127.0.0.1", server.port)
    with pytest.raises(ConfigError, match=str(server.port)):
        second.start()


class Store:
    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    async def open(self) -> None:
        self.notes.append("open")

    async def close(self) -> None:
        self.notes.append("close")


class Sandbox:
    def __init__(self, notes: list[str], *, broken: bool = False) -> None:
        self.notes = notes
        self.broken = broken

    async def start(self) -> None:
        self.notes.append("start")
        if self.broken:
            raise RuntimeError("no scan process")

    async def stop(self) -> None:
        self.notes.append("stop")
        raise RuntimeError("this step fails")


class Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


async def test_a_step_that_fails_does_not_keep_the_next_from_its_turn() -> None:
    """Everything that was started is stopped, in the order of the drain, whatever goes wrong."""
    notes: list[str] = []
    parts = Parts(store=Store(notes), sandbox=Sandbox(notes))  # type: ignore[arg-type]
    lifecycle = Lifecycle(parts, clock=Clock(), log=quiet())
    asyncio.get_running_loop().call_later(0.05, lifecycle.stop)
    assert await lifecycle.run() == 0
    assert notes == ["start", "open", "close", "stop"]


async def test_a_start_that_fails_ends_in_a_drain() -> None:
    """What came before it is closed again; the code is that of the error."""
    notes: list[str] = []
    parts = Parts(store=Store(notes), sandbox=Sandbox(notes, broken=True))  # type: ignore[arg-type]
    assert await Lifecycle(parts, clock=Clock(), log=quiet()).run() == 1
    assert notes == ["start", "close", "stop"]


def test_a_calm_process_is_not_looked_through_again() -> None:
    """What was there before is no work for the collector, and what comes later is collected."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    try:
        calm()
        frozen, later = gc.get_freeze_count(), Loop()
        gone = weakref.ref(later)
        del later
        gc.collect()
        assert (frozen > 1000, gone(), sys.getswitchinterval() < 0.001) == (True, None, True)
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


class Loop:
    """Holds itself."""

    def __init__(self) -> None:
        self.me = self
