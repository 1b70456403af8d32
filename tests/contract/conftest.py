"""One server per implementation and suite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.contract.stores import Deployments, deployments
from tests.servers.store import StoreServerError


@pytest.fixture(
    scope="module", params=["memory", "valkey", pytest.param("redis", marks=pytest.mark.store)], name="fresh"
)
def _fresh(request: pytest.FixtureRequest) -> Iterator[Deployments]:
    with ExitStack() as stack:
        try:
            source = deployments(request.param, stack)
        except StoreServerError as e:
            pytest.skip(str(e))
        yield source
