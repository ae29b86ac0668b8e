"""Hardening, watched: every supervised unit is verified when it starts, when its files change and when systemd reloads.

Nothing is polled. A verification runs beside the reconcile loop, one unit after the other, and what it finds is a
snapshot that the API, the metrics and readiness read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from agentd.core.dropin import DropIn
from agentd.core.hostcheck import host_findings
from agentd.core.profile import desired, shortfalls
from agentd.core.schema import Settings
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.evidence import HostEvidence
from agentd.findings import Finding, Severity, Verdict
from agentd.managers.hardening.verify import Proof, UnitReport, Verifier
from agentd.ports import Clock
from agentd.ports_hardening import FileWatch
from agentd.types import ServiceStatus

log = logging.getLogger(__name__)

BAD = (Severity.WARNING, Severity.ERROR)
BROKEN = (Verdict.NOT_EFFECTIVE, Verdict.NOT_LOADED, Verdict.NEEDS_RESTART, Verdict.OVERRIDDEN, Verdict.DRIFT)
SETTLE = 0.3
"""Seconds between news of a unit and its verification: a starting service forks, an editor writes twice."""
AGAIN = 30.0
"""Seconds until a verification that systemd's bus did not allow is tried again."""


class HardeningManager:
    name = "hardening"

    def __init__(
        self,
        verifier: Verifier,
        watch: FileWatch,
        events: EventLog,
        world: World,
        clock: Clock,
        texts: Callable[[], Mapping[str, str]],
        static_score: Callable[[str], Awaitable[float | None]],
    ) -> None:
        """`texts` reads the packaged profiles, by file name: called once, in a thread; raises OSError. `static_score`:
        systemd's own exposure score of a unit."""
        self._verifier = verifier
        self._watch = watch
        self._events = events
        self._world = world
        self._clock = clock
        self._texts = texts
        self._static_score = static_score
        self.on_reload: list[Callable[[], None]] = []
        """Called when systemd was reloaded, lost from sight or found again."""
        self._settings = Settings()
        self._profiles: Mapping[str, str] = {}
        """The packaged ones, kept: they change only with an update of agentd."""
        self._desired: tuple[DropIn, ...] = ()
        self._reports: dict[str, UnitReport] = {}
        self._proofs: dict[str, Proof] = {}
        self._host: tuple[Finding, ...] = ()
        self._shortfalls: tuple[Finding, ...] = ()
        self._evidence: HostEvidence | None = None
        self._seen: dict[str, tuple[object, ...]] = {}
        """Unit -> what it looked like when it was last verified."""
        self._stale: set[str] = set()
        self._scored: set[str] = set()
        """Units whose static score was asked for since anything it rests on last changed. A restart changes nothing."""
        self._host_stale = True
        self._watching: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    # -- what the snapshot says -------------------------------------------------------------------------------

    @property
    def desired(self) -> tuple[DropIn, ...]:
        """The security and resources drop-ins that the configuration wants."""
        return self._desired

    def declare(self, settings: Settings) -> tuple[DropIn, ...]:
        """What another configuration would want on this host; () before the host was looked at."""
        return desired(settings, self._profiles, self._evidence) if self._evidence is not None else ()

    def reports(self) -> Sequence[UnitReport]:
        return tuple(self._reports.values())

    def host_findings(self) -> tuple[Finding, ...]:
        return self._host

    def findings(self) -> tuple[Finding, ...]:
        """The host's first, then unit by unit."""
        return (*self._host, *self.of_units(self._reports.values()))

    def of_units(self, reports: Iterable[UnitReport]) -> tuple[Finding, ...]:
        """With what is declared for a unit and no drop-in can say."""
        return tuple(
            finding
            for report in reports
            for finding in (*report.findings, *(f for f in self._shortfalls if f.subject == report.unit))
        )

    def problems(self) -> list[str]:
        """What degrades readiness where the policy says so: a declared directive that is not in effect."""
        if self._settings.hardening.readiness != "degrade":
            return []
        findings = self.of_units(self._reports.values())  # What the host lacks shows in its units where it matters.
        return [f"{f.subject}: {f.aspect}: {f.cause}" for f in findings if f.severity is Severity.ERROR]

    # -- news -------------------------------------------------------------------------------------------------

    async def apply(self, settings: Settings) -> None:
        self._settings = settings
        units = _verified(settings)
        for known in (self._reports, self._proofs, self._seen):
            for gone in set(known) - units:
                known.pop(gone)
        self._stale |= units
        self._scored.clear()
        self._host_stale = True
        with contextlib.suppress(AgentdError):  # Tried again in a moment, with every verification.
            await self._refresh_host()
        await self.ensure()

    def unit_changed(self, unit: str | None) -> None:
        """None: systemd was reloaded or lost from sight, so that anything may have changed."""
        if unit is None:
            self._stale |= self._units()
            self._scored.clear()
            self._host_stale = True
            for listener in self.on_reload:
                listener()

    def file_changed(self, path: str) -> None:
        """A file in a unit directory; "" when the kernel lost count."""
        concerned = {unit for unit in self._units() if not path or _concerns(path, unit)}
        self._stale |= concerned
        self._scored -= concerned
        self._kick()

    async def ensure(self) -> None:
        """Called by every pass: what runs anew since its last verification is looked at again."""
        units = self._units()
        for service in self._world.services:
            if service.unit in units and self._seen.get(service.unit) != _signature(service):
                self._stale.add(service.unit)
        self._kick()

    async def verify_now(self, units: Sequence[str] = ()) -> Sequence[UnitReport]:
        """Verify at once, whatever is known; all supervised units when none is named. Raises AgentdError, also for a
        unit that is neither configured nor known to systemd."""
        await self._refresh_host()
        for unit in set(units) - self._units():
            await self._verifier.view(unit)
        return [await self._verify(unit) for unit in units or sorted(self._units())]

    def proved(self, unit: str, proof: Proof) -> None:
        """It counts until the unit is started anew."""
        self._proofs[unit] = proof
        self._stale.add(unit)
        self._kick()

    async def close(self) -> None:
        self._watch.close()
        if self._retry is not None:
            self._retry.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # -- work -------------------------------------------------------------------------------------------------

    def _units(self) -> set[str]:
        return _verified(self._settings)

    def _kick(self) -> None:
        if (self._stale or self._host_stale) and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        await self._clock.sleep(SETTLE)
        try:
            while self._stale or self._host_stale or self._unscored():
                if self._host_stale:
                    await self._refresh_host()
                elif self._stale:
                    await self._verify(min(self._stale))
                else:
                    await self._score(min(self._unscored()))
        except AgentdError as error:
            log.warning("hardening.unread", extra={"data": {"error": error.message}})
            self._retry = asyncio.get_running_loop().call_later(AGAIN, self._kick)
        except Exception:  # A bug here must not go unseen in a task that nobody awaits, nor end the daemon.
            log.exception("hardening.internal")

    async def _refresh_host(self) -> None:
        self._host_stale = False
        try:
            await self._read_profiles()
            host = await self._verifier.host(anew=True)
        except AgentdError:
            self._host_stale = True
            raise
        self._evidence = host
        self._desired = desired(self._settings, self._profiles, host)
        self._host = host_findings(host, self._desired)
        self._shortfalls = shortfalls(self._settings, host)
        if host.unit_dirs != self._watching:
            self._watching = host.unit_dirs
            try:
                self._watch.watch(host.unit_dirs, self.file_changed)
            except AgentdError as error:  # Units and reloads are still seen.
                log.warning("hardening.unwatched", extra={"data": {"error": error.message}})

    async def _read_profiles(self) -> None:
        if self._profiles:
            return
        try:
            self._profiles = await asyncio.to_thread(self._texts)
        except OSError as error:
            text = f"cannot read the packaged profile {error.filename}: {(error.strerror or '').lower()}"
            raise AgentdError("profile-missing", text, hint="install agentd again") from None

    async def _verify(self, unit: str) -> UnitReport:
        self._stale.discard(unit)
        status = next((s for s in self._world.services if s.unit == unit), None)
        try:
            report = await self._verifier.verify(unit, self._desired, proof=self._proofs.get(unit))
        except AgentdError:
            self._stale.add(unit)
            raise
        if unit in self._units():
            before = self._reports.get(unit)
            self._tell(before, report)
            self._reports[unit] = replace(report, systemd_score=before.systemd_score if before else None)
            self._seen[unit] = _signature(status)
            self._world.seen("hardening")
        return report

    def _unscored(self) -> set[str]:
        return self._reports.keys() - self._scored

    async def _score(self, unit: str) -> None:
        """After the verdicts, since it is a program that takes a quarter of a second."""
        self._scored.add(unit)  # First: what changes while the program runs has it run again.
        score = await self._static_score(unit)
        if unit in self._reports:
            self._reports[unit] = replace(self._reports[unit], systemd_score=score)

    def _tell(self, before: UnitReport | None, now: UnitReport) -> None:
        """One event for what was in effect before and is no more, one for what is again."""
        if before is None:
            return
        was = {f.aspect: f.verdict for f in before.findings}
        lost = [f for f in now.findings if was.get(f.aspect) is Verdict.EFFECTIVE and f.severity in BAD]
        found = [f for f in now.findings if was.get(f.aspect) in BROKEN and f.verdict is Verdict.EFFECTIVE]
        if lost:
            names = ", ".join(dict.fromkeys(f.aspect for f in lost))
            text = f"{now.unit}: no longer in effect: {names}; {lost[0].cause}"
            self._events.emit("hardening.lost", now.unit, text, directives=names)
        if found:
            names = ", ".join(dict.fromkeys(f.aspect for f in found))
            self._events.emit("hardening.effective", now.unit, f"{now.unit}: in effect: {names}", directives=names)


def _signature(status: ServiceStatus | None) -> tuple[object, ...]:
    """What changes when a unit's processes do."""
    return () if status is None else (status.main_pid, status.active_state, status.restarts)


def _concerns(path: str, unit: str) -> bool:
    """Whether a file may belong to the unit: its own, a drop-in of it, of its type or of a prefix of its name."""
    folder, _, name = path.rpartition("/")
    if name in (unit, f"{unit}.d"):
        return True
    parent = folder.rpartition("/")[2]
    if not parent.endswith(".d"):
        return False
    stem = parent.removesuffix(".d").removesuffix(".service")
    return parent == "service.d" or unit.startswith(stem) or unit.partition("@")[0] == stem.rstrip("@")


def _verified(settings: Settings) -> set[str]:
    if not settings.hardening.verify:
        return set()
    return {service.unit for service in settings.services.values() if service.own_unit}
