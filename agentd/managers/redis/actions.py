"""What acts on a store, as journaled changes: enforcement, drill, backup. One at a time for each store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from agentd.core.redis_view import StoreView
from agentd.engine.steps import Ending, Progress, Steps, ended
from agentd.errors import AgentdError, ConflictError
from agentd.managers.redis.backup import Backups
from agentd.managers.redis.context import RedisPorts, Store
from agentd.managers.redis.drill import drill
from agentd.managers.redis.enforce import KEEP, Enforcer
from agentd.managers.redis.guard import Guard
from agentd.managers.redis.look import Looker
from agentd.managers.redis.pinned import pinned
from agentd.managers.redis.records import Records
from agentd.types import Change, ExitCode, Outcome
from agentd.wire import EnforcePlan

log = logging.getLogger(__name__)

ENFORCE, DRILL, BACKUP = "redis-enforce", "redis-drill", "redis-backup"
KINDS = (ENFORCE, DRILL, BACKUP)
Work = Callable[[Store, StoreView, Progress], Awaitable[Ending]]
"""On a store whose connection ends with the run of the server that was looked at."""
Lock = Callable[[str], AbstractAsyncContextManager[object]]
"""Held by whoever changes the store of that name, in whatever process."""


@dataclass(frozen=True, slots=True)
class ActionParts:
    ports: RedisPorts
    steps: Steps
    looker: Looker
    records: Records
    guard: Guard
    lock: Lock
    backup_dir: str


class RedisActions:
    def __init__(self, parts: ActionParts) -> None:
        self._parts = parts
        self._enforcer = Enforcer(parts.ports, parts.looker)
        self._running: dict[str, tuple[Change, asyncio.Task[Change]]] = {}

    def running(self, name: str) -> str:
        """Id of the change that runs on the store; "" when none does."""
        change, task = self._running.get(name, (None, None))
        return change.id if change is not None and task is not None and not task.done() else ""

    async def cut_off(self) -> tuple[str, ...]:
        """Close what a crash of agentd cut off, in the journal. The stores whose enforcement was among it: it has to be
        done again, from what is there now. Raises AgentdError."""
        again = []
        for change in await self._parts.steps.store.open_changes():
            if change.kind in KINDS and change.id != self.running(change.target or ""):
                kept = [phase.detail for phase in change.phases if phase.phase == KEEP]
                text = "; ".join(("agentd was stopped meanwhile; the store is looked at anew", *kept))
                await self._parts.steps.cut_off(change, text)
                if change.kind == ENFORCE and change.target:
                    again.append(change.target)
        return tuple(dict.fromkeys(again))

    async def plan(self, store: Store) -> EnforcePlan:
        record = await self._parts.records.load(store.name)
        plan = await self._enforcer.plan(store)
        return replace(plan, steps=(), refusals=(record.loss, *plan.refusals)) if record.loss else plan

    async def enforce(self, store: Store, *, accept_loss: bool = False) -> tuple[Change, asyncio.Task[Change]]:
        """Begun. Raises ConflictError while another change runs on the store, AgentdError("data-loss") while it is held
        still."""
        self._free(store)
        record = await self._parts.records.load(store.name)
        if record.loss and not accept_loss:
            hint = f"when the data is right as it is: agentctl redis enforce {store.name} --accept-loss"
            raise AgentdError("data-loss", f"{store.name} is held still: {record.loss}", hint=hint)
        if record.loss:
            await self._parts.guard.accept(store)

        return self._begin(ENFORCE, store, self._enforced)

    async def drill(self, store: Store) -> tuple[Change, asyncio.Task[Change]]:
        self._free(store)
        return self._begin(DRILL, store, self._drilled)

    async def backup(self, store: Store, to: str, keep: int | None) -> tuple[Change, asyncio.Task[Change]]:
        self._free(store)
        target = to or store.policy.backup_dir or self._parts.backup_dir
        kept = store.policy.backup_keep if keep is None else keep

        async def work(same: Store, view: StoreView, progress: Progress) -> Ending:
            return await self._backed_up(same, view, target, kept, progress)

        return self._begin(BACKUP, store, work)

    async def close(self) -> None:
        for _, task in self._running.values():
            await ended(task)

    # -- inside -----------------------------------------------------------------------------------------------

    def _free(self, store: Store) -> None:
        running = self.running(store.name)
        if running:
            raise ConflictError(f"change {running} is at work on {store.name}", running)

    def _begin(self, kind: str, store: Store, work: Work) -> tuple[Change, asyncio.Task[Change]]:
        async def alone(progress: Progress) -> Ending:
            async with self._parts.lock(store.name):
                view = await self._unharmed(store)
                async with pinned(self._parts.ports, store, view.state) as same:
                    return await work(same, view, progress)

        self._free(store)  # Again: a record was read since.
        begun = self._parts.steps.begin(kind, store.name, alone)
        self._running[store.name] = begun
        return begun

    async def _unharmed(self, store: Store) -> StoreView:
        """Nothing is saved over a loss that nobody has seen yet. Raises AgentdError."""
        view = await self._parts.looker.look(store)
        record = await self._parts.guard.compare(store, view)
        if record.loss:
            raise AgentdError("data-loss", f"{store.name} is held still: {record.loss}")
        return view

    async def _enforced(self, store: Store, _: StoreView, progress: Progress) -> Ending:
        done = await self._enforcer.run(store, progress)
        if done.rewritten is not None:
            await self._parts.records.update(store.name, persisted=True, file_written=done.rewritten)
        return Ending(done.outcome, "; ".join((done.message, *done.notes)), done.code)

    async def _drilled(self, store: Store, view: StoreView, progress: Progress) -> Ending:
        parts, ports = self._parts, self._parts.ports
        if view.running is None:
            raise AgentdError("redis-refused-state", f"cannot drill {store.name}: {view.running_problem}")
        effective = {n: s.value for n, s in view.effective.values.items()} if view.effective is not None else {}
        result = await drill(
            store.admin,
            ports.files,
            ports.scratch,
            ports.clock,
            view.running,
            effective or view.running,
            place=f"{ports.state_dir}/{store.name}/drill",
            executable=view.state.executable,
            memory_available=ports.kernel.memory_available,
            timeout=store.policy.timeout,
            progress=progress,
        )
        await parts.records.update(store.name, drill_at=ports.clock.time(), drill_ok=result.ok)
        if result.ok:
            return Ending(Outcome.DONE, f"{store.name}: {result.message}")
        return Ending(Outcome.DEGRADED, f"{store.name}: {result.message}", ExitCode.FAILED)

    async def _backed_up(self, store: Store, view: StoreView, target: str, keep: int, progress: Progress) -> Ending:
        parts, ports = self._parts, self._parts.ports
        if view.running is None:
            raise AgentdError("redis-refused-state", f"cannot back up {store.name}: {view.running_problem}")
        backups = Backups(store.admin, ports.files, ports.scratch, ports.clock, ports.kernel.memory_available)
        result = await backups.take(
            store.name,
            view.running,
            target,
            keep,
            timeout=store.policy.timeout,
            executable=view.state.executable,
            progress=progress,
        )
        size = sum(file.size for file in result.info.files)
        await parts.records.update(store.name, backup_at=ports.clock.time(), backup_bytes=size)
        keys = sum(result.info.keys.values())
        removed = f"; {len(result.removed)} older removed" if result.removed else ""
        return Ending(Outcome.DONE, "; ".join((f"{store.name}: {keys} keys in {result.path}{removed}", *result.notes)))
