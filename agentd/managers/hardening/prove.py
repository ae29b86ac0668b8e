"""Proof by behaviour: a short transient unit with a unit's own directives tries what they should refuse.

Two or three canaries for each proof: one without any directive, one with all, and one with all but the system call
filter where there is one. Nothing of the unit itself is touched, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agentd.core.acts import LOOPBACK, acts_for, names
from agentd.core.acts_properties import given, identity, left_out, to_copy
from agentd.core.exit_status import STATUS
from agentd.errors import AgentdError
from agentd.evidence import ActResult, CanaryReport, HostEvidence, UnitView
from agentd.managers.hardening.prove_report import parse
from agentd.ports import JournalReader, UnitControl
from agentd.ports_hardening import TransientProperty, UnitQuery

PREFIX = "agentd-canary-"
DEADLINE = 30.0
"""Seconds for one canary: it needs a tenth of one, but may have to share a small CPU quota with its slice."""
CLEANUP = 10.0
INTERPRETER = "/usr/bin/python3"
FILTER = "SystemCallFilter"
_REFUSED = re.compile(r"\b([A-Z][A-Za-z]+)\b")


class Reports(Protocol):
    """Private files that canaries write into, one for each unit of theirs."""

    def program(self) -> str: ...

    def addresses(self) -> tuple[str, ...]:
        """This machine's own, loopback first."""
        ...

    async def create(self, unit: str) -> str: ...
    async def read(self, unit: str) -> str: ...
    async def remove(self, unit: str) -> None: ...
    async def units(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Ran:
    """One canary: `results` is None when it did not get to the end, and `failed` says why."""

    results: tuple[ActResult, ...] | None
    properties: Mapping[str, object]
    failed: str = ""
    status: int = 0
    journal: tuple[str, ...] = ()


class Prover:
    """One proof at a time. Raises AgentdError when systemd cannot be asked, or refuses even a plain canary."""

    def __init__(
        self,
        control: UnitControl,
        query: UnitQuery,
        journal: JournalReader,
        reports: Reports,
        *,
        interpreter: str = INTERPRETER,
        deadline: float = DEADLINE,
    ) -> None:
        self._control = control
        self._query = query
        self._journal = journal
        self._reports = reports
        self._interpreter = interpreter
        self._deadline = deadline
        self._one = asyncio.Lock()
        self._cleaning: set[asyncio.Task[None]] = set()

    async def prove(self, view: UnitView, host: HostEvidence) -> CanaryReport:
        async with self._one:
            await self._sweep()
            started = time.monotonic()
            report = await self._prove(view, host)
            return replace(report, seconds=time.monotonic() - started)

    async def _prove(self, view: UnitView, host: HostEvidence) -> CanaryReport:
        unit, wanted = view.state.name, view.properties
        addresses = self._reports.addresses() if wanted.get("IPAddressDeny") else (LOOPBACK,)
        acts = names(acts_for(view, host, addresses))
        common = [*identity(wanted), *self._command(wanted, acts)]
        plain = await self._run(unit, [*common, ("KeyringMode", "s", "inherit")])
        if plain.results is None:
            why = f"a canary without any directive did not run either: {plain.failed}"
            return CanaryReport(unit, failed=why, journal=plain.journal)
        copied = list(to_copy(wanted, plain.properties))
        sets = [copied]
        if any(name == FILTER for name, _, _ in copied):
            sets.append([row for row in copied if row[0] != FILTER])
        full, *others = await asyncio.gather(*(self._run_without_refused(unit, common, rows) for rows in sets))
        if full.results is None:
            return CanaryReport(unit, failed=full.failed, exit_status=full.status, journal=full.journal)
        return CanaryReport(
            unit,
            full.results,
            left_out=tuple(left_out(wanted, full.properties, plain.properties)),
            given=given(wanted, full.properties, plain.properties),
            baseline=plain.results,
            unfiltered=next((other.results or () for other in others), ()),
        )

    def _command(self, wanted: Mapping[str, object], acts: Sequence[str]) -> Iterable[TransientProperty]:
        """The interpreter, with the prefixes of the unit's own command: "+" would put that outside of the sandbox."""
        rows = wanted.get("ExecStartEx")
        flags = [str(flag) for flag in rows[0][2]] if isinstance(rows, list | tuple) and rows else []
        flags = [flag for flag in flags if flag in ("privileged", "no-setuid", "ambient")]
        argv = [self._interpreter, "-I", "-S", "-"]
        yield "ExecStartEx", "a(sasas)", [[self._interpreter, argv, [*flags, "no-env-expand"]]]
        program = f"{self._reports.program()}\nrun(json.loads({json.dumps(list(acts))!r}))\n"
        yield "StandardInput", "s", "data"
        yield "StandardInputData", "ay", program.encode()
        if wanted.get("Slice"):
            yield "Slice", "s", wanted["Slice"]

    async def _run_without_refused(
        self, unit: str, common: Sequence[TransientProperty], copied: Sequence[TransientProperty]
    ) -> Ran:
        """Again without a property that this systemd does not take at run time; `given` will not have it."""
        rows = list(copied)
        while True:
            try:
                return await self._run(unit, [*common, *rows])
            except AgentdError as error:
                named = set(_REFUSED.findall(error.message))
                fewer = [row for row in rows if row[0] not in named]
                if error.kind != "bus-invalid" or len(fewer) == len(rows):
                    raise
                rows = fewer

    async def _run(self, unit: str, properties: Sequence[TransientProperty]) -> Ran:
        name = _name(unit)
        path = await self._reports.create(name)
        try:
            async with asyncio.timeout(self._deadline + CLEANUP):
                return await self._started(name, [*self._frame(unit, path), *properties])
        except TimeoutError:
            return Ran(None, {}, f"it did not end within {self._deadline:g} s")
        finally:
            cleaning = asyncio.create_task(self._clean(name), name=f"clean-{name}")
            self._cleaning.add(cleaning)
            cleaning.add_done_callback(self._cleaning.discard)
            await asyncio.shield(cleaning)

    def _frame(self, unit: str, path: str) -> Iterable[TransientProperty]:
        """A one-shot that stays until we have asked for its properties. Its start job ends when the program does."""
        yield "Description", "s", f"agentd tries what the directives of {unit} refuse"
        yield "Type", "s", "oneshot"
        yield "RemainAfterExit", "b", True
        yield "CollectMode", "s", "inactive"
        yield "TimeoutStartUSec", "t", int(self._deadline * 1e6)
        yield "TimeoutStopUSec", "t", 2_000_000
        yield "StandardOutputFileToTruncate", "s", path
        yield "StandardError", "s", "journal"

    async def _started(self, name: str, properties: Sequence[TransientProperty]) -> Ran:
        job = await self._query.start_transient(name, properties)
        await job.wait(self._deadline + CLEANUP)
        found = await self._query.properties(name)
        results = parse(await self._reports.read(name))
        if results is not None and found.get("Result") == "success":
            return Ran(results, found)
        return await self._failed(name, found)

    async def _failed(self, name: str, found: Mapping[str, object]) -> Ran:
        status = found.get("ExecMainStatus")
        code = status if isinstance(status, int) else 0
        pid, invocation = found.get("ExecMainPID"), found.get("InvocationID")
        lines = await self._journal.tail(
            name,
            lines=10,
            invocation=bytes(invocation).hex() if isinstance(invocation, bytes | list | tuple) else "",
            pid=pid if isinstance(pid, int) else 0,
        )
        killed = found.get("ExecMainCode") in (2, 3)
        if killed:
            text = f"killed by signal {code}"
        elif code in STATUS:
            text = f"{code}/{STATUS[code].name}: {STATUS[code].words}"
        else:
            text = f"exit status {code}, result {found.get('Result') or 'unknown'}"
        return Ran(None, found, text, code, lines)

    async def _clean(self, name: str) -> None:
        """Stop, forget, remove. What cannot be done now is done before the next proof: the file is still there."""
        try:
            async with asyncio.timeout(CLEANUP):
                job = await self._control.stop(name)
                await job.wait(CLEANUP)
        except AgentdError as error:
            if error.kind != "unit-not-found":
                return
        except TimeoutError:
            return
        try:
            await self._control.reset_failed(name)
        except AgentdError as error:
            if error.kind != "unit-not-found":
                return
        await self._reports.remove(name)

    async def _sweep(self) -> None:
        """What an agentd that was killed left behind."""
        for name in await self._reports.units():
            if name.startswith(PREFIX):
                await self._clean(name)


def _name(unit: str) -> str:
    """Without "@", which would make it an instance, and short enough for any unit's name."""
    stem = unit.removesuffix(".service").replace("@", "-")[:150]
    return f"{PREFIX}{stem}-{secrets.token_hex(4)}.service"
