"""A whole deployment for tests: topics, sets, real `hashweir work` processes, and clients that speak only the wire.

Everything here uses the command line, Kafka records and HTTP, as a platform would. Processes are ended by their id.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.servers.process import free_port
from tests.system.corpus import Sent
from tests.system.oracle import Known

READY_SECONDS = 60.0
PARTITIONS = 6
HASHWEIR = (sys.executable, "-m", "hashweir")


@dataclass(frozen=True)
class Said:
    """One record of the verdicts topic."""

    body: bytes
    headers: dict[str, bytes]
    at_ms: int


@dataclass
class Node:
    """One `hashweir work` process and how to start it again."""

    name: str
    environment: dict[str, str]
    port: int
    log: Path
    command: tuple[str, ...] = (*HASHWEIR, "work")
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0

    def start(self) -> None:
        """Start it; `wait_ready` says when it works."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.kills += 1

    def terminate(self) -> int:
        """End it with SIGTERM and wait for the drain; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def page(self, path: str) -> tuple[int, str]:
        """Status and body of a page on the metrics port; 0 where nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """Sum of a metric over all its labels; 0 where nobody listens."""
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in self.page("/metrics")[1].splitlines()
            if line.startswith((name + "{", name + " "))
        )

    def tail(self) -> str:
        """The end of its log, for a failing test."""
        return self.log.read_text()[-3000:]

    def wait_ready(self) -> None:
        """Wait until it is assigned, verified and not draining."""
        wait_for(lambda: self.page("/ready")[0] == 200, READY_SECONDS, lambda: f"{self.name}: {self.tail()}")


def wait_for(condition: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    """Poll a condition; an AssertionError that tells `what` when time runs out."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what()}")
        time.sleep(0.02)


@dataclass
class Rig:
    """One deployment on a broker and a store. Use as a context manager: it ends the processes that it started."""

    bootstrap: str
    store_url: str
    name: str
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="hashweir-rig-")))
    extra: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.kill()

    @property
    def prefix(self) -> str:
        """Prefix of this deployment's topics."""
        return f"{self.name}."

    def environment(self, instance: str = "cli", port: int = 0) -> dict[str, str]:
        """What a process of this deployment is configured by."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HASHWEIR_")}
        return kept | {
            "HASHWEIR_KAFKA__BOOTSTRAP": self.bootstrap,
            "HASHWEIR_KAFKA__GROUP": self.name,
            "HASHWEIR_KAFKA__INSTANCE_ID": instance,
            "HASHWEIR_KAFKA__TOPIC_PREFIX": self.prefix,
            "HASHWEIR_KAFKA__TOPIC_PARTITIONS": str(PARTITIONS),
            "HASHWEIR_STORE__URL": self.store_url,
            "HASHWEIR_STORE__PREFIX": self.name,
            "HASHWEIR_WORKER__INSTANCE": instance,
            "HASHWEIR_SCAN__PROCESSES": "1",
            "HASHWEIR_METRICS__PORT": str(port),
            **self.extra,
        }

    def run(self, *arguments: str, exits: int = 0) -> str:
        """Run a command to its end; its stdout. Asserts the exit code."""
        ran = subprocess.run(
            [*HASHWEIR, *arguments], env=self.environment(), capture_output=True, timeout=120, check=False
        )
        assert ran.returncode == exits, (arguments, ran.returncode, ran.stderr.decode()[-2000:])
        return ran.stdout.decode()

    def create(self) -> None:
        """Topics, function library and an empty store."""
        self.run("check", "--create")

    def fill(self, name: str, known: Iterable[Known]) -> None:
        """A new active set with these entries, through the command line."""
        file = self.folder / f"{name}.csv"
        lines = [f"{one.kind},{one.value},{one.item},{form_of(one)},{one.length or ''}" for one in known]
        file.write_text("kind,value,item,form,length\n" + "\n".join(lines) + "\n")
        self.run("sets", "create", name, "--owner", "test", "--origin", "own-review")
        self.run("sets", "import", name, str(file))
        self.run("sets", "activate", name)

    def node(self, name: str, command: tuple[str, ...] = (*HASHWEIR, "work")) -> Node:
        """A worker process, started."""
        port = free_port()
        one = Node(name, self.environment(name, port), port, self.folder / f"{name}.log", command)
        self.nodes.append(one)
        one.start()
        return one

    async def send(self, uploads: Iterable[Sent], per_second: float | None = None) -> None:
        """Produce uploads over the partitions, at a steady rate where one is given."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, enable_idempotence=True, linger_ms=5)
        await producer.start()
        try:
            started, acks = time.monotonic(), []
            for number, one in enumerate(uploads):
                if per_second is not None:
                    await asyncio.sleep(max(0.0, started + number / per_second - time.monotonic()))
                headers = list(one.headers)
                sent = await producer.send(
                    f"{self.prefix}uploads", one.value, headers=headers, partition=number % PARTITIONS
                )
                acks.append(sent)
            await asyncio.gather(*acks)
        finally:
            await producer.stop()


class Verdicts:
    """Reads a topic of the deployment from its beginning, for as long as it takes. `by_id` is by upload id."""

    def __init__(self, rig: Rig, topic: str = "verdicts") -> None:
        self._topic = f"{rig.prefix}{topic}"
        self._bootstrap = rig.bootstrap
        self.by_id: dict[str, list[Said]] = defaultdict(list)

    async def __aenter__(self) -> Verdicts:
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=20
        )
        await self._consumer.start()
        self._consumer.assign([TopicPartition(self._topic, number) for number in range(PARTITIONS)])
        await self._consumer.seek_to_beginning()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def read(self, timeout_ms: int = 50) -> int:
        """Take what has come; how many records."""
        taken = 0
        for records in (await self._consumer.getmany(timeout_ms=timeout_ms)).values():
            for record in records:
                upload = json.loads(record.value)["upload"]
                self.by_id[upload].append(Said(record.value, dict(record.headers), record.timestamp))
                taken += 1
        return taken

    async def wait_for_all(self, ids: Iterable[str], seconds: float) -> None:
        """Read until every id was said of. An AssertionError that names some of the missing ones."""
        wanted, deadline = set(ids), time.monotonic() + seconds
        while missing := wanted - self.by_id.keys():
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(missing)} uploads without a verdict, such as {sorted(missing)[:5]}")
            await self.read()


def form_of(one: Known) -> str:
    """The form under which the oracle hashed an entry."""
    return "normal" if one.kind == "tlsh" else "canonical"
