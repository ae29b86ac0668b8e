"""After every start of a store: is the data still there? And holding everything still when it is not."""

from __future__ import annotations

import logging

from agentd.core.redis_layout import LAYOUT_NAMES
from agentd.core.redis_loss import Loss, back, lost, repair
from agentd.core.redis_placement import KEPT as BEFORE
from agentd.core.redis_verdict import Assessment
from agentd.core.redis_view import StoreView
from agentd.engine.events import EventLog
from agentd.errors import AgentdError
from agentd.managers.redis import safety
from agentd.managers.redis.context import RedisPorts, Store
from agentd.managers.redis.records import Records
from agentd.stores import StoreRecord

log = logging.getLogger(__name__)


class Guard:
    def __init__(self, ports: RedisPorts, records: Records, events: EventLog) -> None:
        self._ports = ports
        self._records = records
        self._events = events

    async def compare(self, store: Store, view: StoreView) -> StoreRecord:
        """The record, brought up to this look; holds a store still that came back empty. Raises AgentdError when the
        record cannot be read or written."""
        record = await self._records.load(store.name)
        if view.state.loading or view.state.run_id == "":
            return record
        if record.loss:
            record = await self._still_lost(store, view, record)
        elif record.run_id != view.state.run_id:
            found = lost(record, view)
            if found is not None and await self._restored(view, record):
                found = None
            if found is Loss.ALL:
                return await self._hold(store, view, record)
            if found is Loss.SOME:
                await self._tell_of_fewer(store, view, record)
        return record if record.loss else await self._counted(view, record)

    async def _restored(self, view: StoreView, record: StoreRecord) -> bool:
        """Somebody restored a backup since: that it holds fewer keys is what they wanted."""
        if view.layout is None or not record.at:
            return False
        kept = await self._ports.state_files.find(view.layout.directory, f"{BEFORE}*")
        return any(path.rpartition(BEFORE)[2] >= safety.stamp(record.at) for path in kept)

    async def _counted(self, view: StoreView, record: StoreRecord) -> StoreRecord:
        state, running = view.state, view.running or {}
        files = {name: running[name] for name in LAYOUT_NAMES if name in running} or record.files
        return await self._records.count(
            record.name, keys=state.keys, expires=state.expires, at=view.at, run_id=state.run_id, files=files
        )

    async def note(self, record: StoreRecord, verdict: Assessment) -> StoreRecord:
        """What the look has proven, for the time until the next one. Raises AgentdError."""
        persisted = record.persisted if verdict.file is None else verdict.file
        return await self._records.update(record.name, proven=verdict.proven, persisted=persisted)

    async def accept(self, store: Store) -> None:
        """A human has decided that the data set is as it should be. Raises AgentdError."""
        record, state = await self._records.load(store.name), await store.admin.state()
        if record.loss:
            now = {"run_id": state.run_id, "keys": state.keys, "expires": state.expires}
            await self._records.update(store.name, loss="", evidence="", **now)
            self._events.emit("redis.loss-accepted", store.name, "the data set is accepted as it is now")

    async def _hold(self, store: Store, view: StoreView, record: StoreRecord) -> StoreRecord:
        """First what would overwrite the evidence is stopped, then it is copied, then told. The record is written
        before the copy, so that a kill in between leaves the hold."""
        cause = f"it came back with {view.state.keys} keys; before there were {record.keys}"
        if not record.run_id:
            cause = "it has no key, and did not read the RDB that lies there from before its start"
        stopped = await self._stop_saving(store)
        await self._records.update(store.name, loss=cause, run_id=view.state.run_id)
        evidence, problem = await safety.keep_evidence(self._ports, view)
        text = f"{cause}. {repair(record, view, evidence)}"
        held = await self._records.update(store.name, loss=text, evidence=evidence)
        where = f"its files are copied to {evidence}" if evidence else f"its files could not be copied: {problem}"
        self._events.emit(
            "redis.data-loss", store.name, f"{cause}; saving {'is stopped' if stopped else 'goes on'}, {where}"
        )
        log.error("redis.data-loss", extra={"data": {"store": store.name, "was": record.keys, "is": view.state.keys}})
        return held

    async def _still_lost(self, store: Store, view: StoreView, record: StoreRecord) -> StoreRecord:
        if back(record, view):
            self._events.emit("redis.data-back", store.name, f"the data is back: {view.state.keys} keys")
            return await self._records.update(store.name, loss="", evidence="")
        if record.run_id != view.state.run_id or (view.running or {}).get("save"):
            await self._stop_saving(store)
        evidence = record.evidence
        if not evidence:  # Cut off between the hold and the copy, or refused then.
            evidence, _ = await safety.keep_evidence(self._ports, view)
        return await self._records.update(store.name, evidence=evidence, run_id=view.state.run_id)

    async def _stop_saving(self, store: Store) -> bool:
        """No save point, so no save: neither a timed one, nor the last one at SIGTERM, overwrites the old RDB."""
        if store.policy.mode == "report":
            return False
        try:
            await store.admin.set_config({"save": ""})
        except AgentdError as error:
            log.warning("redis.hold-failed", extra={"data": {"store": store.name, "error": error.message}})
            return False
        return True

    async def _tell_of_fewer(self, store: Store, view: StoreView, record: StoreRecord) -> None:
        evidence, problem = await safety.keep_evidence(self._ports, view)
        where = f"copies of its files are in {evidence}" if evidence else f"its files could not be copied: {problem}"
        text = f"it came back with {view.state.keys} keys; before there were {record.keys}; {where}"
        self._events.emit("redis.fewer-keys", store.name, text)
