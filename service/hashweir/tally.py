"""A histogram for the hot path: written by one thread without a lock, read by the scrape's.

The client library's own costs over a microsecond per observation, ten times for each upload. This one is two list
operations. A scrape that comes between them sees a count without its sum, or the other way round, until the next.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Series:
    """The observations under one label set."""

    __slots__ = ("_edges", "counts", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value under the first edge that is not below it."""
        self.counts[bisect_left(self._edges, value)] += 1
        self.total += value


class Tally(Collector):
    """One histogram with all its label sets, exported as any other."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry, buckets: Sequence[float]
    ) -> None:
        """`text` is its help, `buckets` are upper edges in ascending order, without the infinite one.

        Raises ValueError where the registry has the name already.
        """
        self._name, self._help, self._labels = name, text, tuple(labels)
        self._edges = tuple(buckets)
        self._shown = [*map(floatToGoString, self._edges), "+Inf"]
        self._series: dict[tuple[str, ...], Series] = {}
        if not labels:
            self._series[()] = Series(self._edges)
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series under these label values, in their order."""
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}")
            found = self._series[values] = Series(self._edges)
        return found

    def observe(self, value: float) -> None:
        """Count one value, where there are no labels."""
        self.labels().observe(value)

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The name alone."""
        yield HistogramMetricFamily(self._name, self._help, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All series as they are now."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, series in tuple(self._series.items()):
            buckets = list(zip(self._shown, map(float, accumulate(series.counts)), strict=True))
            family.add_metric(values, buckets=buckets, sum_value=series.total)
        yield family
