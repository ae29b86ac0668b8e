"""Which repair a store needs now, if any, and when it is worth another try."""

from __future__ import annotations

from enum import Enum

from agentd.core.redis_policy import drift, refusals
from agentd.core.redis_verdict import Assessment, lacking
from agentd.core.redis_view import StoreView
from agentd.managers.redis.context import Store
from agentd.managers.redis.persist import way
from agentd.stores import StoreRecord

FIRST, LONGEST = 60.0, 3600.0
"""Seconds until a repair that did not help is tried again; doubled each time."""


class Repair(Enum):
    ENFORCE = "enforce"
    SAVE = "save"


def needed(view: StoreView, found: Assessment, record: StoreRecord, store: Store) -> Repair | None:
    """What is safe to do by itself. Nothing while the store is held still, loads, or refuses its settings."""
    policy = store.policy
    if record.loss or view.state.loading or view.running is None:
        return None
    if refusals(view.state, view.running, view.space, policy, view.memory_available):
        return None
    unproven = lacking(view, policy, record) and not view.state.saving
    if drift(policy, view.running) or unproven or _file_can_be_mended(view, found, record, store):
        return Repair.ENFORCE
    return None if view.state.rdb_last_bgsave_ok or view.state.saving else Repair.SAVE


def _file_can_be_mended(view: StoreView, found: Assessment, record: StoreRecord, store: Store) -> bool:
    """A file that cannot be read counts as mended once Redis has written it (CONFIG REWRITE)."""
    if not view.local or found.file or (found.file is None and record.persisted):
        return False
    chosen = way(view, store)
    return chosen.text is not None or chosen.rewrite


def signature(view: StoreView, store: Store) -> tuple[object, ...]:
    """What makes a repair that failed worth another try at once, when it changes."""
    files = tuple((f.path, f.mtime, f.mode, f.writable) for f in view.tree.files)
    return (view.state.run_id, tuple(drift(store.policy, view.running or {})), files, view.launch.argv)


class Attempts:
    """How often a repair was tried in vain for the same signature, and when it may be tried again."""

    def __init__(self) -> None:
        self._signature: tuple[object, ...] = ()
        self._pause = FIRST
        self._not_before = 0.0

    def may(self, what: tuple[object, ...], now: float) -> bool:
        return what != self._signature or now >= self._not_before

    def tried(self, what: tuple[object, ...], now: float) -> None:
        self._pause = min(LONGEST, 2 * self._pause) if what == self._signature else FIRST
        self._signature = what
        self._not_before = now + self._pause

    def clear(self) -> None:
        self._signature, self._pause, self._not_before = (), FIRST, 0.0
