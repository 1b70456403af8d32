"""The hot path's metrics are exported exactly as the client library's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from hashweir.metrics import STAGE_SECONDS
from hashweir.tally import Count, Tally

EDGES = st.lists(st.sampled_from((*STAGE_SECONDS, 31.0, 64.0)), min_size=1, unique=True).map(sorted)
VALUES = st.lists(st.tuples(st.sampled_from(("a", 'b"\\\n')), st.floats(0, 100) | st.sampled_from(STAGE_SECONDS)))


def page(registry: CollectorRegistry) -> bytes:
    return generate_latest(registry)


@given(EDGES, VALUES)
def test_it_writes_the_page_that_the_library_writes(edges: list[float], values: list[tuple[str, float]]) -> None:
    """Edges, cumulation, values that lie on an edge, odd labels: the library is the oracle."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    tally = Tally("some_seconds", "How long.", ("stage",), registry=ours, buckets=edges)
    oracle = Histogram("some_seconds", "How long.", ("stage",), registry=theirs, buckets=edges)
    count = Count("some_total", "How many.", ("stage",), registry=ours)
    other = Counter("some_total", "How many.", ("stage",), registry=theirs)
    for label, value in values:
        tally.labels(label).observe(value)
        oracle.labels(label).observe(value)
        count.labels(label).inc()
        other.labels(label).inc()
    assert page(ours) == page(theirs)


def test_without_labels_it_is_there_from_the_start() -> None:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    tally = Tally("some_seconds", "How long.", (), registry=ours, buckets=(1.0, 2.0))
    Histogram("some_seconds", "How long.", (), registry=theirs, buckets=(1.0, 2.0))
    Count("some_total", "How many.", (), registry=ours)
    Counter("some_total", "How many.", (), registry=theirs)
    assert page(ours) == page(theirs)
    tally.observe(1.5)
    assert ours.get_sample_value("some_seconds_bucket", {"le": "2.0"}) == 1


def test_a_mistake_is_told() -> None:
    collectors = CollectorRegistry(auto_describe=True)
    tally = Tally("some_seconds", "How long.", ("stage",), registry=collectors, buckets=(1.0,))
    with pytest.raises(ValueError, match="labels"):
        tally.labels("a", "b")
    with pytest.raises(ValueError, match="Duplicated"):
        Tally("some_seconds", "How long.", ("stage",), registry=collectors, buckets=(1.0,))
