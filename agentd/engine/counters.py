"""Counts that only grow, kept where they happen and shown by the metrics; plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

Key = tuple[str, tuple[str, ...]]
"""A family's name without `_total`, and the values of its labels in their order."""


class Counters:
    """What may be counted is in metrics/counted.py; a name that is not there is a bug that a test finds."""

    def __init__(self) -> None:
        self._counts: Counter[Key] = Counter()

    def add(self, name: str, *labels: str, by: int = 1) -> None:
        self._counts[name, labels] += by

    def snapshot(self) -> Mapping[Key, int]:
        return dict(self._counts)
