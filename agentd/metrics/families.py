"""Short forms for the client library's metric families."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from agentd.metrics.view import Distribution

Labels = tuple[str, ...]
Samples = Iterable[tuple[Labels, float]]


def gauge(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counter(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    """`name` without its `_total`."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def histogram(name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[Labels, Distribution]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, found in samples:
        buckets, below = [], 0
        for bound, count in zip((*found.bounds, float("inf")), found.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(below)))
        family.add_metric(values, buckets, found.total)
    return family


def one_hot(subject: Labels, states: Iterable[str], current: str) -> Samples:
    """One sample per state; exactly one of them is 1."""
    return [((*subject, state), float(state == current)) for state in states]
