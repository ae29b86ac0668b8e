"""What a verification of hardening costs, for 5, 50 and 200 services, beside systemd's own static analysis."""

from __future__ import annotations

import asyncio
import resource
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from figures import Goal, Row, Section
from rig import load_average, say, systemctl

from agentd import paths, resources
from agentd.core.dropin import DropIn
from agentd.core.profile import desired
from agentd.core.schema import Service, Settings
from agentd.offline_hardening import Rig, connected
from agentd.types import Scope

COUNTS = (5, 50, 200)
CPU_GOAL, RATIO_GOAL, LAG_GOAL = 50.0, 1.2, 50.0
PREFIX = "bench-verify-"
SAMPLE = 0.005
STATIC = 5
"""Units that systemd-analyze is asked about."""


def measure(rounds: int) -> list[Section]:
    units = [f"{PREFIX}{index}.service" for index in range(max(COUNTS))]
    try:
        dropins = asyncio.run(_install(units))
        return asyncio.run(_measure(units, dropins, rounds))
    finally:
        _remove(units)


async def _install(units: Sequence[str]) -> tuple[DropIn, ...]:
    settings = Settings(services={unit.removesuffix(".service"): Service(unit=unit) for unit in units})
    async with connected(Scope.USER) as rig:
        dropins = desired(settings, resources.profile_texts(), await rig.verifier.host())
    folder = paths.unit_dir()
    folder.mkdir(parents=True, exist_ok=True)
    for unit in units:
        (folder / unit).write_text("[Service]\nExecStart=/bin/sleep infinity\n")
    for dropin in dropins:
        place = folder / dropin.path
        place.parent.mkdir(exist_ok=True)
        place.write_text(dropin.text)
    systemctl("daemon-reload")
    say(f"  verify: starting {len(units)} services")
    systemctl("start", *units)
    return dropins


async def _measure(units: Sequence[str], dropins: Sequence[DropIn], rounds: int) -> list[Section]:
    rows, lags = [], []
    directives = 0
    async with connected(Scope.USER) as rig:
        await _verify(rig, units[:1], dropins)  # imports and caches
        for count in COUNTS:
            samples = []
            for _ in range(rounds):
                cpu, lag, directives = await _one(rig, units[:count], dropins)
                samples.append(cpu)
                lags += lag
            rows.append(Row(f"agentd, {count} services, CPU per service", tuple(samples)))
    rows.append(Row("systemd-analyze security, CPU per service", tuple(map(_static, units[:STATIC]))))
    lags.sort()
    p99 = lags[int(0.99 * len(lags))]
    goals = [
        Goal("CPU per service, 200 services", rows[2].median, CPU_GOAL),
        Goal("200 services against 5, CPU per service", rows[2].median / rows[0].median, RATIO_GOAL, "times"),
        Goal("loop lag meanwhile, p99", p99, LAG_GOAL),
    ]
    notes = [f"{directives} findings a service; loop lag: median {statistics.median(lags):.2f} ms, {len(lags)} samples"]
    return [Section("Verification", rows, goals, notes, load_average())]


async def _one(rig: Rig, units: Sequence[str], dropins: Sequence[DropIn]) -> tuple[float, list[float], int]:
    """CPU milliseconds per service, the loop's lags in milliseconds, findings per service."""
    lags: list[float] = []
    sampler = asyncio.ensure_future(_sample(lags))
    before = time.process_time()
    findings = await _verify(rig, units, dropins)
    cpu = time.process_time() - before
    sampler.cancel()
    return 1000 * cpu / len(units), lags, findings // len(units)


async def _verify(rig: Rig, units: Sequence[str], dropins: Sequence[DropIn]) -> int:
    found = 0
    for unit in units:
        found += len((await rig.verifier.verify(unit, [d for d in dropins if d.unit == unit])).findings)
    return found


async def _sample(lags: list[float]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + SAMPLE
        await asyncio.sleep(SAMPLE)
        lags.append(1000 * (loop.time() - due))


def _static(unit: str) -> float:
    def children() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = children()
    subprocess.run(
        ["systemd-analyze", "--user", "security", "--no-pager", unit],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    return 1000 * (children() - before)


def _remove(units: Sequence[str]) -> None:
    systemctl("kill", "--signal=KILL", f"{PREFIX}*", check=False)
    systemctl("stop", f"{PREFIX}*", check=False)
    folder = paths.unit_dir()
    for unit in units:
        (folder / unit).unlink(missing_ok=True)
        for file in Path(f"{folder}/{unit}.d").glob("*"):
            file.unlink()
        if (folder / f"{unit}.d").exists():
            (folder / f"{unit}.d").rmdir()
    systemctl("daemon-reload", check=False)
