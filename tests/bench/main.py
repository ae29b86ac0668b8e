"""Runs the sections, prints their tables and writes the figures to a file. Inside the sandbox; see `run`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import death
import gateway
import idle
import ready
import real
import sleep
import status
import stores
import switch
import verify
import warm
from figures import Section
from rig import Rig, load_average, say, systemctl

from agentd import __version__


def main() -> int:
    options = _options()
    rig = Rig()
    few = options.quick
    sections: dict[str, Callable[[], list[Section]]] = {
        "switch": lambda: switch.measure(rig, 3 if few else 10),
        "death": lambda: death.measure(rig, options.peers, 10 if few else 36),
        "cli": lambda: status.measure(rig, options.peers, 10 if few else 30),
        "idle": lambda: idle.measure(rig, options.idle or (10.0 if few else 60.0)),
        "verify": lambda: verify.measure(2 if few else 5),
        "redis": lambda: stores.measure(
            options.keys or (50_000 if few else 1_000_000), 1 if few else 3, options.idle or (10.0 if few else 60.0)
        ),
        "ready": lambda: ready.measure(rig, 4 if few else 15),
        "gateway": lambda: gateway.measure(2 if few else 5),
        "sleep": lambda: sleep.measure(rig, 3 if few else 15),
        "warm": lambda: warm.measure(options.out, 2 if few else 5, (256 if few else 2048) * 1024**2),
        "vllm": lambda: real.measure(rig, 1 if few else 4),
    }
    print(_machine())
    found: list[Section] = []
    for name in options.sections or (name for name in sections if name != "vllm"):
        if name not in sections:
            raise SystemExit(f"bench: no section {name}; there are: {' '.join(sections)}")
        say(f"bench: {name}")
        for section in sections[name]():
            print(section.text(), flush=True)
            found.append(section)
    rig.remove()
    goals = [goal for section in found for goal in section.goals]
    print(f"\n{sum(g.met for g in goals)} of {len(goals)} goals met")
    _keep(options.out, found)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run")
    names = "switch death cli idle verify redis ready gateway sleep warm, and vllm; all but vllm when none is named"
    parser.add_argument("sections", nargs="*", help=names)
    parser.add_argument("--quick", action="store_true", help="few samples: does it run at all?")
    parser.add_argument("--idle", type=float, metavar="SECONDS", help="how long to watch the idle daemon")
    parser.add_argument("--keys", type=int, metavar="N", help="size of the data set of the Redis")
    parser.add_argument("--peers", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, required=True, help=argparse.SUPPRESS)
    return parser.parse_args()


def _machine() -> str:
    manager = systemctl("--version").split("\n")[0]
    return (
        f"agentd {__version__}, Python {platform.python_version()}, {manager}, {os.cpu_count()} cores, "
        f"load average {load_average()}"
    )


def _keep(folder: Path, sections: list[Section]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("bench-%Y%m%dT%H%M%S.json")
    values = {"machine": _machine(), "time": time.time(), "sections": [s.plain() for s in sections]}
    path.write_text(json.dumps(values, indent=1) + "\n")
    print(f"kept in {path}")


if __name__ == "__main__":
    sys.exit(main())
