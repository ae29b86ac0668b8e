"""How long to leave something alone. Pure: the caller brings the randomness."""

from __future__ import annotations

SPREAD = 0.2
"""Largest part of a delay that jitter takes off."""
COOLDOWN_FACTOR = 4.0
BACKOFF_FACTOR = 2.0


def exponential(count: int, *, base: float, cap: float, factor: float) -> float:
    """base, base*factor, base*factor^2, ... for count 1, 2, 3, ...; at most `cap`. No delay for count 0 or less."""
    if count <= 0 or base <= 0:
        return 0.0
    delay = base
    for _ in range(count - 1):
        delay *= factor
        if delay >= cap:
            break
    return float(min(delay, cap))


def backoff_seconds(attempt: int, *, base: float, cap: float, jitter: float = 0.0) -> float:
    """Delay before attempt 1, 2, 3, ...: doubles up to `cap`. `jitter` in [0, 1] shortens it by up to a fifth, so that
    services that fell together do not rise together."""
    return exponential(attempt, base=base, cap=cap, factor=BACKOFF_FACTOR) * (1.0 - SPREAD * min(1.0, max(0.0, jitter)))


def cooldown_seconds(failures: int, *, base: float, cap: float) -> float:
    """How long a model is left alone after it failed `failures` times in a row: 30 s, 2 min, 8 min, 10 min with the
    default base and cap."""
    return exponential(failures, base=base, cap=cap, factor=COOLDOWN_FACTOR)
