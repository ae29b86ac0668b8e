"""What the fixtures of the gpu tier hand to its tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MIB = 1024**2

Smi = Callable[[str, str], list[dict[str, str]]]


@dataclass(frozen=True)
class Holder:
    """A process that holds GPU memory; `unit` is "" where it is an ordinary child."""

    pid: int
    unit: str
    stop: Callable[[], None]
    kill: Callable[[], None]
