"""The owner of one slot: a task that alone decides about it. Everybody else sends it a message."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import Callable

from agentd.core.quantities import format_seconds
from agentd.core.switch import RESTING, State
from agentd.engine.events import EventLog
from agentd.engine.runner import Runner
from agentd.errors import AgentdError, ConflictError
from agentd.managers.models.context import SlotContext, SwitchRun
from agentd.managers.models.memory import Ask, remembered
from agentd.managers.models.phases import SwitchPhases
from agentd.managers.models.precheck import cooldown_refusal
from agentd.managers.models.thrift import Thrift
from agentd.ports import SlotRecord, Store
from agentd.types import Change, Outcome, SlotStatus

log = logging.getLogger(__name__)


class SlotOwner:
    """One per slot. All methods run in the loop; only `_decide` and what it calls change anything.

    Being a single-threaded loop, the decision (conflict, join, begin) has no await inside; the change itself is
    driven by one task at a time.
    """

    def __init__(
        self,
        ctx: SlotContext,
        store: Store,
        events: EventLog,
        on_change: Callable[[Change], None],
        on_status: Callable[[SlotStatus], None],
    ) -> None:
        self.ctx = ctx
        self._store = store
        self._events = events
        self._on_change = on_change
        self._on_status = on_status
        self._phases = SwitchPhases(ctx, self._remember)
        self._runner: Runner[SwitchRun] = Runner(store, ctx.ports.clock, self._phases, self._updated)
        self.record = SlotRecord(ctx.name)
        self.state = State.IDLE
        self.resident: str | None = None
        self.cause = ""
        self.run: SwitchRun | None = None
        self._begun = 0
        """Changes so far."""
        self._driver: asyncio.Task[None] | None = None
        self._pending_ctx: SlotContext | None = None
        self.finished = asyncio.Event()
        self._thrift = Thrift()

    # -- what others read -------------------------------------------------------------------------------------

    def status(self) -> SlotStatus:
        return SlotStatus(
            name=self.ctx.name,
            state=self.run.state.value if self.run is not None else self.state.value,
            models=tuple(self.ctx.models),
            resident=self.resident,
            default=self.ctx.slot.default or None,
            change=self.run.change.id if self.run is not None else None,
            lease_until=self.record.lease_until,
            cooldowns={m: end for m, (_, end) in (self.record.cooldowns or {}).items() if end > self._now()},
            cause=self.cause,
            sleeping=self.ctx.sleeping,
        )

    def busy(self) -> bool:
        return self.run is not None

    def still(self) -> Callable[[], bool]:
        """To be asked later: nothing runs, no change has begun since, and the configuration is the same. Who reads the
        world with awaits in between asks before it draws a conclusion."""
        begun, ctx = self._begun, self.ctx
        return lambda: self.run is None and self._begun == begun and self.ctx is ctx

    # -- what others ask --------------------------------------------------------------------------------------

    def request(self, ask: Ask) -> tuple[Change, bool]:
        """Begin a change, join the running one, or refuse. Returns the change and whether it was joined.

        Raises ConflictError when another change runs, AgentdError("wedged") when the slot waits for a person.
        """
        if self.run is not None:
            return self._join(ask), True
        self._refuse_wedged(ask)
        if ask.kind == "switch" and ask.target == self.resident and self.state is State.ACTIVE:
            return self._already(ask), False
        empty = self.resident is None and self.state is State.IDLE and not self.ctx.sleeping
        if ask.kind in ("unload", "lease") and empty and ask.lease is None:
            return self._already(ask), False
        if ask.origin == "gateway":
            now = self.ctx.ports.clock.monotonic()
            self._thrift.check(self.ctx.slot, self.ctx.name, now, self.ctx.counters, self.refusal(ask))
        return self._begin(ask), False

    def cancel(self, change_id: str) -> Change:
        """Ask the running change to stop. Raises AgentdError("no-change") when it does not run any more."""
        if self.run is None or self.run.change.id != change_id:
            raise AgentdError("no-change", f"cannot cancel {change_id}: it is not running")
        self.run.cancelled.set()
        return self.run.change

    def replace(self, ctx: SlotContext) -> None:
        """Use a new configuration from the next change on."""
        if self.run is not None:
            self._pending_ctx = ctx
            return
        self.ctx = self._phases.ctx = ctx
        self.publish()

    async def close(self) -> None:
        """Stop driving; the journal says where the change was, the next start reads reality."""
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.wait({self._driver}, timeout=10.0)

    # -- deciding ---------------------------------------------------------------------------------------------

    def _join(self, ask: Ask) -> Change:
        assert self.run is not None
        running = self.run.change
        if ask.kind == running.kind == "switch" and ask.target == running.target and not self.run.cancelled.is_set():
            return running
        doing = f"{running.kind} to {running.target}" if running.target else running.kind
        raise ConflictError(f"slot {self.ctx.name} is busy: {doing} ({running.id}) is in {running.phase}", running.id)

    def _refuse_wedged(self, ask: Ask) -> None:
        if self.state is State.WEDGED and not ask.force:
            raise AgentdError(
                "wedged",
                f"slot {self.ctx.name} is wedged: {self.cause}",
                hint="free the GPU, then switch with --force",
            )

    def _already(self, ask: Ask) -> Change:
        now = self._now()
        message = f"{ask.target} is already serving" if ask.target else f"slot {self.ctx.name} is already empty"
        return dataclasses.replace(
            self._new_change(ask), phase=self.state.value, finished=now, outcome=Outcome.ALREADY, exit_code=0,
            message=message,
        )  # fmt: skip

    def _begin(self, ask: Ask) -> Change:
        run = self.run_for(ask)
        self.launch(run, self.refusal(ask))
        return run.change

    def run_for(self, ask: Ask) -> SwitchRun:
        """What would be driven for this request; nothing has begun."""
        target = self.ctx.models[ask.target] if ask.target is not None else None
        # One that was configured away a moment ago is nobody's previous model any more.
        previous = self.ctx.models.get(self.resident) if self.resident is not None and not ask.only else None
        spec = (previous or target).spec if (previous or target) is not None else None  # type: ignore[union-attr]
        return SwitchRun(
            change=self._new_change(ask),
            before=self.state,
            state=State.PRECHECK,
            target=target,
            previous=previous,
            drain=ask.drain if ask.drain is not None else (spec.drain_timeout if spec else 0.0),
            on_busy=ask.on_busy or (spec.on_busy if spec else "abort"),
            rollback=ask.rollback,
            lease=ask.lease,
            only=ask.only,
            level=ask.level,
        )

    def refusal(self, ask: Ask) -> str:
        """Why a plain request is not even tried; --force overrides it."""
        if ask.force or ask.target is None or ask.origin == "lease-end":
            return ""
        left = (self.record.lease_until or 0.0) - self._now()
        if self.state is State.LEASED and left > 0:
            more = format_seconds(max(1, round(left)))
            return f"slot {self.ctx.name} is leased for {more} more; end it with: agentctl lease end"
        return cooldown_refusal(ask.target, self._cooldown_ends(), self._now())

    def launch(self, run: SwitchRun, refusal: str = "") -> None:
        """Drive a run; recovery enters here with a run that is already on its way."""
        self.run = run
        self._begun += 1
        run.park = self._park
        self.finished.clear()
        self._driver = asyncio.ensure_future(self._drive(run, refusal))
        self.publish()

    def _new_change(self, ask: Ask) -> Change:
        now = self._now()
        change_id = f"{ask.kind[0]}{uuid.uuid4().hex[:10]}"
        return Change(
            id=change_id, kind=ask.kind, slot=self.ctx.name, target=ask.target,
            previous=self.resident if not ask.only else None, created=now,
            phase=State.PRECHECK.value, origin=ask.origin,
        )  # fmt: skip

    # -- driving ----------------------------------------------------------------------------------------------

    async def _drive(self, run: SwitchRun, refusal: str) -> None:
        try:
            if refusal:
                await self._refuse(run, refusal)
            else:
                await self._runner.drive(run)
        except AgentdError as error:  # The journal cannot be written: refused before anything was touched.
            await self._refuse(run, error.message, save=False)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("switch.internal", extra={"data": {"change": run.change.id}})
            await self._refuse(run, "internal error; see the log of agentd", save=False)
        self._settle(run)

    async def _refuse(self, run: SwitchRun, reason: str, *, save: bool = True) -> None:
        run.cause = reason
        run.state = run.before
        run.change = dataclasses.replace(self._phases.verdict(run), finished=self._now(), phase=run.state.value)
        if save:
            await self._store.save_change(run.change)
        self._updated(run.change)

    async def _remember(self, run: SwitchRun) -> None:
        """The change touched the slot: what is resident now, and what the next start must know."""
        self._take_result(run)
        if run.change.origin == "gateway":
            self._thrift.spend(self.ctx.ports.clock.monotonic())
        await self.save(remembered(self.record, run, self.ctx.slot, self.resident, self._now()))

    def _settle(self, run: SwitchRun) -> None:
        """The change is over and journaled: the slot rests, and who must know is told."""
        self.cause = run.cause if run.state in (State.DEGRADED, State.WEDGED) else ""
        self.run, self.state = None, run.state
        if self._pending_ctx is not None:
            self.ctx = self._phases.ctx = self._pending_ctx
            self._pending_ctx = None
        self._events.emit(
            f"{run.change.kind}.{run.change.outcome.value if run.change.outcome else 'ended'}",
            self.ctx.name, run.change.message, change=run.change.id, target=run.change.target,
            previous=run.change.previous,
        )  # fmt: skip
        self.publish()
        self.finished.set()

    def _take_result(self, run: SwitchRun) -> None:
        if run.state is not State.ACTIVE:
            self.resident = None
        elif run.adopted:
            self.resident = run.adopted
        elif run.only:
            return
        elif run.change.outcome is Outcome.DONE or run.change.outcome is Outcome.RECOVERED:
            self.resident = run.target.name if run.target is not None else self.resident
        else:
            self.resident = run.previous.name if run.previous is not None else None

    async def sleepers_changed(self) -> None:
        """What sleeps is on the disk when this returns, and shown."""
        await self.save(dataclasses.replace(self.record, asleep=dict(self.ctx.sleepers.levels)))
        self.publish()

    async def _park(self, name: str) -> None:
        """Before the service is stopped: that it must run again is on the disk when this returns, or it raises."""
        if name not in self.record.parked:
            record = dataclasses.replace(self.record, parked=(*self.record.parked, name))
            await self._store.save_slot(record)
            self.record = record

    async def save(self, record: SlotRecord) -> None:
        self.record = record
        try:
            await self._store.save_slot(record)
        except AgentdError as error:
            log.warning("slot.not-saved", extra={"data": {"slot": record.name, "error": error.message}})

    # -- telling ----------------------------------------------------------------------------------------------

    def _updated(self, change: Change) -> None:
        self._on_change(change)
        if self.run is not None and self.run.state not in RESTING:
            self.publish()

    def publish(self) -> None:
        self._thrift.see(self.resident, self.ctx.ports.clock.monotonic())
        self._on_status(self.status())

    def _cooldown_ends(self) -> dict[str, float]:
        return {name: end for name, (_, end) in (self.record.cooldowns or {}).items()}

    def _now(self) -> float:
        return self.ctx.ports.clock.time()
