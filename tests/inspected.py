"""Processes and cgroup trees of a test's own, to be looked at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from agentd.evidence import ProcessEvidence, UnitEvidence

GROUP = "/user.slice/app.slice/a.service"

_REST = """
print("ready", flush=True)
import time
time.sleep(600)
"""


class Children:
    """Processes of a test, ended with it."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[str]] = []

    def run(self, code: str, *prefix: str) -> int:
        """A Python program that prints a line when it is ready, and its pid."""
        command = [
            *prefix,
            sys.executable,
            "-S",
            "-c",
            f"{code}\nprint('ready', flush=True)\nimport time\ntime.sleep(600)",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._all.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the child did not come so far"
        return process.pid

    def kill(self, pid: int, *, reap: bool = True) -> None:
        """Not reaped it is a zombie."""
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | (0 if reap else os.WNOWAIT))

    def end(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


class Tree:
    """A folder that looks like a mounted cgroup hierarchy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.make("/", controllers="cpu memory pids")

    def make(self, group: str, pids: Sequence[int] = (), controllers: str = "memory pids", **files: str) -> None:
        folder = self.folder / group.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        names = {"cgroup.procs": "\n".join(map(str, pids)), "cgroup.controllers": controllers}
        names |= {name.replace("__", "."): text for name, text in files.items()}
        if group != "/":
            names["cgroup.events"] = "populated 1\nfrozen 0"
        for name, text in names.items():
            (folder / name).write_text(text + "\n")

    def mountinfo(self, fstype: str = "cgroup2", options: str = "rw") -> str:
        return f"31 23 0:28 / {self.folder} rw,relatime - {fstype} {fstype} {options}\n"


def one(evidence: UnitEvidence) -> ProcessEvidence:
    (process,) = evidence.processes
    return process
