"""A switch between two models of which one sleeps while the other serves: what agentd adds to the servers' own time.

The stand-in servers take a set time to fall asleep and to wake, and some milliseconds to answer. What that is in all, a
client measures in the same run that asks for nothing but the sleep and the wake and is running already. The rest is
agentd's: precheck, drain, the proof by NVML that memory went and came, the comparison of an answer with the one before,
the journal. The shell script beside it asks for the same as that client, by curl.
"""

from __future__ import annotations

import http.client
import subprocess
import time
from collections import defaultdict
from typing import Any

from figures import Goal, Row, Section
from rig import PLAIN, PORTS, Rig, load_average, monotonic_ms, say, systemctl, unit_of
from switch import follow

from agentd.sandbox.standins import behaviour

SLEEP_SECONDS, WAKE_SECONDS = 0.3, 0.2
ALLOWED = 50.0
"""Milliseconds that agentd itself may take."""
SETTINGS = """
[slots.gpu0]
vram_probe = "nvml"
vram_stable = 0
sleep_reserve = 0
warm_cache = false
"""
MODEL = """
[services.{name}.model]
switch = "sleep1"
"""
UNIT = """\
[Service]
Environment=VLLM_SERVER_DEV_MODE=1
ExecStart=
ExecStart=%h/.local/bin/vllm serve %h/models/{name} --served-model-name {name} --host 127.0.0.1 --port {port} \\
    --gpu-memory-utilization 0.4 --enable-sleep-mode
"""
REQUESTS = (("old", "/pause?mode=wait"), ("old", "/sleep?level=1"), ("new", "/wake_up"), ("new", "/resume"))
SCRIPT = (
    "curl -sf -X POST 'http://127.0.0.1:{old}/pause?mode=wait' >/dev/null && "
    "curl -sf -X POST 'http://127.0.0.1:{old}/sleep?level=1' >/dev/null && "
    "curl -sf -X POST http://127.0.0.1:{new}/wake_up >/dev/null && "
    "curl -sf -X POST http://127.0.0.1:{new}/resume >/dev/null"
)


def measure(rig: Rig, rounds: int) -> list[Section]:
    _install(rig)
    rig.start_agentd()
    for name in (*PLAIN, PLAIN[0]):  # Each has been started cold, and has slept once.
        follow(rig, name)
    resident = PLAIN[0]
    walls: list[float] = []
    phases: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        say(f"  sleep: agentd, {number + 1} of {rounds}")
        resident = PLAIN[1] if resident == PLAIN[0] else PLAIN[0]
        time.sleep(0.3)  # What the last switch left to do is done.
        begun = monotonic_ms()
        change = follow(rig, resident)
        walls.append(monotonic_ms() - begun)
        _woken(change)
        for phase in change["phases"]:
            phases[phase["phase"]].append(1000 * phase["seconds"])
    script, servers = _without_agentd(rig, resident, rounds)
    return [_section(walls, script, servers), _phases(phases)]


def _install(rig: Rig) -> None:
    rig.install(extra=True, load_seconds=0.3)
    for name in PLAIN:
        behaviour.save(
            rig.home, name, load_seconds=0.3, vram_release_seconds=0.0, sleep_seconds=SLEEP_SECONDS,
            wake_seconds=WAKE_SECONDS,
        )  # fmt: skip
        text = UNIT.format(name=name, port=PORTS[name])
        (rig.units / f"{unit_of(name)}.d/96-sleep.conf").write_text(text)
    fragment = rig.home / ".config/agentd/config.d/80-sleep.toml"
    fragment.write_text(SETTINGS + "".join(MODEL.format(name=name) for name in PLAIN))
    systemctl("daemon-reload")


def _woken(change: dict[str, Any]) -> None:
    if change["way"] != "wake":
        raise SystemExit(f"bench: a model was started, not woken: {change['phases']}")


def _without_agentd(rig: Rig, resident: str, rounds: int) -> tuple[list[float], list[float]]:
    """The same two servers, by the script and by the client that is running already."""
    rig.stop_agentd()
    walls: tuple[list[float], list[float]] = ([], [])
    for number in range(2 * rounds):
        which = number % 2
        say(f"  sleep: {('script', 'client')[which]}, {number // 2 + 1} of {rounds}")
        other = PLAIN[1] if resident == PLAIN[0] else PLAIN[0]
        ports = {"old": PORTS[resident], "new": PORTS[other]}
        time.sleep(0.3)
        begun = monotonic_ms()
        _by_client(ports) if which else _by_script(ports)
        walls[which].append(monotonic_ms() - begun)
        resident = other
    return walls


def _by_script(ports: dict[str, int]) -> None:
    subprocess.run(["/bin/sh", "-c", SCRIPT.format(**ports)], check=True, timeout=60)


def _by_client(ports: dict[str, int]) -> None:
    for which, path in REQUESTS:
        connection = http.client.HTTPConnection("127.0.0.1", ports[which], timeout=60)
        connection.request("POST", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"bench: {path} was answered with {answer.status}")


def _section(ours: list[float], script: list[float], client: list[float]) -> Section:
    servers = Row("the servers' own time, by a running client", tuple(client), compare=False)
    rows = [
        Row("script of four requests", tuple(script)),
        Row("agentd, POST to serving", tuple(ours)),
        servers,
        Row("script, beyond the servers' own time", tuple(wall - servers.median for wall in script), compare=False),
        Row("agentd, beyond the servers' own time", tuple(wall - servers.median for wall in ours), compare=False),
    ]
    goal = Goal("agentd's own share of a sleep and a wake", rows[4].median, ALLOWED)
    notes = [
        f"the servers are told to take {1000 * SLEEP_SECONDS:g} ms to fall asleep and {1000 * WAKE_SECONDS:g} to wake",
        "vram_stable = 0: the second for which free memory has to stay the same before a start is a wait, not work",
        "agentd also drains, proves by NVML that the memory went, and compares an answer with the one before",
    ]
    return Section("Switch to a model that sleeps", rows, (goal,), notes, load_average())


def _phases(phases: dict[str, list[float]]) -> Section:
    rows = [Row(name, tuple(values), compare=False) for name, values in phases.items()]
    return Section("Switch to a model that sleeps, by phase", rows)
