"""Bringing a store to dual persistence without ever being one crash away from a loss.

The order is everything: a fresh RDB first, then the settings, then the append-only file on and proven, and only then
the file that the next start reads. Redis is never restarted for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentd.core.redis_policy import NAMES, drift, proof, refusals, settings_before_aof
from agentd.core.redis_verdict import assess
from agentd.core.redis_view import StoreView
from agentd.engine.steps import Step
from agentd.errors import AgentdError
from agentd.managers.redis import safety, waiting
from agentd.managers.redis.context import RedisPorts, Store
from agentd.managers.redis.look import Looker
from agentd.managers.redis.persist import Persisted, persist, way
from agentd.stores import Durability, RedisState
from agentd.types import ExitCode, Outcome
from agentd.wire import EnforcePlan

KEEP = "keep"
"""The step whose detail must not be lost: where the copy of an older append-only file is."""


@dataclass(frozen=True, slots=True)
class Enforced:
    outcome: Outcome
    message: str
    code: ExitCode = ExitCode.OK
    notes: tuple[str, ...] = ()
    rewritten: float | None = None
    """mtime of the file that Redis rewrote, 0 where it cannot be seen; None: it rewrote none."""


class Enforcer:
    def __init__(self, ports: RedisPorts, looker: Looker) -> None:
        self._ports = ports
        self._looker = looker

    async def plan(self, store: Store) -> EnforcePlan:
        """What `run` would do now. Raises AgentdError when the server cannot be asked."""
        view = await self._looker.look(store)
        reasons = self._refusals(view, store)
        if reasons:
            return EnforcePlan(store.name, (), reasons, ())
        steps: list[str] = []
        changes = dict(settings_before_aof(store.policy, view.running or {}))
        switch = self._to_switch(view, store)
        if self._unproven(view, store) or switch or not view.state.rdb_last_bgsave_ok:
            steps.append("BGSAVE, and wait until the RDB is written and well; copy it aside")
        if changes:
            steps.append("CONFIG SET " + " ".join(f'{name} "{value}"' for name, value in changes.items()))
        if switch:
            steps.append(
                f"CONFIG SET appendonly {switch}" + ("; wait until it is proven usable" if switch == "yes" else "")
            )
        elif self._unproven(view, store):
            steps.append("BGREWRITEAOF; wait until the append-only file is proven usable")
        chosen = way(view, store)
        steps += [f"file {view.state.config_file}: {change}" for change in chosen.changes]
        return EnforcePlan(store.name, tuple(steps), (), chosen.obstacles)

    async def run(self, store: Store, step: Step) -> Enforced:
        """Raises AgentdError only when nothing was changed."""
        await step("look", "")
        view = await self._settled(store)
        reasons = self._refusals(view, store)
        if reasons:
            raise AgentdError("redis-refused-state", f"nothing was changed: {'; '.join(reasons)}")
        before = view.state
        notes: list[str] = []
        safe = ""
        # Once stop-writes-on-bgsave-error is on, a save that failed earlier stops all writes.
        if self._to_switch(view, store) or self._unproven(view, store) or not before.rdb_last_bgsave_ok:
            if safety.left_behind(view):
                notes.append(await self._keep(store, view, step))
            safe = await self._save(store, view, step)
        touched = await self._settings(store, view, step)
        try:
            touched = await self._aof(store, view, step) or touched
            touched = await self._rest(store, step) or touched
        except AgentdError as error:
            return await self._undone(store, before, view, error, notes)
        try:
            return await self._persisted(store, before, step, notes, touched=touched, safe=safe)
        except AgentdError as error:
            message = f"{store.name}: {error.message}; what was done so far stays, and it is looked at again"
            return Enforced(Outcome.DEGRADED, message, ExitCode.FAILED, tuple(notes))

    # -- what is to be done -----------------------------------------------------------------------------------

    def _refusals(self, view: StoreView, store: Store) -> tuple[str, ...]:
        if view.running is None:
            return (f"its settings can neither be read nor set: {view.running_problem}",)
        reasons = refusals(view.state, view.running, view.space, store.policy, view.memory_available)
        if self._to_switch(view, store) == "no" and not _can_write(view, store):
            # The append-only file would get old, and the next start would read it and not the RDB.
            return (*reasons, "its file cannot be changed, so appendonly must not be switched off")
        return reasons

    def _to_switch(self, view: StoreView, store: Store) -> str:
        """ "yes", "no" or "": what appendonly has to be set to."""
        wanted = {item.name: item.wanted for item in drift(store.policy, view.running or {})}
        return wanted.get("appendonly", "")

    def _unproven(self, view: StoreView, store: Store) -> bool:
        return store.policy.appendonly and bool(
            proof(view.state, rewrites_before=None, aof=view.aof, manifest=view.manifest)
        )

    # -- the steps --------------------------------------------------------------------------------------------

    async def _settled(self, store: Store) -> StoreView:
        state = await store.admin.state()
        if state.saving and not state.loading:
            await waiting.idle(store.admin, self._ports.clock, timeout=store.policy.timeout)
        return await self._looker.look(store)

    async def _keep(self, store: Store, view: StoreView, step: Step) -> str:
        """In the journal first: once the RDB is saved, nobody would find out again that there is a copy."""
        kept = await safety.place(self._ports, store.name, "aof")
        told = f"an older append-only file, newer than the RDB, is kept in {kept}"
        await step(KEEP, told)
        await safety.keep_aof(self._ports, view, kept)
        return told

    async def _save(self, store: Store, view: StoreView, step: Step) -> str:
        """A fresh RDB, and a copy of it where nothing that Redis does reaches; the copy's directory."""
        await step("save", "BGSAVE")
        await waiting.fresh_save(store.admin, self._ports.clock, timeout=store.policy.timeout)
        if view.layout is None or not view.local:
            return ""
        await step("copy", f"{view.layout.rdb} is copied aside")
        return await safety.copy_rdb(self._ports, store.name, view.layout)

    async def _settings(self, store: Store, view: StoreView, step: Step) -> bool:
        """All but appendonly, in one call."""
        return await self._set(store, settings_before_aof(store.policy, view.running or {}), step)

    async def _rest(self, store: Store, step: Step) -> bool:
        """What had to wait for the append-only file: no save points at all."""
        return await self._set(store, settings_before_aof(store.policy, await store.admin.config(NAMES)), step)

    async def _set(self, store: Store, values: Mapping[str, str], step: Step) -> bool:
        if values:
            await step("settings", " ".join(f"{name}={value or '(none)'}" for name, value in values.items()))
            await store.admin.set_config(values)
        return bool(values)

    async def _aof(self, store: Store, view: StoreView, step: Step) -> bool:
        """On, and proven; or off where the policy says so. True when something was done."""
        switch = self._to_switch(view, store)
        if switch:
            await step("aof", f"CONFIG SET appendonly {switch}")
            now = await store.admin.state()
            await store.admin.set_config({"appendonly": switch})
            if switch == "yes":
                await self._prove(store, now, step)
        elif self._unproven(view, store):
            await step("aof", "BGREWRITEAOF")
            now = await store.admin.state()
            await store.admin.rewrite_aof()
            await self._prove(store, now, step)
        else:
            return False
        return True

    async def _prove(self, store: Store, before: RedisState, step: Step) -> None:
        """Raises AgentdError("aof-unproven") as soon as it has failed."""
        await step("prove", "waiting for the rewrite to end")

        def over(state: RedisState) -> bool:
            done = state.aof_rewrites > before.aof_rewrites and not state.saving
            # The status alone may still be that of an earlier failure.
            return done or not state.aof_enabled or state.aof_rewrite_failures > before.aof_rewrite_failures

        timeout = store.policy.timeout
        await waiting.until(store.admin, self._ports.clock, over, timeout=timeout, what="writing the append-only file")
        view = await self._looker.look(store)
        missing = proof(view.state, rewrites_before=before.aof_rewrites, aof=view.aof, manifest=view.manifest)
        if missing:
            raise AgentdError("aof-unproven", f"the append-only file is not usable: {'; '.join(missing)}")

    async def _persisted(
        self, store: Store, before: RedisState, step: Step, notes: list[str], *, touched: bool, safe: str
    ) -> Enforced:
        view = await self._looker.look(store)
        done = Persisted()
        chosen = way(view, store)
        if chosen.text is not None or chosen.rewrite:
            await step("persist", "; ".join(chosen.changes))
            await store.admin.state()  # Still the run that was proven: else its next start is not to read that file.
            done = await persist(self._ports, store, view)
        else:
            done = Persisted(obstacles=chosen.obstacles)
        await step("verify", "")
        view = await self._looker.look(store)
        verdict = assess(view, store.policy, None)
        notes += [*done.changes, *done.obstacles, *_fewer(before, view.state)]
        if verdict.durability in (Durability.DURABLE, Durability.RUNTIME_ONLY) and safe:
            await safety.forget(self._ports, store.name)
        elif safe:
            notes.append(f"a copy of the RDB from before is kept in {safe}")
        main = view.tree.main
        rewritten = (main.mtime if main is not None else 0.0) if done.rewritten else None
        ended = _ending(verdict.durability, verdict.summary, notes, view, touched=touched or bool(done.changes))
        return replace(ended, rewritten=rewritten)

    async def _undone(
        self, store: Store, before: RedisState, view: StoreView, error: AgentdError, notes: list[str]
    ) -> Enforced:
        """The append-only file could not be made: off again, where the RDB carries the data; the file is untouched."""
        try:
            state = await store.admin.state()
            running = await store.admin.config(("save", "appendonly"))
            switched_by_us = (view.running or {}).get("appendonly") == "no" and running.get("appendonly") == "yes"
            if switched_by_us and running.get("save") and state.rdb_last_bgsave_ok and state.run_id == before.run_id:
                await store.admin.set_config({"appendonly": "no"})
                notes.append("the append-only file is switched off again; the RDB is well and its save points are on")
            elif switched_by_us:
                notes.append("the append-only file stays on: without it nothing would keep the data")
        except AgentdError as again:
            notes.append(f"and it cannot be asked any more: {again.message}")
        message = f"{store.name}: {error.message}; its file was not changed"
        return Enforced(Outcome.ROLLED_BACK, message, ExitCode.ROLLED_BACK, tuple(notes))


def _can_write(view: StoreView, store: Store) -> bool:
    chosen = way(view, store)
    return chosen.text is not None or chosen.rewrite


def _fewer(before: RedisState, now: RedisState) -> list[str]:
    """Told, not judged: clients delete, and keys expire, while we work."""
    gone = before.keys - now.keys
    return [f"{gone} keys fewer than at the beginning, by clients or by their time to live"] if gone > 0 else []


def _ending(word: Durability, summary: str, notes: list[str], view: StoreView, *, touched: bool) -> Enforced:
    found = Enforced(Outcome.DONE if touched else Outcome.ALREADY, "", notes=tuple(notes))
    if word is Durability.DURABLE:
        return replace(found, message=f"{view.name}: {summary}")
    if word is Durability.RUNTIME_ONLY:
        return replace(found, outcome=Outcome.DEGRADED, code=ExitCode.DEGRADED, message=f"{view.name}: {summary}")
    return replace(found, outcome=Outcome.DEGRADED, code=ExitCode.FAILED, message=f"{view.name}: {summary}")
