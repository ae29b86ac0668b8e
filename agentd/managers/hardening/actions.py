"""What a user asks of hardening: plan, install, roll back, adopt, prove. One journaled change at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agentd.core.dropin import DropIn
from agentd.core.schema import Settings
from agentd.engine.steps import Ending, Progress, Steps, ended
from agentd.errors import AgentdError, ConflictError
from agentd.findings import Finding, Severity
from agentd.managers.hardening.install import Installer, InstallResult
from agentd.managers.hardening.manager import HardeningManager
from agentd.managers.hardening.planning import InstallPlan
from agentd.managers.hardening.prove import Prover
from agentd.managers.hardening.recovery import Recovery
from agentd.managers.hardening.rollout import Result
from agentd.managers.hardening.verify import Proof, Verifier
from agentd.types import Change, ExitCode, Outcome
from agentd.wire import DropinSet

log = logging.getLogger(__name__)

KIND = "dropins"
Told = Callable[[str, str], None]
"""(step, detail): the step that begins now."""


@dataclass(slots=True)
class ActionParts:
    manager: HardeningManager
    installer: Installer
    prover: Prover
    verifier: Verifier
    steps: Steps
    settings: Callable[[], Settings]
    config_dir: str
    """Where `adopt` writes a fragment of the configuration."""
    ready: Callable[[str, float], Awaitable[None]]
    """Returns once the unit's service is ready; raises AgentdError when it is not within so many seconds."""


class HardeningActions:
    def __init__(self, parts: ActionParts) -> None:
        self._parts = parts
        self._running: tuple[Change, asyncio.Task[Change]] | None = None
        self._own: set[str] = set()
        """Changes of this process: their tasks end them."""
        self._recovery = Recovery(parts.installer.recover, self._recovered, parts.steps.clock)
        parts.manager.on_reload.append(self._recovery.systemd_is_back)

    async def start(self) -> None:
        """Finish or undo what a crash cut off, on the disk and in the journal, and later what a lost bus did; it may
        have to start a service again and wait for it, so nobody waits for this. Until cancelled."""
        await self._recovery.run()

    async def close(self) -> None:
        await ended(self._running[1] if self._running is not None else None)

    async def plan(self, units: Sequence[str], *, force: bool) -> InstallPlan:
        """Of these units, of all for none. Raises AgentdError."""
        return await self._parts.installer.plan(self._desired(units), force=force, units=units)

    async def apply(self, units: Sequence[str], *, restart: bool, force: bool) -> Change:
        """The change, begun. Raises ConflictError while another one runs, AgentdError when it cannot be planned."""
        self._free()
        plan = await self.plan(units, force=force)
        installer = self._parts.installer

        async def work(progress: Told) -> InstallResult:
            return await installer.apply(plan, restart=restart, ready=self._parts.ready, progress=progress)

        return self._begin(work)

    async def rollback(self, set_id: str, *, restart: bool) -> Change:
        self._free()
        installer = self._parts.installer

        async def work(progress: Told) -> InstallResult:
            return await installer.rollback(set_id, restart=restart, ready=self._parts.ready, progress=progress)

        return self._begin(work)

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
        open_changes = await self._parts.steps.store.open_changes()
        for change in [change for change in open_changes if change.kind == KIND and change.id not in self._own]:
            text = done or "the installation was cut off, and nothing of it is left half done"
            await self._parts.steps.cut_off(change, text)
        self._parts.manager.file_changed("")

    def _desired(self, units: Sequence[str]) -> list[DropIn]:
        return [d for d in self._parts.manager.desired if not units or d.unit in units]

    def _free(self) -> None:
        if self._running is not None and not self._running[1].done():
            change = self._running[0].id
            raise ConflictError(f"change {change} is installing drop-ins", change)

    def _begin(self, work: Callable[[Told], Awaitable[InstallResult]]) -> Change:
        async def installed(progress: Progress) -> Ending:
            try:
                with self._recovery.owed():
                    result = await work(progress.tell)
                notes = await self._prove_restarted(result, progress.tell)
            finally:
                self._parts.manager.unit_changed(None)
                self._parts.manager.file_changed("")
            outcome, code = _ending(result)
            return Ending(outcome, "; ".join([_message(result), *notes]), code, _cause(result))

        self._running = self._parts.steps.begin(KIND, None, installed)
        self._own.add(self._running[0].id)
        return self._running[0]

    async def _prove_restarted(self, result: InstallResult, progress: Told) -> list[str]:
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
