"""A switch between two real vLLM servers on the CPU, by agentd and by the shell loop, on the same units in one run.

What the server takes to load varies by seconds, so each sample is split by the clock of systemd and of the journal:
from the start of its process to its own word that it is up is the server's, the rest is what the switch adds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

from figures import Goal, Row, Section
from rig import GATED, PORTS, Rig, load_average, monotonic_ms, properties, say, systemctl, unit_of
from switch import follow

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/vllm"
SERVING = "Application startup complete"
PATIENCE = 300.0
SETTINGS = """\
[slots.gpu0]
vram_probe = "none"
evict = []
cooldown = 0
"""
MODEL = """
[services.{name}]
gate = false

[services.{name}.model]
start_timeout = "1min"
ready_timeout = "5min"
"""
LOOP = (
    "systemctl --user stop vllm-{old}.service; systemctl --user start vllm-{new}.service; "
    "until curl -sf http://127.0.0.1:{port}/health >/dev/null; do sleep 0.1; done"
)
SHELL, OURS = "shell loop, 100 ms", "agentd, POST to serving"


def measure(rig: Rig, rounds: int) -> list[Section]:
    """`rounds` switches of each kind; each takes as long as a vLLM takes to load."""
    if not (CACHE / "models/qwen").is_dir():
        raise SystemExit("bench: no real vLLM here; run tests/model/run once, it installs one and makes its models")
    _install(rig)
    rig.start_agentd()
    follow(rig, GATED[0], PATIENCE)
    resident = GATED[0]
    walls: dict[str, list[float]] = {SHELL: [], OURS: []}
    over: dict[str, list[float]] = {SHELL: [], OURS: []}
    loads: list[float] = []
    for number in range(2 * rounds):
        name = (SHELL, OURS)[number % 2]
        target = GATED[1] if resident == GATED[0] else GATED[0]
        say(f"  vllm: {name}, {number // 2 + 1} of {rounds}")
        if name == SHELL:
            rig.stop_agentd()
        else:
            rig.start_agentd(resident)
        begun = monotonic_ms()
        follow(rig, target, PATIENCE) if name == OURS else _by_shell(resident, target)
        wall = monotonic_ms() - begun
        load = _load_time(target)
        resident = target
        walls[name].append(wall)
        over[name].append(wall - load)
        loads.append(load)
    return [_section(walls, over, loads)]


def _install(rig: Rig) -> None:
    rig.install(extra=False, load_seconds=0.0)
    program = rig.home / ".local/bin/vllm"
    text = (ROOT / "tests/model/vllm").read_text().replace("@VENV@", str(CACHE / "venv"))
    program.unlink()
    program.write_text(text)
    program.chmod(0o755)
    shutil.rmtree(rig.home / "models")
    shutil.copytree(CACHE / "models", rig.home / "models")
    fragment = rig.home / ".config/agentd/config.d/70-bench.toml"
    fragment.write_text(SETTINGS + "".join(MODEL.format(name=name) for name in GATED))
    systemctl("daemon-reload")


def _by_shell(resident: str, target: str) -> None:
    script = LOOP.format(old=resident, new=target, port=PORTS[target])
    subprocess.run(["/bin/sh", "-c", script], check=True, timeout=PATIENCE)


def _load_time(model: str) -> float:
    """From the start of the process to its own word that it serves (ms)."""
    found = properties(unit_of(model), "ExecMainStartTimestampMonotonic", "InvocationID")
    argv = ["journalctl", "--no-pager", "-o", "json", f"_SYSTEMD_INVOCATION_ID={found['InvocationID']}"]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for line in subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines():
            entry = json.loads(line)
            if SERVING in str(entry.get("MESSAGE", "")):
                return int(entry["__MONOTONIC_TIMESTAMP"]) / 1000 - int(found["ExecMainStartTimestampMonotonic"]) / 1000
        time.sleep(0.1)
    raise SystemExit(f"bench: {unit_of(model)} did not say that it serves")


def _section(walls: dict[str, list[float]], over: dict[str, list[float]], loads: list[float]) -> Section:
    rows = [Row(f"{name}, beyond the server's load", tuple(over[name])) for name in (SHELL, OURS)]
    rows += [Row(f"{name}, wall time", tuple(walls[name]), compare=False) for name in (SHELL, OURS)]
    rows.append(Row("the server's own load time", tuple(loads), compare=False))
    ratio = rows[1].median / rows[0].median
    goal = Goal("agentd's share of the shell loop's overhead", ratio, 1.0, "")
    notes = [
        "the overhead holds the stop of the old server, which both wait for, and the start of a process",
        "agentd also prechecks, drains, checks the served name, asks for one token and journals; the loop does not",
    ]
    return Section("Switch between two real vLLM servers on the CPU", rows, (goal,), notes, load_average())
