"""Every directive of the table in one manager: a service with it, agentd's verdict about it, and whether that is right.

matrix.py user|system OUT [WORD]...    OUT: a file for what was found; the exit status is 0 when all is right
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from system.guest.table import Measured, Row, about, rows
from system.guest.verdicts import Verdicts, verdicts

from agentd import paths
from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.types import JobResult, Scope

HOME = Path("/home/ai")
UML = Path("/proc/mconsole").exists() or "User Mode Linux" in Path("/proc/cpuinfo").read_text()


async def measure(agentd: Verdicts, row: Row) -> Measured:
    begun = time.monotonic()
    started = await agentd.start(row.unit) is JobResult.DONE
    findings = about(row, await agentd.outside(row.unit))
    proven = started and any(finding.verdict is Verdict.NOT_PROVABLE for finding in findings)
    if proven:
        findings = about(row, await agentd.proven(row.unit, findings))
    status = await agentd.exit_status(row.unit)
    if started:
        await (await agentd.control.stop(row.unit)).wait(60)
    else:
        await agentd.control.reset_failed(row.unit)
    return Measured(row, started, status, findings, proven, time.monotonic() - begun)


def write_units(scope: Scope, found: Sequence[Row]) -> None:
    folder = paths.unit_dir(system=scope is Scope.SYSTEM)
    folder.mkdir(parents=True, exist_ok=True)
    more = ("User=ai",) if scope is Scope.SYSTEM else ()
    for row in found:
        (folder / row.unit).write_text(row.text(*more))


async def run(scope: Scope, selection: Sequence[str]) -> list[Measured]:
    measured = []
    async with verdicts(scope) as agentd:
        version = int(str((await agentd.control.manager())["Version"]).split(".")[0].split()[0])
        found = list(rows(scope.value, version, selection, uml=UML))
        write_units(scope, found)
        await agentd.control.reload()
        for row in found:
            try:
                one = await measure(agentd, row)
            except AgentdError as error:
                note = Finding(row.unit, row.aspect, Verdict.NOT_PROVABLE, Severity.ERROR, cause=str(error))
                one = Measured(row, False, -1, (note,))
            measured.append(one)
            tell(scope, one)
    return measured


def tell(scope: Scope, one: Measured) -> None:
    """A line for what differs, or is another on this kind of machine."""
    if one.problem:
        print(f"DIFFERS {scope.value}: {one.row.name}: {one.problem}", flush=True)
        for finding in one.findings:
            print(f"        {finding.verdict.value}: {finding.effective} | {finding.cause}", flush=True)
    elif one.row.why:
        print(f"special {scope.value}: {one.row.name}: {one.said}, as expected here: {one.row.why}", flush=True)


def summary(scope: Scope, measured: Sequence[Measured], seconds: float) -> str:
    right = sum(not one.problem for one in measured)
    wrong = sum(one.wrong_effective for one in measured)
    canaries = sum(one.proven for one in measured)
    return (
        f"{scope.value}: {right} of {len(measured)} verdicts right, wrong effective: {wrong}"
        f" ({canaries} with a canary, {seconds:.0f} s)"
    )


def main(arguments: Sequence[str]) -> int:
    scope, out, selection = Scope(arguments[0]), Path(arguments[1]), arguments[2:]
    begun = time.monotonic()
    measured = asyncio.run(run(scope, selection))
    out.write_text(
        json.dumps([{**asdict(one), "said": one.said, "problem": one.problem} for one in measured], indent=1)
    )
    print(summary(scope, measured, time.monotonic() - begun), flush=True)
    return 1 if any(one.problem for one in measured) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
