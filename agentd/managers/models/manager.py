"""All slots together: requests find their slot, reality is compared with it, leases end, defaults begin."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Mapping

from agentd.core.schema import Service, Settings
from agentd.core.switch import State
from agentd.core.use_profiles import why_off
from agentd.engine.changes import ChangeBook
from agentd.engine.counters import Counters
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.managers.models import parking, planning
from agentd.managers.models.adoption import look
from agentd.managers.models.context import ModelUnit, Ports, Runtime, SlotContext, Wakes
from agentd.managers.models.facts import FactsBook
from agentd.managers.models.holders import neighbours
from agentd.managers.models.leases import Leases
from agentd.managers.models.memory import Ask
from agentd.managers.models.recovery import recover
from agentd.managers.models.shown import as_it_serves, models_now
from agentd.managers.models.sleepers import Sleepers
from agentd.managers.models.slot import SlotOwner
from agentd.managers.models.strays import end_strays
from agentd.model_facts import ModelNow
from agentd.ports import Job, Store
from agentd.types import Change, Outcome
from agentd.wire import EXIT_CODES, LeaseRequest, SleepCheckRequest, SwitchPlan, SwitchRequest, UnloadRequest

RECENT = 20
"""Changes among which the last one of a slot is looked for."""


class ModelsManager:
    name = "models"

    def __init__(
        self, ports: Ports, store: Store, events: EventLog, changes: ChangeBook, world: World, counters: Counters
    ) -> None:
        self._ports = ports
        self._store = store
        self._events = events
        self._changes = changes
        self._world = world
        self._counters = counters
        self._wakes = Wakes()
        self._facts = FactsBook(store)
        self._owners: dict[str, SlotOwner] = {}
        self._dissolved: list[SlotOwner] = []
        """Of slots that were configured away, until what they had stopped runs again."""
        self._sleepers: dict[str, Sleepers] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._services: Mapping[str, Service] = {}
        self._leases = Leases(self._owners, events, ports.clock, self._ask, self._later)
        self.profile: Callable[[], str] = lambda: ""
        """The profile of use in force."""

    # -- life -------------------------------------------------------------------------------------------------

    async def start(self, settings: Settings) -> None:
        """Build the slots, finish what a crash cut off, adopt what runs, and only then begin a default."""
        await self._facts.load()
        await self.apply(settings)
        cut_off = {c.slot: c for c in await self._store.open_changes() if c.slot}
        for owner in self._owners.values():
            change = cut_off.pop(owner.ctx.name, None)
            if change is not None:
                await self._recover(owner, change)
            if not owner.busy():
                await look(owner, self._events)
            self._leases.arm(owner)
            self._begin_default(owner)
        for change in cut_off.values():
            await self._end(change)

    async def apply(self, settings: Settings) -> None:
        self._services = settings.services
        await self._facts.keep([name for name, service in settings.services.items() if service.model is not None])
        contexts = {name: self._context(settings, name) for name in settings.slots}
        for work in end_strays(self._owners, contexts, self._events):
            self._later(work)
        for name, ctx in contexts.items():
            owner = self._owners.get(name)
            if owner is not None:
                owner.replace(ctx)
                continue
            owner = SlotOwner(ctx, self._store, self._events, self._note, self._world.put_slot)
            owner.record = await self._store.slot(name)
            ctx.sleepers.bind(owner.record.asleep or {}, owner.sleepers_changed)
            self._owners[name] = owner
            owner.publish()
        for name in [n for n in self._owners if n not in contexts]:
            await self._dissolve(self._owners.pop(name))

    async def close(self) -> None:
        self._leases.close()
        for owner in self._owners.values():
            await owner.close()

    def unit_changed(self, unit: str | None) -> None:
        """A signal or a pidfd spoke about the unit (None: about any); wakes the phases that wait for it."""
        self._wakes.wake(unit)

    async def ensure(self) -> None:
        for owner in self._owners.values():
            await look(owner, self._events)
            self._leases.arm(owner)
        for owner in (*self._owners.values(), *self._dissolved):
            if any(other.busy() for other in self._owners.values()):
                break
            await parking.restore(owner, self._services, self._events)
        else:
            self._dissolved.clear()
        self._world.seen("slots")

    def now(self) -> tuple[ModelNow, ...]:
        """Every model: where it is, and what is known of it."""
        return models_now(self._owners.values())

    # -- requests ---------------------------------------------------------------------------------------------

    def switch(self, request: SwitchRequest) -> tuple[Change, bool]:
        """The change and whether it was joined. Raises AgentdError, ConflictError."""
        owner = self._owner_of(request.target)
        ask = Ask(
            "switch", request.target, request.drain, request.on_busy, request.force, request.rollback,
            origin=request.origin,
        )  # fmt: skip
        return self._ask(owner, ask)

    async def plan(self, request: SwitchRequest) -> SwitchPlan:
        """What a switch would check and do; nothing is changed."""
        owner = self._owner_of(request.target)
        return await planning.plan(owner, request, self._changes.estimate(owner.resident, request.target))

    def unload(self, request: UnloadRequest) -> tuple[Change, bool]:
        owner = self._owner(request.slot)
        return self._ask(owner, Ask("unload", None, request.drain, request.on_busy))

    def stop(self, model: str) -> Change:
        """Empty the slot if this model is resident; a sleeper is stopped alone. Raises AgentdError("not-resident")."""
        owner = self._owner_of(model)
        if owner.run is None and model in owner.ctx.sleeping:
            return self._ask(owner, Ask("unload", None, only=model))[0]
        if owner.run is None and owner.resident != model:
            raise AgentdError("not-resident", f"{model} is not resident in slot {owner.ctx.name}")
        return self._ask(owner, Ask("unload", None))[0]

    def sleep_check(self, request: SleepCheckRequest) -> tuple[Change, bool]:
        """Put the resident model to sleep and wake it, twice, and learn what it costs. Raises AgentdError."""
        owner = self._owner_of(request.model)
        return self._ask(owner, planning.sleep_check_ask(owner, request))

    def lease(self, request: LeaseRequest) -> tuple[Change, bool]:
        owner = self._owner(request.slot)
        return self._ask(owner, Ask("lease", None, request.drain, request.on_busy, lease=request.seconds))

    def end_lease(self, slot: str) -> Change | None:
        """Give the slot back now; the change that restores the model, or None when there is none to restore."""
        owner = self._owner(slot)
        if owner.state is not State.LEASED or owner.busy():
            raise AgentdError("no-lease", f"slot {owner.ctx.name} is not leased")
        return self._leases.end(owner)

    def cancel(self, change_id: str) -> Change:
        for owner in self._owners.values():
            if owner.run is not None and owner.run.change.id == change_id:
                return owner.cancel(change_id)
        change = self._changes.find(change_id)
        if change.finished is None and not change.slot:
            text = f"cannot cancel {change.id}: a change of this kind ({change.kind}) cannot be cancelled"
            hint = f"follow it with: agentctl switch status {change.id} --follow"
            raise AgentdError("not-cancellable", text, hint=hint)
        raise AgentdError("no-change", f"cannot cancel {change.id}: it has ended ({change.outcome})")

    async def restart(self, model: str) -> Job:
        """Restart the resident model's unit in place; the job. Raises when the slot is busy or another model is
        resident."""
        owner = self._owner_of(model)
        if owner.run is not None:
            raise AgentdError("conflict", f"slot {owner.ctx.name} is busy with {owner.run.change.id}")
        if owner.resident != model:
            hint = f"make it so with: agentctl switch-model {model}"
            how = "asleep" if model in owner.ctx.sleeping else "not resident"
            raise AgentdError("not-resident", f"{model} is {how}", hint=hint)
        return await self._ports.control.restart(owner.ctx.models[model].unit)

    def revive(self, model: str) -> bool:
        """Bring back a model that systemd has given up, if it is still the one that is wanted."""
        owner = self._owner_of(model)
        if owner.busy() or owner.resident is not None or owner.record.desired != model:
            return False
        if owner.state in (State.WEDGED, State.LEASED):  # What is wanted after a lease is not wanted during it.
            return False
        self._ask(owner, Ask("switch", model, force=True, origin="recovery"))
        return True

    # -- inside -----------------------------------------------------------------------------------------------

    def _ask(self, owner: SlotOwner, ask: Ask) -> tuple[Change, bool]:
        change, joined = owner.request(ask)
        if change.finished is not None:
            last = next((c for c in self._changes.recent(RECENT) if c.slot == change.slot), None)
            change = as_it_serves(change, last, self._world.service(change.target or ""))
            self._changes.note(change)
        elif not joined:
            self._note(change)
        return change, joined

    def _note(self, change: Change) -> None:
        self._changes.note(change)

    def _owner(self, slot: str) -> SlotOwner:
        if not slot and len(self._owners) == 1:
            return next(iter(self._owners.values()))
        if slot in self._owners:
            return self._owners[slot]
        known = ", ".join(self._owners) or "none is configured"
        raise AgentdError("slot-not-found", f"there is no slot {slot!r}; slots: {known}")

    def _owner_of(self, model: str) -> SlotOwner:
        for owner in self._owners.values():
            if model in owner.ctx.models:
                return owner
        known = ", ".join(m for o in self._owners.values() for m in o.ctx.models) or "none is configured"
        raise AgentdError("model-not-found", f"there is no model {model!r}; models: {known}")

    async def _recover(self, owner: SlotOwner, change: Change) -> None:
        ended = await recover(owner, change)
        if ended is not None:
            if owner.resident is not None:
                await owner.save(dataclasses.replace(owner.record, desired=owner.resident, decided=True))
            await self._end(ended)
        else:
            text = f"{change.kind} was cut off and is undone"
            self._events.emit("change.recovering", change.slot, text, change=change.id)

    async def _dissolve(self, owner: SlotOwner) -> None:
        """The slot is configured away, also under a change; its models are nobody's any more."""
        await owner.close()
        self._sleepers.pop(owner.ctx.name, None)
        if owner.run is not None:
            await self._end(owner.run.change)
            owner.run = None
        self._dissolved.append(owner)

    async def _end(self, change: Change) -> None:
        """Of a change that came to an end without its owner; one without an outcome lost its slot."""
        if change.outcome is None:
            text = f"{change.kind} was cut off; slot {change.slot} is not in the configuration any more"
            change = dataclasses.replace(
                change, finished=self._ports.clock.time(), phase=State.IDLE.value, outcome=Outcome.CANCELLED,
                exit_code=EXIT_CODES[Outcome.CANCELLED].value, message=text,
            )  # fmt: skip
        await self._store.save_change(change)
        self._changes.note(change)
        self._events.emit("change.recovered", change.slot, change.message, change=change.id)

    def _begin_default(self, owner: SlotOwner) -> None:
        """An empty slot gets its default at start, unless it was emptied on purpose or is lent out."""
        record, default = owner.record, owner.ctx.slot.default
        if owner.busy() or owner.resident is not None or owner.state is State.LEASED or not default:
            return
        if record.decided and record.desired is None:
            return
        self._ask(owner, Ask("switch", default, origin="default"))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _context(self, settings: Settings, name: str) -> SlotContext:
        models: dict[str, ModelUnit] = {}
        for model in settings.models(name):
            service = settings.services[model]
            assert service.model is not None
            off = why_off(model, service, self.profile())
            models[model] = ModelUnit(model, service.unit, service.url, service.model, off)
        slot = settings.slots[name]
        found = {n: settings.services[n] for n in slot.evict if n in settings.services}
        runtimes = {n: Runtime(service.unit, service.url, service.runtime) for n, service in found.items()}
        return SlotContext(
            name, slot, models, runtimes, self._ports, self._wakes, self._facts, self._counters, self._events.emit,
            self._sleepers.setdefault(name, Sleepers()), neighbours(settings, name),
        )  # fmt: skip
