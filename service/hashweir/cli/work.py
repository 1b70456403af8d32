"""`hashweir work`: the long-running worker, from Kafka's uploads to verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hashweir.cli import Shards, Usage, run, settings
from hashweir.cli.output import say

if TYPE_CHECKING:
    from hashweir.config import Config


def work(
    *,
    embedded: Annotated[
        bool, Parameter(negative="", help="a store of its own; without kafka.bootstrap a stream of its own too")
    ] = False,
    data: Annotated[Path | None, Parameter(help="folder of the embedded store; without it, it forgets all")] = None,
    allow_empty: Annotated[bool, Parameter(negative="", help="judge even where no set is active")] = False,
    long: Annotated[
        bool, Parameter(negative="", help="read the topic uploads.long, where worker.relay_long puts videos")
    ] = False,
    shards: Shards = None,
    partial: Annotated[
        bool, Parameter(negative="", help="allow a part of the shards, where each verdict is a match or unscanned")
    ] = False,
) -> int:
    """Take uploads from Kafka and answer each with a verdict, until SIGTERM or Ctrl-C.

    The first signal drains: what is in flight is finished and committed. A second one ends at once.
    """
    if data is not None and not embedded:
        raise Usage("--data needs --embedded")
    from hashweir.shards.subset import parse

    config = settings(shards)
    if config.shards.only and not partial and (missing := parse(config.shards.only).missing):
        text = f"nothing would ever be clear without shards {missing}: give --partial if other workers look there"
        raise Usage(text, "shards_missing")
    if long and embedded and not config.kafka.bootstrap:
        raise Usage("--long needs kafka.bootstrap: the stream inside one process has one lane")
    if allow_empty:
        worker = config.worker.model_copy(update={"allow_empty": True})
        config = config.model_copy(update={"worker": worker})
    if not embedded:
        return run(_work(config, long))
    from hashweir import wiring

    with wiring.embedded(config, data) as own:
        say(f"embedded store at {own.store.url} (HASHWEIR_STORE__URL for `hashweir sets`)")
        return run(_embedded(own, long))


async def _work(config: Config, long: bool) -> int:
    from hashweir import wiring
    from hashweir.logs import setup

    wiring.require(config, "kafka.bootstrap", "store.url")
    log = setup(config.logs.level)
    return await (await wiring.kafka_worker(config, wiring.store(config), log, long=long)).run()


async def _embedded(config: Config, long: bool) -> int:
    from hashweir import wiring
    from hashweir.logs import setup
    from hashweir.metrics import Metrics
    from hashweir.sets.canary_set import ensure_canary
    from hashweir.sets.commands import LOCAL

    store = wiring.store(config)
    await store.create(config.store.shards)
    if config.worker.canary_period_seconds:
        await ensure_canary(store, LOCAL)
    log = setup(config.logs.level)
    if config.kafka.bootstrap:
        return await (await wiring.kafka_worker(config, store, log, long=long)).run()
    lifecycle, _ = wiring.memory_worker(config, wiring.memory_broker(), store, Metrics(), log)
    say("kafka.bootstrap is not configured: the stream is inside this process")
    return await lifecycle.run()
