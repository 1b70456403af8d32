"""How many brokers must have a record before it is acked: what topics get, and what `check` says of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hashweir.adapters.kafka_admin import Difference, KafkaAdmin, TopicPlan
from hashweir.adapters.kafka_link import Access

IN_SYNC = "min.insync.replicas"


@pytest.mark.parametrize(("replication", "in_sync"), [(-1, None), (1, None), (2, None), (3, "2"), (5, "2")])
def test_a_topic_on_three_brokers_needs_two_acks(replication: int, in_sync: str | None) -> None:
    """With fewer replicas the absence of one broker would stop all writing; -1 may mean one."""
    assert TopicPlan(name="t", partitions=1, replication=replication).settings().get(IN_SYNC) == in_sync


class Cluster:
    """A client that knows one topic `t` of two partitions."""

    def __init__(self, replicas: list[int], in_sync: str, plan: TopicPlan) -> None:
        self._parts = [{"partition": n, "replicas": list(range(many))} for n, many in enumerate(replicas)]
        self._settings = plan.settings() | {IN_SYNC: in_sync}

    async def describe_topics(self) -> list[dict[str, Any]]:
        return [{"topic": "t", "partitions": self._parts}]

    async def describe_configs(self, resources: list[Any]) -> list[Any]:
        entries = [(name, value) for name, value in self._settings.items()]
        return [SimpleNamespace(resources=[(0, "", 2, "t", entries)])]


@pytest.mark.parametrize("replication", [-1, 3])
@pytest.mark.parametrize(
    ("replicas", "in_sync", "told"),
    [
        ([3, 3], "2", False),
        ([3, 3], "3", False),
        ([3, 3], "1", True),
        ([2, 2], "1", True),
        ([1, 1], "1", False),
        ([1, 3], "1", False),
    ],
)
async def test_one_ack_among_several_replicas_is_told(
    replication: int, replicas: list[int], in_sync: str, told: bool
) -> None:
    """The replicas that are there decide: where a partition has one alone, more acks could never come."""
    plan = TopicPlan(name="t", partitions=2, replication=replication)
    admin = KafkaAdmin(Access(bootstrap="localhost:1"))
    admin._client = Cluster(replicas, in_sync, plan)
    assert await admin.check([plan]) == ([Difference("t", IN_SYNC, "2", "1")] if told else [])
