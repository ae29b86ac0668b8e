"""From the start of agentd's process until systemd takes it as started (READY=1), a model being resident."""

from __future__ import annotations

from figures import Goal, Row, Section
from rig import Rig, load_average, monotonic_ms, properties, systemctl

GOAL = 400.0
_STAMPS = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic", "InactiveExitTimestampMonotonic")


def measure(rig: Rig, count: int) -> list[Section]:
    rig.install(extra=False, load_seconds=0.0)
    rig.full_stack()
    process: list[float] = []
    job: list[float] = []
    wall: list[float] = []
    for _ in range(count):
        systemctl("stop", "agentd.service")
        begun = monotonic_ms()
        systemctl("start", "agentd.service")
        wall.append(monotonic_ms() - begun)
        started, active, left = (int(v) / 1000 for v in _ordered(properties("agentd.service", *_STAMPS)))
        process.append(active - started)
        job.append(active - left)
        rig.settled("qwen")
    rows = [
        Row("process start to READY", tuple(process)),
        Row("start job begun to READY", tuple(job)),
        Row("systemctl --user start agentd", tuple(wall)),
    ]
    goals = [Goal("process start to READY, median", rows[0].median, GOAL)]
    return [Section("Start of agentd with the whole stack up", rows, goals, (), load_average())]


def _ordered(found: dict[str, str]) -> list[str]:
    return [found[name] for name in _STAMPS]
