"""The gauge of the retention: asked again and again, and never in the worker's way."""

from __future__ import annotations

import asyncio

from hashweir.errors import Unreachable
from hashweir.metrics import Metrics
from hashweir.wiring.gauges import RETENTION_EVERY_S, keep_retention
from tests.integration.kafka_member import Heard
from tests.virtual_time import run


def test_a_raised_retention_is_seen_and_a_failure_is_said_once() -> None:
    """The last value stays while nobody answers; for ever is -1, as with Kafka."""

    async def main() -> None:
        answers: list[float | Exception | None] = [
            3600.0,
            Unreachable("stream_unreachable", "x"),
            OSError("y"),
            7200.0,
            None,
        ]
        metrics, heard = Metrics(), Heard()

        async def ask() -> float | None:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        asyncio.create_task(keep_retention(ask, "uploads", metrics, heard.log))  # noqa: RUF006 - ends with the loop
        seen = []
        await asyncio.sleep(1)
        for _ in range(5):
            seen.append(metrics.registry.get_sample_value("hashweir_retention_seconds", {"topic": "uploads"}))
            await asyncio.sleep(RETENTION_EVERY_S if answers else 0)
        assert seen == [3600, 3600, 3600, 7200, -1]
        assert heard.events == ["stream.retention_unknown"]

    run(main())
