"""A real Apache Kafka broker (KRaft, one node) as a child process, on loopback and free ports."""

import base64
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import tls
from tests.servers.kafka.jars import BrokerError, fetch_jars, find_java, kafka_version

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
# A test broker lives for seconds on a busy machine: little heap, and no time for the optimising compiler.
_JVM = ["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
_LOGGING = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]


@dataclass(frozen=True)
class SecureListener:
    """What a client needs to reach the broker's TLS + SASL listener."""

    bootstrap: str
    ca_file: Path
    mechanism: str
    username: str
    password: str


class KafkaBroker:
    """One broker and controller in one child process, on loopback and free ports, with its data in `folder`.

    As a context manager it starts on entry, and on exit stops and removes its own temporary folder. After
    `kill()` or `stop()`, `start()` brings it back with the same data and the same ports.
    """

    def __init__(
        self, folder: Path | None = None, *, properties: Mapping[str, str] | None = None, secure: bool = False
    ) -> None:
        """`properties` are added to, or replace, server properties; `secure` adds a TLS + SCRAM listener."""
        self._own_folder = folder is None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="hashweir-kafka-"))
        self._extra = dict(properties or {})
        self._ports = _free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None
        self._java: str = ""
        self._classpath = ""
        self.version = kafka_version()
        self.bootstrap = f"127.0.0.1:{self._ports[0]}"
        self.log_file = self._folder / "broker.log"
        self.secure: SecureListener | None = None
        if secure:
            self.secure = SecureListener(
                bootstrap=f"127.0.0.1:{self._ports[2]}",
                ca_file=self._folder / "ca.pem",
                mechanism="SCRAM-SHA-512",
                username="hashweir",
                password=uuid.uuid4().hex,
            )

    @property
    def pid(self) -> int:
        """The broker's process id. Raises BrokerError when it is not running."""
        if self._process is None:
            raise BrokerError("the Kafka broker is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until the broker answers with itself as a live node. Raises BrokerError."""
        if self._process is not None:
            raise BrokerError("the Kafka broker is already running")
        self._java = find_java()
        self._classpath = f"{fetch_jars()}{os.sep}*"
        config = self._folder / "server.properties"
        if not config.exists():
            self._prepare(config)
        self._process = self._spawn("kafka.Kafka", str(config))
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(self._ports[0]):
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                self.kill()
                state = "too slow" if code is None else f"exit code {code}"
                raise BrokerError(f"the Kafka broker did not start ({state}):\n{self._log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop in good order (SIGTERM); a broker that takes longer than 20 s is killed. Idempotent."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it with SIGKILL; the data stays for the next `start()`. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """`stop()`, then `start()` with the same data and ports."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the broker (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen broker go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._remove()

    def _remove(self) -> None:
        if self._own_folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _spawn(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as log:
            # A session of its own: Ctrl-C goes to the test run, which then stops the broker in its own order.
            return subprocess.Popen(
                [self._java, *_JVM, *_LOGGING, "-cp", self._classpath, main, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )

    def _prepare(self, config: Path) -> None:
        """Write the server properties and format the data folder; done once per folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        properties = self._properties() | self._extra
        staged = config.with_suffix(".new")
        staged.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        # A leading dash would read as an option, so the id has none.
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        arguments = ["format", "--standalone", "-t", cluster, "-c", str(staged)]
        if self.secure is not None:
            user = f"name={self.secure.username},password={self.secure.password}"
            arguments += ["--add-scram", f"{self.secure.mechanism}=[{user}]"]
        if self._spawn("kafka.tools.StorageTool", *arguments).wait(_START_SECONDS) != 0:
            raise BrokerError(f"the Kafka data folder can't be formatted:\n{self._log_tail()}")
        # Renamed only now: a folder whose format failed is prepared anew by the next start.
        staged.rename(config)

    def _properties(self) -> dict[str, str]:
        client, controller, secured = self._ports
        listeners = f"PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}"
        protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self._folder / "data"),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # The default, 128 MiB, is a third of this heap.
            "log.cleaner.dedupe.buffer.size": "4194304",
            # A killed broker is let in again only when its former session has expired; the default is 9 s.
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "500",
            "num.network.threads": "2",
            "num.io.threads": "2",
            "background.threads": "2",
            "num.recovery.threads.per.data.dir": "1",
        }
        if self.secure is not None:
            keystore = tls.write_chain(self._folder, self.secure.ca_file)
            mechanism = self.secure.mechanism
            listeners += f",SECURE://127.0.0.1:{secured}"
            protocols += ",SECURE:SASL_SSL"
            properties |= {
                "sasl.enabled.mechanisms": mechanism,
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(keystore),
                f"listener.name.secure.{mechanism.lower()}.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                ),
            }
        return properties | {"listeners": listeners, "listener.security.protocol.map": protocols}

    def _log_tail(self, lines: int = 25) -> str:
        if not self.log_file.exists():
            return "(no log)"
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])


def _free_ports(count: int) -> list[int]:
    """Ports free at this moment, held together while they are chosen so that no two are equal."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports


def _answers(port: int) -> bool:
    """Whether a Metadata request (key 3, version 1, no topics) is answered with at least one live broker.

    An open port is too early: the broker listens before the controller has let it in.
    """
    request = b"\x00\x03\x00\x01" + b"\x00\x00\x00\x07" + b"\xff\xff" + b"\x00\x00\x00\x00"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as stream:
            stream.sendall(len(request).to_bytes(4) + request)
            reply = stream.makefile("rb").read(12)
    except OSError:
        return False
    # length, correlation id, number of brokers
    return len(reply) == 12 and int.from_bytes(reply[8:12]) > 0
