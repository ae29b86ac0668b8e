"""What agentd costs while nothing happens: CPU, wakeups, memory; the whole stack is up, probes at their defaults."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from figures import Goal, Row, Section
from rig import Rig, load_average, say

SETTLE = 8.0
"""Seconds after the start in which caches and first samples are made."""
CPU_GOAL, WAKEUPS_GOAL, PSS_GOAL = 0.05, 2.0, 40.0


@dataclass(frozen=True, slots=True)
class Reading:
    at: float
    cpu: float
    """Seconds on a CPU, of all threads that live."""
    wakeups: int
    """Voluntary context switches: each is a sleep that ended."""


def measure(rig: Rig, seconds: float) -> list[Section]:
    rig.install(extra=False, load_seconds=0.0)
    rig.full_stack()
    pid = rig.pid("agentd.service")
    time.sleep(SETTLE)
    say(f"  idle: watching for {seconds:g} s")
    readings = [read(pid)]
    while readings[-1].at - readings[0].at < seconds:
        time.sleep(5.0)
        readings.append(read(pid))
    pairs = list(itertools.pairwise(readings))
    cpu = Row("CPU of agentd", tuple(100 * (b.cpu - a.cpu) / (b.at - a.at) for a, b in pairs), "%", compare=False)
    wakes = Row("wakeups of agentd", tuple((b.wakeups - a.wakeups) / (b.at - a.at) for a, b in pairs), "/s", False)
    pss = Row("Pss of agentd", (_pss(pid),), "MB", compare=False)
    first, last = readings[0], readings[-1]
    took = last.at - first.at
    goals = [
        Goal("idle CPU, mean", 100 * (last.cpu - first.cpu) / took, CPU_GOAL, "% of a core"),
        Goal("wakeups, mean", (last.wakeups - first.wakeups) / took, WAKEUPS_GOAL, "per second"),
        Goal("Pss", pss.median, PSS_GOAL, "MB"),
    ]
    threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    services = len(rig.client.get("/v1/services")["services"])
    notes = [f"{services} services supervised, {threads} threads, windows of 5 s over {took:.0f} s"]
    return [Section("Idle", [cpu, wakes, pss], goals, notes, load_average())]


def read(pid: int) -> Reading:
    cpu = wakeups = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        cpu += int((task / "schedstat").read_text().split()[0])
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                wakeups += int(line.split()[1])
    return Reading(time.monotonic(), cpu / 1e9, wakeups)


def _pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("bench: no Pss in smaps_rollup")
