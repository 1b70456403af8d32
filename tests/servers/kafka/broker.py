"""A real Apache Kafka broker (KRaft, one node) as a child process, on loopback and free ports."""

import base64
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers import tls
from tests.servers.kafka.jars import fetch_jars, find_java, kafka_version
from tests.servers.process import ServerError, ServerProcess, free_ports

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


class KafkaBroker(ServerProcess):
    """One broker and controller in one child process, which keeps its ports, and its data in `folder`."""

    name = "kafka"
    start_s = 60.0
    stop_s = 20.0

    def __init__(
        self,
        folder: Path | None = None,
        *,
        properties: Mapping[str, str] | None = None,
        jvm: Sequence[str] = (),
        secure: bool = False,
    ) -> None:
        """`properties` are added to, or replace, server properties, and `jvm` options; `secure` adds a TLS + SCRAM
        listener."""
        super().__init__(folder)
        self._jvm = [*_JVM, *jvm]
        self._extra = dict(properties or {})
        self._ports = free_ports(3)
        self.version = kafka_version()
        self.bootstrap = f"127.0.0.1:{self._ports[0]}"
        self.secure: SecureListener | None = None
        if secure:
            self.secure = SecureListener(
                bootstrap=f"127.0.0.1:{self._ports[2]}",
                ca_file=self._folder / "ca.pem",
                mechanism="SCRAM-SHA-512",
                username="hashweir",
                password=uuid.uuid4().hex,
            )

    def _command(self) -> list[str]:
        config = self._folder / "server.properties"
        if not config.exists():
            self._prepare(config)
        return self._java("kafka.Kafka", str(config))

    def _java(self, main: str, *arguments: str) -> list[str]:
        return [find_java(), *self._jvm, *_LOGGING, "-cp", f"{fetch_jars()}{os.sep}*", main, *arguments]

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
        if self._spawn(self._java("kafka.tools.StorageTool", *arguments)).wait(self.start_s) != 0:
            raise ServerError(f"the Kafka data folder can't be formatted:\n{self._log_tail()}")
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

    def _answers(self) -> bool:
        return _answers(self._ports[0])


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
