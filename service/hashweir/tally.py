"""Histograms and counters for the hot path: written by one thread without a lock, read by the scrape's.

The client library's cost half a microsecond a count and over one an observation, a dozen times for each upload. These
are one or two operations. A scrape that comes between two sees a count without its sum, or the other way round, until
the next.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
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


class Number:
    """What was counted under one label set."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0.0

    def inc(self) -> None:
        """Count one."""
        self.total += 1


_One = TypeVar("_One", Series, Number)


class _Labelled(Collector, Generic[_One]):
    """A metric with all its label sets."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry, new: Callable[[], _One]
    ) -> None:
        self._name, self._help, self._labels = name, text, tuple(labels)
        self._new: Callable[[], _One] = new
        self._all: dict[tuple[str, ...], _One] = {}
        if not labels:
            self._all[()] = new()
        registry.register(self)

    def labels(self, *values: str) -> _One:
        """What stands under these label values, in their order."""
        found = self._all.get(values)
        if found is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}")
            found = self._all[values] = self._new()
        return found


class Tally(_Labelled[Series]):
    """One histogram, exported as any other."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry, buckets: Sequence[float]
    ) -> None:
        """`text` is its help, `buckets` are upper edges in ascending order, without the infinite one.

        Raises ValueError where the registry has the name already.
        """
        edges = tuple(buckets)
        self._shown = [*map(floatToGoString, edges), "+Inf"]
        super().__init__(name, text, labels, registry, lambda: Series(edges))

    def observe(self, value: float) -> None:
        """Count one value, where there are no labels."""
        self.labels().observe(value)

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The name alone."""
        yield HistogramMetricFamily(self._name, self._help, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All series as they are now."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, series in tuple(self._all.items()):
            buckets = list(zip(self._shown, map(float, accumulate(series.counts)), strict=True))
            family.add_metric(values, buckets=buckets, sum_value=series.total)
        yield family


class Count(_Labelled[Number]):
    """One counter, exported as any other."""

    def __init__(self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        """`text` is its help. Raises ValueError where the registry has the name already."""
        super().__init__(name, text, labels, registry, Number)

    def describe(self) -> Iterator[CounterMetricFamily]:
        """The name alone."""
        yield CounterMetricFamily(self._name, self._help, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """All counts as they are now."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, number in tuple(self._all.items()):
            family.add_metric(values, number.total)
        yield family
