"""What a start from a copy must find, from two looks at the server that it was copied from. Pure.

Keys without and with a time to live are counted apart: the latter may expire in either place at another moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agentd.stores import RedisState

SWEPT = 1000
"""Keys with a time to live among which a server finds every expired one within seconds. Among more it only samples,
estimates how many it has not found (expired_stale_perc), and lets them lie."""
DOUBT = 0.01
"""What that estimate may miss, as a share of the keys with a time to live."""
MEMORY_FACTOR, MEMORY_MARGIN = 1.2, 256 * 1024**2
"""What a second server with the same data takes, and what shall be left beside it."""


@dataclass(frozen=True, slots=True)
class Range:
    low: int
    high: int

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.low <= number <= self.high


@dataclass(frozen=True, slots=True)
class Expected:
    lasting: Range
    """Keys without a time to live."""
    passing: Range
    """Keys with one."""
    changes: int
    """Writes by which the copy may differ."""
    total: Range
    """Less than both together: one write changes one of them."""


def memory_wanted(used_memory: int) -> int:
    """Bytes that have to be available for a second server with this data."""
    return int(used_memory * MEMORY_FACTOR) + MEMORY_MARGIN


def same_save(before: RedisState, after: RedisState) -> bool:
    """No RDB was written between the two looks, so that the numbers of changes since the last one can be compared."""
    return (before.rdb_saves, before.rdb_last_save) == (after.rdb_saves, after.rdb_last_save)


def expected_of_aof(before: RedisState, after: RedisState, now: RedisState, *, stale: bool = False) -> Expected:
    """Copied between `before` and `after`; `now` is a look at the server after the copy was counted. With `stale`, keys
    that are expired and that the server has not found yet may be gone from the copy, too."""
    changes = after.rdb_changes - before.rdb_changes
    if not same_save(before, after) or changes < 0:
        changes = _grown(before, after, "total_commands_processed")
    changes += _grown(before, after, "evicted_keys")
    return _expected(before, after, now, changes, stale)


def expected_of_rdb(before: RedisState, after: RedisState, now: RedisState, *, stale: bool = False) -> Expected:
    """The same for the last RDB, which lacks what was written since."""
    changes = max(before.rdb_changes, after.rdb_changes)
    if not same_save(before, after):
        changes += _grown(before, after, "total_commands_processed")
    changes += _number(after, "evicted_keys")
    return _expected(before, after, now, changes, stale)


def shortfall(expected: Expected, keys: Mapping[int, int], expires: Mapping[int, int]) -> str:
    """What is wrong with the keys that were found, in one sentence; "" when nothing is."""
    passing = sum(expires.values())
    lasting = sum(keys.values()) - passing
    if lasting not in expected.lasting:
        return f"{lasting} keys without a time to live instead of {figures(expected.lasting)}"
    if passing not in expected.passing:
        return f"{passing} keys with a time to live instead of {figures(expected.passing)}"
    if lasting + passing not in expected.total:
        return f"{lasting + passing} keys instead of {figures(expected.total)}"
    return ""


def figures(found: Range) -> str:
    return str(found.low) if found.low == found.high else f"{found.low} to {found.high}"


def _expected(before: RedisState, after: RedisState, now: RedisState, changes: int, stale: bool) -> Expected:
    lasting = [state.keys - state.expires for state in (before, after)]
    passing = [before.expires, after.expires]
    gone = _grown(before, now, "expired_keys")
    if stale and max(passing) > SWEPT:
        gone += math.ceil(max(passing) * (2 * max(map(_stale, (before, after, now))) + DOUBT))
    return Expected(
        Range(max(0, min(lasting) - changes), max(lasting) + changes),
        Range(max(0, min(passing) - changes - gone), max(passing) + changes),
        changes,
        Range(max(0, min(before.keys, after.keys) - changes - gone), max(before.keys, after.keys) + changes),
    )


def _stale(state: RedisState) -> float:
    """The share of keys with a time to live that are expired and still there, as the server estimates it."""
    try:
        return max(0.0, float(state.fields.get("expired_stale_perc", "0"))) / 100
    except ValueError:
        return 0.0


def _grown(before: RedisState, after: RedisState, name: str) -> int:
    return max(0, _number(after, name) - _number(before, name))


def _number(state: RedisState, name: str) -> int:
    text = state.fields.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0
