"""The store that a configuration names, or a server of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from hashweir.adapters.embedded_store import embedded_store
from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.config import Config
from hashweir.ports import Store
from hashweir.wiring.required import require


def store(config: Config) -> RedisStore:
    """The store, not opened yet. Raises ConfigError where `store.url` is missing."""
    require(config, "store.url")
    part = config.store
    access = Access(
        url=part.url,
        username=part.username or None,
        password=part.password.get_secret_value() or None,
        ca_file=part.tls_ca_file or None,
        cert_file=part.tls_cert_file or None,
        key_file=part.tls_key_file or None,
        connect_s=part.connect_budget_seconds,
    )
    return RedisStore(access, part.prefix, replicas=part.wait_replicas, near=part.near)


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[Store]:
    """The store, opened. Raises ConfigError, Unreachable naming the address, Refused(store_not_created)."""
    opened = store(config)
    try:
        await opened.open()
        yield opened
    finally:
        await opened.close()


@contextmanager
def embedded(config: Config, data: Path | None = None) -> Iterator[Config]:
    """A Valkey server of our own on loopback while the context lasts; yields the configuration that names it.

    In `data` it keeps what it has (append-only file); without, it forgets all in the end. Raises ConfigError where
    the `embedded` extra is not installed, Unreachable(store_unreachable) where the server does not start.
    """
    with embedded_store(data) as url:
        yield config.model_copy(update={"store": config.store.model_copy(update={"url": url})})
