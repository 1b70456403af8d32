"""Topics of a Kafka cluster: which are there, and making those that are missing. Used by `check` alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from hashweir.errors import Refused, Unreachable

MOST_REPLICAS = 3


@asynccontextmanager
async def connected(bootstrap: str, options: Mapping[str, Any], budget_s: float) -> AsyncIterator[Topics]:
    """The topics of the cluster at `bootstrap` (host:port,host:port).

    `options` are aiokafka's security options. Raises Unreachable(stream_unreachable) naming the address where no
    broker answers within `budget_s` seconds.
    """
    # The client logs each refused connection with its own words; ours come as one error.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    client = AIOKafkaAdminClient(
        bootstrap_servers=bootstrap, request_timeout_ms=int(budget_s * 1000), retry_backoff_ms=200, **options
    )
    try:
        try:
            async with asyncio.timeout(budget_s):
                await client.start()
        except (KafkaError, OSError, TimeoutError) as error:
            raise Unreachable("stream_unreachable", f"no Kafka broker answers at {bootstrap}: {_say(error)}") from None
        yield Topics(client, bootstrap, budget_s)
    finally:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(budget_s):
                await client.close()


class Topics:
    """The topics of one cluster."""

    def __init__(self, client: AIOKafkaAdminClient, bootstrap: str, budget_s: float) -> None:
        self._client, self._bootstrap, self._budget_s = client, bootstrap, budget_s

    async def brokers(self) -> int:
        """How many brokers the cluster has. Raises as `names`."""
        return len((await self._ask(self._client.describe_cluster()))["brokers"])

    async def names(self) -> frozenset[str]:
        """All topics. Raises Unreachable, and Refused(stream_refused) where a broker says no."""
        return frozenset(await self._ask(self._client.list_topics()))

    async def create(
        self, names: Collection[str], *, partitions: int, replicas: int, settings: Mapping[str, str]
    ) -> None:
        """Make topics; one that exists meanwhile is left as it is. 0 `replicas`: one per broker, at most three.

        Raises as `names`.
        """
        replicas = replicas or min(await self.brokers(), MOST_REPLICAS)
        new = [NewTopic(name, partitions, replicas, topic_configs=dict(settings)) for name in names]
        reply = await self._ask(self._client.create_topics(new))
        for name, code, *_ in reply.topic_errors:
            kind = for_code(code)
            if code and not issubclass(kind, TopicAlreadyExistsError):
                raise Refused("stream_refused", f"topic {name} can't be made: {kind.__name__}")

    async def _ask(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(self._budget_s):
                return await work
        except (OSError, TimeoutError) as error:
            raise Unreachable("stream_unreachable", f"Kafka at {self._bootstrap}: {_say(error)}") from None
        except KafkaError as error:
            raise Refused("stream_refused", f"Kafka at {self._bootstrap}: {_say(error)}") from None


def _say(error: BaseException) -> str:
    return str(error) or type(error).__name__
