"""One server per implementation and suite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.contract.stores import Deployments, deployments


@pytest.fixture(
    scope="module", params=["memory", "valkey", pytest.param("redis", marks=pytest.mark.store)], name="fresh"
)
def _fresh(request: pytest.FixtureRequest) -> Iterator[Deployments]:
    with ExitStack() as stack:
        yield deployments(request.param, stack)
