"""A switch by agentctl and by the API, beside the shell loops that people write, on the same units in one run.

In every round the loops go first, with agentd stopped so that it costs them nothing; then agentd is started, adopts
what runs, and switches the same units. Every sample is split by the clock of systemd and of the journal into what the
server takes to load (process start to listening) and the rest, which is what the switch adds.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from figures import Goal, Row, Section
from rig import GATED, PLAIN, PORTS, Rig, load_average, monotonic_ms, properties, say, unit_of

LOAD_SECONDS = 1.0
ALLOWED_OVER = 30.0
"""Milliseconds beyond the load: systemd's 20 for a stop and a start, and 10."""
ALLOWED_OURS = 10.0
"""... of which agentd's own."""
_SHELL = (
    "systemctl --user stop vllm-{old}.service; systemctl --user start vllm-{new}.service; "
    "until curl -sf http://127.0.0.1:{port}/health >/dev/null; do sleep {pause}; done"
)
API, CTL = "agentd, POST to serving", "agentctl switch-model"
API_GATED, CTL_GATED = f"{API}, gated", f"{CTL}, gated"
SHELL_10, SHELL_100, BARE = "shell loop, 10 ms", "shell loop, 100 ms", "stop; start; connect in a tight loop"


@dataclass(slots=True)
class Sample:
    wall: float
    begun: float
    invocation: str
    process: float
    """When the server's main process was started (ms, monotonic)."""


@dataclass(slots=True)
class Series:
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    changes: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


def measure(rig: Rig, rounds: int) -> list[Section]:
    rig.install(extra=True, load_seconds=LOAD_SECONDS)
    rig.start_agentd("qwen")  # Writes its drop-ins, and has switched once.
    bench = _Bench(rig)
    bench.switch_api("falcon")
    for number in range(rounds):
        say(f"  switch: round {number + 1} of {rounds}")
        bench.round(number)
    return bench.sections()


class _Bench:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.series = Series()
        self.resident = "qwen"

    def round(self, number: int) -> None:
        loops = [(SHELL_100, self._shell("0.1")), (SHELL_10, self._shell("0.01")), (BARE, self._bare)]
        ours = [(CTL, PLAIN, self._ctl), (API, PLAIN, self.switch_api)]
        ours += [(CTL_GATED, GATED, self._ctl), (API_GATED, GATED, self.switch_api)]
        if number % 2:
            loops.reverse()
            ours.reverse()
        self.rig.stop_agentd()
        for name, way in loops:
            self._timed(name, self._other(PLAIN), way)
        self.rig.start_agentd(self.resident)
        for name, pair, way in ours:
            if self.resident not in pair:
                self.switch_api(pair[1])  # From a model of the same kind, so that stopping costs the same.
            self._timed(name, self._other(pair), way)

    def _other(self, pair: tuple[str, str]) -> str:
        return pair[1] if self.resident == pair[0] else pair[0]

    def _timed(self, name: str, target: str, way: Callable[[str], dict[str, Any] | None]) -> None:
        time.sleep(0.3)  # What the last switch left to do is done.
        begun = monotonic_ms()
        change = way(target)
        wall = monotonic_ms() - begun
        self.resident = target
        found = properties(unit_of(target), "ExecMainStartTimestampMonotonic", "InvocationID")
        process = int(found["ExecMainStartTimestampMonotonic"]) / 1000
        self.series.samples[name].append(Sample(wall, begun, found["InvocationID"], process))
        if change is not None:
            self.series.changes[name].append(change)

    # -- ways to switch -----------------------------------------------------------------------------------------------

    def _shell(self, pause: str) -> Callable[[str], None]:
        def way(target: str) -> None:
            script = _SHELL.format(old=self.resident, new=target, port=PORTS[target], pause=pause)
            subprocess.run(["/bin/sh", "-c", script], check=True, timeout=60)

        return way

    def _bare(self, target: str) -> None:
        """What a switch takes at least: no curl, no sleep worth the name."""
        script = f"systemctl --user stop {unit_of(self.resident)}; systemctl --user start {unit_of(target)}"
        subprocess.run(["/bin/sh", "-c", script], check=True, timeout=60)
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", PORTS[target])) == 0:
                    return
            time.sleep(0.0005)

    def _ctl(self, target: str) -> dict[str, Any]:
        argv = [self.rig.agentctl, "switch-model", target, "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return _done(json.loads(done.stdout or "{}"))

    def switch_api(self, target: str) -> dict[str, Any]:
        self.resident = target
        return follow(self.rig, target)

    # -- what came out ------------------------------------------------------------------------------------------------

    def sections(self) -> list[Section]:
        over: dict[str, tuple[float, ...]] = {}
        before: dict[str, tuple[float, ...]] = {}
        loads: list[float] = []
        for name, samples in self.series.samples.items():
            own = [(s, self.rig.listening_since(s.invocation)) for s in samples]
            known = [(s, at - s.process) for s, at in own if at is not None]
            loads += [load for _, load in known]
            over[name] = tuple(s.wall - load for s, load in known)
            before[name] = tuple(s.process - s.begun for s, _ in known)
        return [self._walls(over, loads), self._overheads(over, before), self._phases()]

    def _walls(self, over: dict[str, tuple[float, ...]], loads: list[float]) -> Section:
        rows = {n: Row(n, tuple(s.wall for s in self.series.samples[n])) for n in _ORDER}
        load = Row("the server's own load time", tuple(loads))
        api, ctl = rows[API].median, rows[CTL].median
        goals = [
            Goal("agentd below the 10 ms loop", api, rows[SHELL_10].median),
            Goal("agentd below the 100 ms loop", api, rows[SHELL_100].median),
            Goal("agentctl below the 10 ms loop", ctl, rows[SHELL_10].median),
            Goal("agentctl below the 100 ms loop", ctl, rows[SHELL_100].median),
            Goal("agentd over the server's own load time", Row("", over[API]).median, ALLOWED_OVER),
            Goal("agentd over the server's own load time, gated", Row("", over[API_GATED]).median, ALLOWED_OVER),
            Goal("agentd over what stop and start take by themselves here", api - rows[BARE].median, ALLOWED_OURS),
        ]
        notes = [
            "no GPU memory is waited for (vram_probe none): the loops do not look at it either",
            "agentd also prechecks, drains, checks the served name, asks for one token and journals; the loops do not",
            "gated: the unit has agentd's readiness drop-in, so `systemctl start` itself waits for the answer",
        ]
        title = f"Switch between two models that load in {LOAD_SECONDS:g} s, wall time"
        return Section(title, [*rows.values(), load], goals, notes, load_average())

    def _overheads(self, over: dict[str, tuple[float, ...]], before: dict[str, tuple[float, ...]]) -> Section:
        rows = [Row(n, over[n]) for n in _ORDER]
        rows += [Row(f"of it before the process: {n}", before[n]) for n in (SHELL_10, API, CTL, API_GATED)]
        notes = ["per sample: wall time less process start to listening, by the journal's time stamps"]
        return Section("Switch, what it adds to the server's own load time", rows, (), notes)

    def _phases(self) -> Section:
        found: dict[str, list[float]] = defaultdict(list)
        for name in (API, API_GATED):
            for change in self.series.changes[name]:
                mark = ", gated" if name == API_GATED else ""
                for phase in change["phases"]:
                    found[f"{phase['phase']}{mark}"].append(1000 * phase["seconds"])
                found[f"between phases{mark}"].append(1000 * _between(change))
        rows = [Row(n, tuple(v), compare=False) for n, v in found.items()]
        return Section("Switch, agentd's own account by phase", rows)


_ORDER = (SHELL_10, SHELL_100, BARE, API, CTL, API_GATED, CTL_GATED)


def follow(rig: Rig, target: str, patience: float = 60.0) -> dict[str, Any]:
    """A switch by the API, to its end; the change."""
    change: dict[str, Any] = rig.client.post("/v1/switch", {"target": target})["change"]
    if change["finished"] is None:
        with rig.client.stream(f"/v1/changes/{change['id']}/events") as stream:
            while change["finished"] is None:
                message = stream.next(patience)
                if message is None:
                    raise SystemExit("bench: the switch does not end")
                change = json.loads(message[1])
    return _done(change)


def _between(change: dict[str, Any]) -> float:
    inside: float = sum(p["seconds"] for p in change["phases"])
    return float(change["finished"]) - float(change["created"]) - inside


def _done(change: dict[str, Any]) -> dict[str, Any]:
    if change.get("outcome") not in ("done", "already"):
        raise SystemExit(f"bench: the switch did not succeed: {change.get('message') or change}")
    return change
