"""Kafka's topics and cluster, for `hashweir check`: what is there, what differs from the plan, what is to be made."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from hashweir.adapters.kafka_link import Access, connect, unreachable, within
from hashweir.errors import HashweirError

Result = TypeVar("Result")
_IN_SYNC = "min.insync.replicas"
_SAFE_IN_SYNC = 2
"""With so many acks no single disk takes a record along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlan:
    """A topic as it should be. `replication` -1 takes the broker's default; retention is in seconds."""

    name: str
    partitions: int
    replication: int = -1
    retention_s: int = 604_800
    max_message_bytes: int = 2 * 1024 * 1024

    def settings(self) -> dict[str, str]:
        """The topic's own settings, in Kafka's words, as it is made."""
        own = {"retention.ms": str(self.retention_s * 1000), "max.message.bytes": str(self.max_message_bytes)}
        # Kafka's default is 1: one broker's ack, and the verdict is lost with its disk. Only where three replicas are
        # asked for, because on two the absence of one broker would stop all writing, and on one nothing could be
        # written at all; how many -1 gives is not known here.
        return own | ({_IN_SYNC: str(_SAFE_IN_SYNC)} if self.replication >= 3 else {})


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as planned. `what` is `topic` where it is missing, `partitions` or a setting's name."""

    topic: str
    what: str
    planned: str
    found: str


class KafkaAdmin:
    """A connection for questions and for making topics; a context manager.

    Every method raises Unreachable(stream_unreachable) naming the address where no answer comes in time.
    """

    def __init__(self, access: Access) -> None:
        """Connects to nothing."""
        self._access = access
        self._client: Any = None

    async def start(self) -> None:
        """Connect. Raises Unreachable after `connect_s`, ConfigError."""
        self._client = AIOKafkaAdminClient(**self._access.options())
        try:
            await connect(self._access, self._client.start)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close. Never raises."""
        if self._client is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await within(2.0, self._client.close())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def cluster_id(self) -> str:
        """The cluster's id."""
        return str((await self._ask(self._client.describe_cluster()))["cluster_id"])

    async def default_source(self) -> str:
        """What stands in for a missing `ce_source`."""
        return f"kafka:{await self.cluster_id()}"

    async def retention_s(self, topic: str) -> float | None:
        """For how many seconds this topic keeps a record; None where it keeps them for ever.

        Raises Unreachable where that is not told: a worker may lack the right to ask.
        """
        settings = await self._settings([TopicPlan(name=topic, partitions=1)])
        seconds = int(settings.get(topic, {}).get("retention.ms", "-1")) / 1000
        return seconds if seconds >= 0 else None

    async def check(self, plans: Sequence[TopicPlan]) -> list[Difference]:
        """What is not as planned, in the order of the plans; nothing is changed."""
        # All topics, not those of the plan: asking for one by name may make it, with the broker's defaults.
        described = await self._ask(self._client.describe_topics())
        partitions = {one["topic"]: len(one["partitions"]) for one in described}
        replicas = {
            one["topic"]: min((len(part["replicas"]) for part in one["partitions"]), default=0) for one in described
        }
        settings = await self._settings(plan for plan in plans if plan.name in partitions)
        found: list[Difference] = []
        for plan in plans:
            if plan.name not in partitions:
                found.append(Difference(plan.name, "topic", "there", "missing"))
                continue
            if partitions[plan.name] != plan.partitions:
                found.append(Difference(plan.name, "partitions", str(plan.partitions), str(partitions[plan.name])))
            for key, planned in plan.settings().items():
                has = settings[plan.name].get(key, "")
                if key != _IN_SYNC and has != planned:
                    found.append(Difference(plan.name, key, planned, has))
            # By the replicas that there are, not those of the plan: with one alone it must stay 1.
            in_sync = settings[plan.name].get(_IN_SYNC, "")
            if replicas[plan.name] >= _SAFE_IN_SYNC and in_sync.isdigit() and int(in_sync) < _SAFE_IN_SYNC:
                found.append(Difference(plan.name, _IN_SYNC, str(_SAFE_IN_SYNC), in_sync))
        return found

    async def create(self, plans: Sequence[TopicPlan]) -> list[str]:
        """Make the topics that are missing and wait until they are known; their names. Others are left as they are.

        Raises HashweirError(stream_topic_missing) with the broker's reason where it refuses.
        """
        # `replica_assignments` empty and not None, or the client refuses the -1 that lets the broker decide.
        wanted = [
            NewTopic(plan.name, plan.partitions, plan.replication, {} if plan.replication == -1 else None,
                     plan.settings())
            for plan in plans
        ]  # fmt: skip
        answer = await self._ask(self._client.create_topics(wanted, timeout_ms=int(self._access.answer_s * 1000)))
        made: list[str] = []
        for name, code, *message in answer.topic_errors:
            if code == 0:
                made.append(name)
            elif code != TopicAlreadyExistsError.errno:
                why = (message[0] if message else None) or for_code(code).__name__
                raise HashweirError("stream_topic_missing", f"topic {name} can't be made: {why}")
        await self._ask(self._known({plan.name for plan in plans}))
        return made

    async def _known(self, names: set[str]) -> None:
        """The controller has answered before the brokers know."""
        there: set[str] = set()
        while not names <= there:
            there = {one["topic"] for one in await self._client.describe_topics() if one["partitions"]}
            await asyncio.sleep(0.0 if names <= there else 0.05)

    async def _settings(self, plans: Iterable[TopicPlan]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ConfigResourceType.TOPIC, plan.name) for plan in plans]
        if not resources:
            return {}
        found: dict[str, dict[str, str]] = {}
        for answer in await self._ask(self._client.describe_configs(resources)):
            for code, message, _, name, entries in answer.resources:
                if code:
                    raise unreachable(self._access, f"settings of {name}: {message or for_code(code).__name__}")
                found[name] = {entry[0]: entry[1] for entry in entries}
        return found

    async def _ask(self, question: Coroutine[Any, Any, Result]) -> Result:
        try:
            return await within(self._access.answer_s, question)
        except (KafkaError, TimeoutError) as error:
            raise unreachable(self._access, f"{type(error).__name__} {error}".strip()) from None
