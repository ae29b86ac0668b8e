"""What a user asks of hardening: plan, install, roll back, adopt, prove. One journaled change at a time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agentd.core.dropin import DropIn
from agentd.core.schema import Settings
from agentd.engine.changes import ChangeBook
from agentd.engine.events import EventLog
from agentd.errors import AgentdError, ConflictError
from agentd.findings import Finding, Severity
from agentd.managers.hardening.install import Installer, InstallResult
from agentd.managers.hardening.manager import HardeningManager
from agentd.managers.hardening.planning import InstallPlan
from agentd.managers.hardening.prove import Prover
from agentd.managers.hardening.recovery import Recovery
from agentd.managers.hardening.rollout import Result
from agentd.managers.hardening.verify import Proof, Verifier
from agentd.ports import Clock, Store
from agentd.types import Change, ExitCode, Outcome, PhaseRecord
from agentd.wire import DropinSet

log = logging.getLogger(__name__)

KIND = "dropins"
Progress = Callable[[str, str], None]
"""(phase, detail): the phase that begins now."""


@dataclass(slots=True)
class ActionParts:
    manager: HardeningManager
    installer: Installer
    prover: Prover
    verifier: Verifier
    store: Store
    changes: ChangeBook
    events: EventLog
    clock: Clock
    settings: Callable[[], Settings]
    config_dir: str
    """Where `adopt` writes a fragment of the configuration."""
    ready: Callable[[str, float], Awaitable[None]]
    """Returns once the unit's service is ready; raises AgentdError when it is not within so many seconds."""


class HardeningActions:
    def __init__(self, parts: ActionParts) -> None:
        self._parts = parts
        self._running: tuple[str, asyncio.Task[None]] | None = None
        self._own: set[str] = set()
        """Changes of this process: their tasks end them."""
        self._recovery = Recovery(parts.installer.recover, self._recovered, parts.clock)
        parts.manager.on_reload.append(self._recovery.systemd_is_back)

    async def start(self) -> None:
        """Finish or undo what a crash cut off, on the disk and in the journal, and later what a lost bus did; it may
        have to start a service again and wait for it, so nobody waits for this. Until cancelled."""
        await self._recovery.run()

    async def close(self) -> None:
        if self._running is not None:
            self._running[1].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running[1]

    async def plan(self, units: Sequence[str], *, force: bool) -> InstallPlan:
        """Of these units, of all for none. Raises AgentdError."""
        return await self._parts.installer.plan(self._desired(units), force=force, units=units)

    async def apply(self, units: Sequence[str], *, restart: bool, force: bool) -> Change:
        """The change, begun. Raises ConflictError while another one runs, AgentdError when it cannot be planned."""
        self._free()
        plan = await self.plan(units, force=force)
        installer = self._parts.installer

        async def work(progress: Progress) -> InstallResult:
            return await installer.apply(plan, restart=restart, ready=self._parts.ready, progress=progress)

        return await self._begin(work)

    async def rollback(self, set_id: str, *, restart: bool) -> Change:
        self._free()
        installer = self._parts.installer

        async def work(progress: Progress) -> InstallResult:
            return await installer.rollback(set_id, restart=restart, ready=self._parts.ready, progress=progress)

        return await self._begin(work)

    async def adopt(self, unit: str) -> Sequence[str]:
        """Every drop-in of the unit that was edited or written by hand becomes part of the configuration, which has to
        be read anew afterwards; one sentence for each. Raises AgentdError."""
        self._free()
        parts, done, settings = self._parts, [], self._parts.settings()
        for path in await parts.installer.adoptable(unit):
            with self._recovery.owed():
                taken = await parts.installer.adopt(path, settings, parts.manager.declare, config_dir=parts.config_dir)
            settings = taken.settings
            done.append(str(taken))
            parts.events.emit("dropins.adopted", unit, str(taken), file=path)
        return done

    async def sets(self) -> Sequence[DropinSet]:
        """Newest first."""
        return [
            DropinSet(str(found.id), found.time, found.reason, tuple(sorted(found.files)))
            for found in reversed(await self._parts.installer.sets())
        ]

    async def prove(self, unit: str) -> Sequence[Finding]:
        """Run the canary and look at the unit with what it brought back. Raises AgentdError."""
        verifier = self._parts.verifier
        view = await verifier.view(unit)
        proof = Proof(view.state.invocation_id, await self._parts.prover.prove(view, await verifier.host()))
        self._parts.manager.proved(unit, proof)
        return (await verifier.verify(unit, self._parts.manager.desired, proof=proof)).findings

    # -- inside -----------------------------------------------------------------------------------------------

    async def _recovered(self, done: str) -> None:
        open_changes = await self._parts.store.open_changes()
        for change in [change for change in open_changes if change.kind == KIND and change.id not in self._own]:
            text = done or "the installation was cut off, and nothing of it is left half done"
            await self._end(change, Outcome.RECOVERED, text)
        self._parts.manager.file_changed("")

    def _desired(self, units: Sequence[str]) -> list[DropIn]:
        return [d for d in self._parts.manager.desired if not units or d.unit in units]

    def _free(self) -> None:
        if self._running is not None and not self._running[1].done():
            change = self._running[0]
            raise ConflictError(f"change {change} is installing drop-ins", change)

    async def _begin(self, work: Callable[[Progress], Awaitable[InstallResult]]) -> Change:
        change = Change(f"d{secrets.token_hex(5)}", KIND, "", None, None, self._parts.clock.time(), "plan")
        self._own.add(change.id)
        task = asyncio.ensure_future(self._drive(change, work))
        self._running = (change.id, task)
        self._parts.changes.note(change)
        return change

    async def _drive(self, change: Change, work: Callable[[Progress], Awaitable[InstallResult]]) -> None:
        parts, current = self._parts, change

        def progress(phase: str, detail: str) -> None:
            nonlocal current
            current = _advance(current, phase, detail, parts.clock.time())
            parts.changes.note(current)

        try:
            await parts.store.save_change(change)
            with self._recovery.owed():
                result = await work(progress)
            notes = await self._prove_restarted(result, progress)
        except AgentdError as error:
            await self._end(current, Outcome.REFUSED, error.message, cause=error.hint or "", code=ExitCode.REFUSED)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # Nobody awaits this task: a bug must end the change, and be seen.
            log.exception("hardening.internal")
            text = f"internal error ({type(error).__name__})"
            await self._end(current, Outcome.DEGRADED, text, code=ExitCode.FAILED)
        else:
            outcome, code = _ending(result)
            text = "; ".join([_message(result), *notes])
            await self._end(current, outcome, text, cause=_cause(result), code=code)
        finally:
            parts.manager.unit_changed(None)
            parts.manager.file_changed("")

    async def _prove_restarted(self, result: InstallResult, progress: Progress) -> list[str]:
        """What runs under new directives is tried at once; a sentence for each unit where something is not in effect.
        That it cannot be tried undoes nothing."""
        notes = []
        for unit in [outcome.unit for outcome in result.units if outcome.result is Result.RESTARTED]:
            progress(unit, "trying what it refuses")
            try:
                findings = await self.prove(unit)
            except AgentdError as error:
                log.warning("hardening.unproved", extra={"data": {"unit": unit, "error": error.message}})
                continue
            bad = dict.fromkeys(f.aspect for f in findings if f.severity is Severity.ERROR)
            if bad:
                notes.append(f"not in effect for {unit}: {', '.join(bad)}")
        return notes

    async def _end(
        self, change: Change, outcome: Outcome, message: str, *, cause: str = "", code: ExitCode = ExitCode.OK
    ) -> None:
        now = self._parts.clock.time()
        change = dataclasses.replace(
            _advance(change, "done", "", now),
            finished=now,
            outcome=outcome,
            exit_code=int(code),
            message=message,
            cause=cause,
        )
        try:
            await self._parts.store.save_change(change)
        except AgentdError as error:
            log.warning("change.not-saved", extra={"data": {"change": change.id, "error": error.message}})
        self._parts.events.emit(f"dropins.{outcome.value}", "agentd", message, change=change.id)
        self._parts.changes.note(change)


def _ending(result: InstallResult) -> tuple[Outcome, ExitCode]:
    """A service that got its old drop-ins back makes the whole change one that was rolled back."""
    if not result.ok:
        return Outcome.ROLLED_BACK, ExitCode.ROLLED_BACK
    done = result.set_id is not None or result.units
    return (Outcome.DONE if done else Outcome.ALREADY), ExitCode.OK


def _message(result: InstallResult) -> str:
    words = []
    if result.set_id is None:
        words.append("everything is installed as declared")
    else:
        counts = {"written": len(result.written), "removed": len(result.removed)}
        done = " and ".join(f"{count} {word}" for word, count in counts.items() if count)
        words.append(f"drop-ins: {done or 'loaded'}; this is set {result.set_id}")
    if result.kept:
        words.append(f"{len(result.kept)} edited by hand and kept, see: agentctl dropins plan")
    return "; ".join([*words, *(outcome.message for outcome in result.units)])


def _cause(result: InstallResult) -> str:
    return "; ".join(outcome.message for outcome in result.units if not outcome.ok)


def _advance(change: Change, phase: str, detail: str, now: float) -> Change:
    """The phase before is over, this one runs; "done" is no phase."""
    phases = list(change.phases)
    if phases and phases[-1].seconds is None:
        last = phases[-1]
        phases[-1] = dataclasses.replace(last, seconds=max(0.0, now - last.started), result="pass")
    if phase != "done":
        phases.append(PhaseRecord(phase, now, detail=detail))
    return dataclasses.replace(change, phase=phase, phases=tuple(phases))
