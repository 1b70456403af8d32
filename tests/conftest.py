"""Real servers for a whole session, and at its end a line per server: its version, and how many tests met it.

A server that can't be had fails the tests that need it: what is skipped is not tested.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.kafka_world import KafkaWorld
from tests.servers.kafka import KafkaBroker
from tests.servers.kafka.jars import kafka_version
from tests.servers.store import RedisServer, ValkeyServer

# A law is no clock: what takes long on a busy machine is not wrong. The time limit of a test ends what hangs.
settings.register_profile("laws", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("laws")

_SERVERS: dict[str, type] = {"kafka": KafkaBroker, "valkey": ValkeyServer, "redis": RedisServer}
_met: Counter[str] = Counter()


@pytest.fixture(scope="session")
def broker() -> Iterator[KafkaBroker]:
    """One Kafka broker for all tests that leave it alive."""
    with KafkaBroker() as running:
        yield running


@pytest.fixture
async def kafka(broker: KafkaBroker) -> AsyncIterator[KafkaWorld]:
    """Topics and a group of this test alone."""
    async with KafkaWorld(broker.bootstrap) as world:
        yield world


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """One Valkey for all tests that use a key prefix of their own and leave it alive."""
    with ValkeyServer() as running:
        yield running


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The same with Redis."""
    with RedisServer() as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what may be disturbed by other tests that run at its side."""
    for item in items:
        if {"integration", "system"} & set(item.path.relative_to(Path(__file__).parent).parts):
            item.add_marker("alone")


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Count which servers a test has among its fixtures and parameters; what it starts itself is not counted."""
    definitions = getattr(item, "_fixtureinfo", None)
    values = [
        definition.cached_result[0]
        for found in (definitions.name2fixturedefs.values() if definitions else ())
        for definition in found
        if definition.cached_result
    ]
    values += getattr(getattr(item, "callspec", None), "params", {}).values()
    for name, kind in _SERVERS.items():
        if any(
            value is kind or isinstance(value, kind) or (isinstance(value, str) and value == name) for value in values
        ):
            _met[name] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was met, so that a run that met nothing real can't pass for one that did."""
    for name, count in sorted(_met.items()):
        terminalreporter.write_line(f"met {_version(name)}: {count} tests")


def _version(name: str) -> str:
    if name == "kafka":
        return f"Apache Kafka {kafka_version()}"
    binary = ValkeyServer.binary() if name == "valkey" else RedisServer.binary()
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    found = re.search(r"v=(\S+)", said)
    return f"{name.capitalize()} {found[1] if found else said.strip()}"
