"""A real GPU, what nvidia-smi says of it, and processes of transient units that hold its memory."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nvml.holding import Holder, Smi

HOLD = Path(__file__).with_name("hold.py")
START_SECONDS = 60.0


@pytest.fixture
def smi() -> Smi:
    """smi("gpu", "index,uuid"): rows of nvidia-smi's query, as text."""

    def ask(what: str, fields: str) -> list[dict[str, str]]:
        command = ["nvidia-smi", f"--query-{what}={fields}", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
        return [dict(zip(fields.split(","), row, strict=True)) for row in rows]

    return ask


def _manager() -> list[str]:
    """systemd-run of a manager that we may use: the user's, or as root the system's. Skips where there is none."""
    said = ""
    for scope in ["--user"], *([[]] if os.geteuid() == 0 else []):
        probe = ["systemd-run", *scope, "--quiet", "--wait", "--collect", "true"]
        try:
            subprocess.run(probe, capture_output=True, text=True, check=True, timeout=30)
        except subprocess.CalledProcessError as error:
            said = error.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        else:
            return ["systemd-run", *scope]
    pytest.skip(f"systemd cannot start a transient unit here, so nothing belongs to one: {said.strip()}")


def _until(what: Callable[[], bool], why: str) -> None:
    end = time.monotonic() + START_SECONDS
    while not what():
        if time.monotonic() > end:
            pytest.fail(f"{why} within {START_SECONDS:.0f} s")
        time.sleep(0.05)


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[int], Holder]]:
    """hold(MIB): a child that holds so much of GPU 0."""
    started: list[subprocess.Popen[str]] = []

    def start(mib: int) -> Holder:
        command = [sys.executable, str(HOLD), str(mib)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def end(act: Callable[[], None]) -> Callable[[], None]:
            return lambda: (act(), process.wait(30))[0]  # type: ignore[func-returns-value]

        return Holder(process.pid, "", end(process.terminate), end(process.kill))

    yield start
    for process in started:
        process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def hold_in_unit(tmp_path: Path) -> Iterator[Callable[[int], Holder]]:
    """hold_in_unit(MIB): a transient service that holds so much of GPU 0."""
    run = _manager()
    control = ["systemctl", *run[1:]]
    units: list[str] = []

    def start(mib: int) -> Holder:
        unit = f"agentd-gpu-test-{uuid.uuid4().hex[:8]}.service"
        ready = tmp_path / unit
        options = ("--quiet", "--collect", f"--unit={unit}", "--property=RuntimeMaxSec=300")
        command = [*run, *options, "--", sys.executable, str(HOLD)]
        subprocess.run([*command, str(mib), "0", str(ready)], check=True, timeout=30)
        units.append(unit)
        _until(ready.exists, f"{unit} does not hold its memory")
        shown = subprocess.run(
            [*control, "show", "-P", "MainPID", unit], capture_output=True, text=True, check=True, timeout=30
        )

        def act(*words: str) -> Callable[[], None]:
            return lambda: _ended(control, unit, *words)

        return Holder(int(shown.stdout), unit, act("stop"), act("kill", "--signal=KILL"))

    yield start
    for unit in units:
        subprocess.run([*control, "stop", unit], capture_output=True, timeout=60, check=False)


def _ended(control: list[str], unit: str, *words: str) -> None:
    subprocess.run([*control, *words, unit], check=True, timeout=60)
    asked = [*control, "is-active", "--quiet", unit]
    _until(lambda: subprocess.run(asked, timeout=30, check=False).returncode != 0, f"{unit} did not end")
