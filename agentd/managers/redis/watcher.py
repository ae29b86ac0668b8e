"""One store, watched by one task: look, compare with the record, judge, mend, wait for news or the next half minute."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from agentd.core.redis_verdict import Assessment, assess
from agentd.core.redis_view import StoreView
from agentd.engine.events import EventLog
from agentd.errors import AgentdError, ConflictError
from agentd.managers.redis.actions import RedisActions
from agentd.managers.redis.context import RedisPorts, Store
from agentd.managers.redis.guard import Guard
from agentd.managers.redis.heal import Attempts, Repair, needed, signature
from agentd.managers.redis.look import Looker
from agentd.managers.redis.pinned import pinned
from agentd.managers.redis.records import Records
from agentd.managers.redis.schedule import Schedule
from agentd.managers.redis.status import seen, unseen
from agentd.ports import ExitWatch
from agentd.stores import ConfTree, RedisState, StoreRecord, StoreStatus

log = logging.getLogger(__name__)

SOON, GROWTH = 0.2, 1.6
"""Seconds until an unreachable server is asked again, and by how much that grows, up to `check_every`."""
SERVERS = ("redis", "valkey")


@dataclass(frozen=True, slots=True)
class WatcherParts:
    ports: RedisPorts
    looker: Looker
    records: Records
    guard: Guard
    actions: RedisActions
    events: EventLog
    seen: Callable[[str], None]
    """Told the name of the source at each look, for its age."""


class Watcher:
    """`spec`: what the configuration says of the store; a watcher is replaced when that changes. `again`: its
    enforcement was cut off by a crash of agentd, so it is done again whatever the mode."""

    def __init__(self, store: Store, spec: object, parts: WatcherParts, *, again: bool = False) -> None:
        self.store = store
        self.spec = spec
        self.status = StoreStatus(store.name, store.unit, store.target.url)
        self.folders: tuple[str, ...] = ()
        self._parts = parts
        self._again = again
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._exit: tuple[int, ExitWatch] | None = None
        self._previous: RedisState | None = None
        self._pause = SOON
        self._attempts: dict[Repair, Attempts] = {repair: Attempts() for repair in Repair}
        self._schedule = Schedule(store.policy)

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    def hurry(self) -> None:
        """Look now, and soon again when it does not answer."""
        self._pause = SOON
        self._news.set()

    def forget_launch(self) -> None:
        self._parts.looker.forget(self.store.name)
        self.hurry()

    async def look_now(self) -> StoreStatus:
        """For somebody who waits for it; mends nothing."""
        async with self._lock:
            await self._look()
        return self.status

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._forget_process()
        self._parts.looker.forget(self.store.name)
        await self.store.admin.close()

    async def _watch(self) -> None:
        while True:
            self._news.clear()
            try:
                async with self._lock:
                    await self._round()
            except Exception:  # A bug here must not end the watch, nor go unseen.
                log.exception("redis.internal", extra={"data": {"store": self.store.name}})
            # Not wait_for: in Python 3.11 that swallows a cancellation that comes together with the news.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait()):
                    await self._news.wait()

    def _wait(self) -> float:
        """Seconds until the next look without news."""
        every = self.store.policy.check_every
        state = self.status.state
        if state is not None and not state.loading and (not state.saving or self.status.proven):
            self._pause = SOON
            return every
        self._pause = min(every, self._pause * GROWTH)
        return self._pause

    async def _round(self) -> None:
        busy = self._parts.actions.running(self.store.name)
        found = await self._look()
        if found is None:
            return
        view, verdict, record = found
        self._watch_process(view)
        if not busy:  # A look into the midst of a change says nothing; its end brings the next one.
            await self._mend(view, verdict, record)
        await self._keep_appointments(record)

    async def _look(self) -> tuple[StoreView, Assessment, StoreRecord] | None:
        parts, store = self._parts, self.store
        try:
            view = await parts.looker.look(store)
            record = await parts.guard.compare(store, view)
            verdict = assess(view, store.policy, record, self._previous)
            if not record.loss and not view.state.loading:
                record = await parts.guard.note(record, verdict)
        except AgentdError as error:
            self._unreachable(error)
            return None
        self._previous = view.state
        self.folders = _folders(view.tree)
        enforcing = parts.actions.running(store.name)
        self._publish(seen(self.status, view, verdict, record, enforcing=enforcing))
        parts.seen("redis")
        return view, verdict, record

    def _unreachable(self, error: AgentdError) -> None:
        self._forget_process()
        known, busy = self._parts.records.known(self.store.name), self._parts.actions.running(self.store.name)
        self._publish(unseen(self.status, error, known, enforcing=busy))

    def _publish(self, now: StoreStatus) -> None:
        before, self.status = self.status, now
        if before.durability is not now.durability:
            self._parts.events.emit(f"redis.{now.durability.value}", now.name, f"{now.durability.value}: {now.summary}")

    # -- the process ------------------------------------------------------------------------------------------

    def _watch_process(self, view: StoreView) -> None:
        """Its death is news at once, also where no unit of ours is behind it."""
        pid = view.state.pid
        if not view.local or (self._exit is not None and self._exit[0] == pid):
            return
        self._forget_process()
        kernel = self._parts.ports.kernel
        if kernel.comm(pid).startswith(SERVERS):  # In a container it has another pid than the one it says.
            watch = kernel.watch_exit(pid, self.hurry)
            if watch is not None:
                self._exit = (pid, watch)

    def _forget_process(self) -> None:
        if self._exit is not None:
            self._exit[1].close()
            self._exit = None

    # -- repair -----------------------------------------------------------------------------------------------

    async def _mend(self, view: StoreView, verdict: Assessment, record: StoreRecord) -> None:
        parts, store = self._parts, self.store
        if parts.actions.running(store.name) or (store.policy.mode != "enforce" and not self._again):
            return
        repair = needed(view, verdict, record, store)
        if repair is None:
            for attempts in self._attempts.values():
                attempts.clear()
            self._again = False
            return
        now, what = parts.ports.clock.monotonic(), signature(view, store)
        if not self._attempts[repair].may(what, now):
            return
        self._attempts[repair].tried(what, now)
        try:
            if repair is Repair.SAVE:
                async with pinned(parts.ports, store, view.state) as same:
                    await same.admin.save()
                parts.events.emit("redis.saving", store.name, "the RDB is saved again, after a failure")
                self.hurry()
            else:
                self._again = False
                _, task = await parts.actions.enforce(store)
                task.add_done_callback(lambda _: self.hurry())
        except ConflictError:
            return
        except AgentdError as error:
            log.warning("redis.not-mended", extra={"data": {"store": store.name, "error": error.message}})

    async def _keep_appointments(self, record: StoreRecord) -> None:
        """A drill or a backup that is due."""
        parts, store = self._parts, self.store
        now = parts.ports.clock.time()
        due = None if record.loss or parts.actions.running(store.name) else self._schedule.due(record, now)
        if due is None:
            return
        try:
            begun = parts.actions.drill(store) if due == "drill" else parts.actions.backup(store, "", None)
            _, task = await begun
            task.add_done_callback(lambda _: self.hurry())
        except AgentdError as error:
            log.warning(f"redis.no-{due}", extra={"data": {"store": store.name, "error": error.message}})


def _folders(tree: ConfTree) -> tuple[str, ...]:
    """Where the files of the configuration are, that can be read."""
    return tuple(sorted({(f.link or f.path).rpartition("/")[0] for f in tree.files if f.text is not None}))
