"""The drop-ins that keep a promise without us: `exclusive` for a slot's models, `readiness` for gated services,
`cpu-only` for a runtime that is to stay off the GPU, `model` for flags of vLLM that the configuration decides.

Declared here, written as one set, loaded by one daemon-reload, then proved from what systemd says it loaded. A file
that somebody edited is shown and left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from agentd.core import dropin, model_flags
from agentd.core.dropin import DropIn
from agentd.core.gpu_fallback import in_fallback
from agentd.core.probes import effective_probes
from agentd.core.schema import Service, Settings
from agentd.engine.events import EventLog
from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.ports import Files, UnitControl
from agentd.types import ProbeKind, UnitState

log = logging.getLogger(__name__)

OURS = f"*.d/{dropin.NUMBER}-agentd-*.conf"
NOT_AS_DECLARED = "the file is not as it should be"
HANDLED = (
    dropin.Purpose.EXCLUSIVE, dropin.Purpose.READINESS, dropin.Purpose.CPU_ONLY, dropin.Purpose.MODEL,
)  # fmt: skip


class DropinsManager:
    name = "dropins"

    def __init__(self, control: UnitControl, files: Files, events: EventLog, *, unit_dir: str, agentctl: str) -> None:
        self._control = control
        self._files = files
        self._events = events
        self._unit_dir = unit_dir.rstrip("/")
        self._agentctl = agentctl
        self._settings = Settings()
        self._findings: list[Finding] = []
        self._stale = True
        self._refused = ""
        """Why the last installation failed."""
        self._retry = False

    def findings(self) -> tuple[Finding, ...]:
        return tuple(self._findings)

    def units_changed(self) -> None:
        """systemd was reloaded, re-executed or lost from sight: verify at the next pass."""
        self._stale = True

    async def apply(self, settings: Settings) -> None:
        """Write what is missing, reload once if anything is not loaded, restore everything when systemd refuses it.

        A unit directory that cannot be written is a finding, no error: supervision does not depend on drop-ins.
        """
        self._settings = settings
        self._stale = self._retry = True
        await self.ensure()

    async def ensure(self) -> None:
        if not self._stale:
            return
        self._stale = False
        try:
            if self._retry:
                self._retry = False
                await self._converge()
            await self._verify(await self._plan())
        except AgentdError:
            self._stale = True
            raise

    async def _converge(self) -> None:
        self._refused = ""
        try:
            plan = await self._plan()
            if plan.writes:
                await self._install(plan)
            elif self._not_loaded((d.path for d in self._declared()), await self._states()):
                await self._control.reload()  # An earlier run was cut off between the two.
        except AgentdError as error:
            if error.kind.startswith("bus-"):
                self._retry = True  # The next connection, or the end of a slow reload, brings us here again.
                raise
            self._refused = error.message
            self._events.emit("dropins.refused", "agentd", f"the drop-ins are not installed: {error.message}")

    # -- declared ---------------------------------------------------------------------------------------------

    def _declared(self) -> list[DropIn]:
        settings = self._settings
        found: list[DropIn] = []
        for name, slot in settings.slots.items():
            if slot.exclusive:
                units = [settings.services[m].unit for m in settings.models(name)]
                found += dropin.exclusive(units, self._guard(name))
        found += [
            dropin.cpu_only(service.unit)
            for service in settings.services.values()
            if service.role == "runtime" and service.own_unit and service.runtime.policy == "cpu_only"
        ]
        found += filter(None, map(self._flags, settings.services.values()))
        gates = (self._gate(service) for service in settings.services.values())
        return found + [gate for gate in gates if gate is not None]

    def _guard(self, slot: str) -> dropin.Guard:
        """Of a slot whose models may sleep; one that keeps none asleep needs none."""
        settings = self._settings
        services = [settings.services[m] for m in settings.models(slot)]
        may = settings.slots[slot].max_sleepers > 0
        sleepers = frozenset(s.unit for s in services if may and s.model is not None and s.model.switch != "stop")
        urls = {s.unit: s.url for s in services}
        return dropin.Guard(sleepers, urls, self._agentctl, user=settings.daemon.scope == "user")

    def _flags(self, service: Service) -> DropIn | None:
        if service.model is None:
            return None
        slot = self._settings.slots.get(service.model.slot)
        gpus = slot.gpus if slot is not None and in_fallback(slot) else ()
        return model_flags.drop_in(service.unit, service.model, gpus)

    def _gate(self, service: Service) -> DropIn | None:
        probes = effective_probes(service)
        probe = probes.get(ProbeKind.READINESS)
        if not service.gate or not service.own_unit or probe is None or probe.http is None:
            return None
        path = probe.http.path
        url = path if "://" in path else service.url.rstrip("/") + path
        startup = probes.get(ProbeKind.STARTUP, probe)
        seconds = startup.initial_delay + startup.period * startup.failure_threshold
        if service.model is not None:
            seconds = service.model.ready_timeout
        return dropin.readiness(service.unit, url, seconds, agentctl=self._agentctl)

    # -- on disk ----------------------------------------------------------------------------------------------

    async def _plan(self) -> dropin.Plan:
        """Only purposes that this manager handles; a security drop-in is somebody else's."""
        names = tuple(f"-agentd-{purpose.value}.conf" for purpose in HANDLED)
        found = [p for p in await self._files.find(self._unit_dir, OURS) if p.endswith(names)]
        declared = self._declared()
        paths = {self._relative(p) for p in found} | {d.path for d in declared}
        existing = {path: await self._text(path) for path in sorted(paths)}
        return dropin.plan(declared, existing)

    async def _text(self, path: str) -> str | None:
        """What cannot be read (a link, not text) was put there by somebody: it is not ours, and kept."""
        try:
            return await self._files.read(f"{self._unit_dir}/{path}")
        except AgentdError:
            return ""

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._unit_dir + "/")

    async def _install(self, plan: dropin.Plan) -> None:
        writes = {f"{self._unit_dir}/{path}": text for path, text in plan.writes.items()}
        old = await self._files.apply(writes)
        try:
            await self._control.reload()
            missing = self._not_loaded(plan.writes, await self._states())
        except AgentdError:
            await self._files.apply(old)
            raise
        if missing:
            await self._files.apply(old)
            await self._control.reload()
            raise AgentdError("dropin-not-loaded", f"systemd does not load {', '.join(missing)}; nothing was changed")
        written = sum(text is not None for text in writes.values())
        counts = {"written": written, "removed": len(writes) - written}
        done = " and ".join(f"{count} {word}" for word, count in counts.items() if count)
        text = f"drop-ins: {done}, and loaded"
        self._events.emit("dropins.installed", "agentd", text, files=", ".join(sorted(writes)))

    # -- loaded -----------------------------------------------------------------------------------------------

    async def _states(self) -> dict[str, UnitState]:
        units = sorted({d.unit for d in self._declared()})
        return {unit: await self._control.show(unit) for unit in units}

    def _not_loaded(self, paths: Iterable[str], states: Mapping[str, UnitState]) -> list[str]:
        """Of the declared files among `paths`, those that systemd has not taken in for a unit that exists."""
        unit_of = {d.path: d.unit for d in self._declared()}
        loaded = [(path, states[unit_of[path]]) for path in paths if path in unit_of]
        full = {path: f"{self._unit_dir}/{path}" for path, _ in loaded}
        return [full[p] for p, state in loaded if state.exists and full[p] not in state.dropin_paths]

    async def _verify(self, plan: dropin.Plan) -> None:
        findings = [
            _finding(path.partition(".d/")[0], path, Verdict.DRIFT, "the file was edited by hand and is kept",
                     "remove the file and run: agentctl reload")
            for path in plan.kept
        ]  # fmt: skip
        findings += [
            _finding(path.partition(".d/")[0], path, Verdict.NOT_INSTALLED, self._refused or NOT_AS_DECLARED,
                     "agentctl reload")
            for path in plan.writes
        ]  # fmt: skip
        states = await self._states()
        declared = [d.path for d in self._declared() if d.path not in plan.kept and d.path not in plan.writes]
        for path in self._not_loaded(declared, states):
            unit = self._relative(path).partition(".d/")[0]
            findings.append(_finding(unit, path, Verdict.NOT_LOADED, "systemd has not loaded the file",
                                     "systemctl --user daemon-reload"))  # fmt: skip
        findings += self._exclusion(states)
        findings += await self._unheeded(states)
        if findings != self._findings:
            for finding in findings:
                log.warning(
                    "dropins.finding",
                    extra={"data": {"subject": finding.subject, "aspect": finding.aspect, "cause": finding.cause}},
                )
        self._findings = findings

    async def _unheeded(self, states: Mapping[str, UnitState]) -> list[Finding]:
        """Settings of a model that its command line does not take over."""
        findings = []
        for name, service in self._settings.services.items():
            state = states.get(service.unit)
            if service.model is None or state is None or not state.fragment_path:
                continue
            texts = [await self._read(path) for path in (state.fragment_path, *state.dropin_paths)]
            for key in model_flags.without_effect(service.model, texts):
                variable, flag = model_flags.FLAGS[key]
                cause = f"services.{name}.model.{key} has no effect: the unit does not take it from {variable}"
                fix = f"write {flag} ${{{variable}}} into its ExecStart=, and Environment={variable}=... beside it"
                findings.append(_finding(service.unit, key, Verdict.NOT_EFFECTIVE, cause, fix))
        return findings

    async def _read(self, path: str) -> str:
        try:
            return await self._files.read(path) or ""
        except AgentdError:
            return ""

    def _exclusion(self, states: Mapping[str, UnitState]) -> list[Finding]:
        """Each unit of an exclusive slot must really conflict with every other, whatever the files say."""
        findings = []
        for name, slot in self._settings.slots.items():
            units = {self._settings.services[m].unit for m in self._settings.models(name)}
            guard = self._guard(name)
            for unit in sorted(units & set(states)) if slot.exclusive else ():
                rivals = {other for other in units - {unit} if not guard.between(unit, other)}
                missing = sorted(rivals - states[unit].conflicts)
                if states[unit].exists and missing:
                    cause = f"systemd does not know that it conflicts with {', '.join(missing)}"
                    findings.append(_finding(unit, "Conflicts=", Verdict.NOT_LOADED, cause, "agentctl reload"))
        return findings


def _finding(subject: str, aspect: str, verdict: Verdict, cause: str, fix: str) -> Finding:
    return Finding(subject, aspect, verdict, Severity.WARNING, cause=cause, fix=fix)
