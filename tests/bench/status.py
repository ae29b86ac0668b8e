"""`agentctl status` beside `supervisorctl status` and `systemctl --user status`, interleaved."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from death import supervisord
from figures import Goal, Row, Section
from rig import Rig, load_average, monotonic_ms

GOAL = 90.0
UNITS = ("vllm-qwen.service", "vllm-dolphin.service", "ollama.service", "litellm.service", "agentd-redis.service")
OURS, PEER = "agentctl status", "supervisorctl status"


def measure(rig: Rig, peers: Path, count: int) -> list[Section]:
    rig.install(extra=False, load_seconds=0.0)
    rig.full_stack()
    commands: dict[str, Sequence[str]] = {
        OURS: (rig.agentctl, "status"),
        "systemctl --user status, the same units": ("systemctl", "--user", "--no-pager", "status", *UNITS),
        "an empty Python": (sys.executable, "-I", "-c", "print()"),
    }
    found: dict[str, list[float]] = defaultdict(list)
    programs = {f"sleeper{n}": "/bin/sleep 1000000" for n in range(len(UNITS))}
    with supervisord(peers, programs) as peer:
        if peer is not None:
            commands[PEER] = (*peer.ctl, "status")
        for number in range(count + 1):
            for name, argv in commands.items():
                took = _wall(argv)
                if number:  # The first of each fills the caches.
                    found[name].append(took)
    rows = [Row(name, tuple(samples)) for name, samples in found.items()]
    notes = [] if PEER in found else ["supervisorctl: not measured, it is not installed"]
    goals = [Goal("agentctl status, median", rows[0].median, GOAL)]
    return [Section("Status on the command line, wall time", rows, goals, notes, load_average())]


def _wall(argv: Sequence[str]) -> float:
    begun = monotonic_ms()
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    took = monotonic_ms() - begun
    if not done.stdout:
        raise SystemExit(f"bench: {' '.join(argv)} printed nothing: {done.stderr.decode()[:300]}")
    return took
