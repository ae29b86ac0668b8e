"""The whole stack in a private user manager: shipped units, stand-in servers, the real agentd, and ways to look at it.

What the tests check is read past agentd: cgroups for what runs, HTTP for what serves, the journal's file for what is
open. Only inside `agentctl sandbox --bare`, as everything that uses the user manager.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from userunits import systemctl

from agentd.client import Client, Stream
from agentd.sandbox import gpu, home
from agentd.sandbox.standins import behaviour

PORTS: Mapping[str, int] = {"qwen": 8001, "dolphin": 8002}
LONG = 40.0
"""Seconds for what takes a fraction of one on an idle machine."""
FAST = """\
[slots.gpu0]
vram_stable = "0.1s"
vram_timeout = "10s"
cooldown = 0
"""
NO_LIMIT = "[Unit]\nStartLimitIntervalSec=0\n"


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Stack:
    """One user's stack. `install()` makes everything anew, `start()` brings agentd up with qwen serving."""

    def __init__(self) -> None:
        if os.environ.get("AGENTD_SANDBOX") != "1":
            pytest.fail("cannot run here: these tests want `agentctl sandbox --bare -- pytest tests/integration`")
        self.home = Path.home()
        self.units = self.home / ".config/systemd/user"
        self.config = self.home / ".config/agentd"
        self.state = self.home / ".local/state/agentd"
        self.client = Client(timeout=LONG)
        self.cgroups = Path("/sys/fs/cgroup" + systemctl("show", "-P", "ControlGroup")) / "app.slice"
        memory = gpu.Memory.from_environment()
        assert memory is not None
        self.memory = memory
        self.since = time.time()

    # -- life -----------------------------------------------------------------------------------------------------

    def install(self, *, config: str = FAST, **load_seconds: float) -> None:
        """A fresh home; nothing of an earlier stack runs or is remembered."""
        self.remove()
        self.since = time.time()
        home.install()
        for name in PORTS:
            self.behaviour(name, load_seconds=load_seconds.get(name, 0.0))
        self.write_config("70-test.toml", config)
        # Tests restart agentd more often than its unit allows an agentd that crashes.
        self.dropin("agentd.service", "95-test.conf", NO_LIMIT)
        systemctl("daemon-reload")

    def start(self, *, resident: str | None = "qwen") -> None:
        """agentd up, and its default model, if it has one, serving."""
        self.start_agentd()
        if resident:
            self.settled(resident)

    def remove(self) -> None:
        """Stop, kill and delete whatever is left of a stack."""
        names = [p.name for p in self.units.glob("*.service") if not p.name.startswith("edge")]
        ours = sorted({*names, "agentd.service", "agentd.socket", "vllm-qwen.service", "vllm-dolphin.service"})
        systemctl("kill", "--signal=KILL", *ours, check=False)
        systemctl("stop", *ours, check=False)
        self.end_claims()
        for path in (*(self.units / n for n in ours), *self.units.glob("*.d")):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        for folder in (self.config, self.state, self.home / "models", behaviour.directory(self.home)):
            shutil.rmtree(folder, ignore_errors=True)
        systemctl("daemon-reload")
        systemctl("reset-failed")

    def end_claims(self) -> None:
        """Kill whoever still holds GPU memory, also outside of the units' cgroups."""
        for claim in self.memory.claims():
            if claim.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(claim.pid, signal.SIGKILL)
            claim.path.unlink(missing_ok=True)

    def start_agentd(self) -> None:
        try:
            systemctl("start", "agentd.service")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.journal('agentd.service', 40)}") from None

    def stop_agentd(self, *, sockets: bool = True) -> None:
        """With its socket, so that no request can start it again."""
        systemctl("stop", "agentd.service", *(["agentd.socket"] if sockets else []))

    def restart_agentd(self) -> None:
        """As `systemctl --user restart agentd`: SIGTERM, and it is READY again when this returns."""
        systemctl("restart", "agentd.service")

    def kill_agentd(self) -> None:
        """SIGKILL, and gone; systemd starts it again after a second unless a drop-in says Restart=no."""
        kill_and_wait(self.pid("agentd.service"))

    # -- asking agentd ----------------------------------------------------------------------------------------------

    def ctl(self, *arguments: str, timeout: float = 120.0) -> Done:
        with self.ctl_aside(*arguments) as process:
            return finished(process, timeout)

    @contextlib.contextmanager
    def ctl_aside(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """agentctl while the test goes on; `finished(process)` waits for it."""
        argv = [str(self.home / ".local/bin/agentctl"), *arguments]
        pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(argv, text=True, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def switch(self, target: str, *options: str, timeout: float = 120.0) -> tuple[int, dict[str, Any]]:
        """Exit code of `agentctl switch-model` and the finished change."""
        done = self.ctl("switch-model", target, "--json", *options, timeout=timeout)
        assert done.out, f"agentctl ended with {done.code}: {done.err}"
        return done.code, done.json

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """The change that agentd answers with."""
        change: dict[str, Any] = self.client.post(path, body)["change"]
        return change

    def ended(self, change: Mapping[str, Any], timeout: float = LONG) -> dict[str, Any]:
        """The change once it has finished."""
        with self.client.stream(f"/v1/changes/{change['id']}/events") as stream:
            return Follower(stream).until(lambda seen: seen["finished"] is not None, timeout)

    def phase(self, change: Mapping[str, Any], phase: str, timeout: float = LONG) -> dict[str, Any]:
        """The change as soon as it is in this phase."""
        with self.client.stream(f"/v1/changes/{change['id']}/events") as stream:
            return Follower(stream).until(lambda seen: seen["phase"] == phase, timeout)

    def slot(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/v1/slots")["slots"][0]
        return found

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        return list(self.client.get(f"/v1/events?limit=1000&after={after}")["events"])

    def last_event(self) -> int:
        found = self.client.get("/v1/events?limit=1")["events"]
        return int(found[-1]["seq"]) if found else 0

    @contextlib.contextmanager
    def follow(self, after: int | None = None) -> Iterator[Follower]:
        """Events as they happen, from now on or after a number."""
        start = self.last_event() if after is None else after
        with self.client.stream(f"/v1/events?follow=1&limit=1000&after={start}") as stream:
            yield Follower(stream)

    def settled(self, resident: str | None, timeout: float = LONG) -> dict[str, Any]:
        """Until the slot rests with this model, and the model answers."""
        slot: dict[str, Any] = {}

        def rests() -> bool:
            slot.update(self.slot())
            return slot["change"] is None and slot["resident"] == resident

        until(rests, timeout, lambda: f"the slot does not come to {resident}: {slot}")
        if resident is not None:
            until(lambda: self.answers(resident), timeout)
        return slot

    # -- looking past agentd ------------------------------------------------------------------------------------------

    def pids(self, unit: str) -> frozenset[int]:
        """Of the unit's cgroup, as the kernel lists them now."""
        try:
            return frozenset(map(int, (self.cgroups / unit / "cgroup.procs").read_text().split()))
        except OSError:
            return frozenset()

    def models_up(self) -> dict[str, frozenset[int]]:
        found = {name: self.pids(unit_of(name)) for name in PORTS}
        return {name: pids for name, pids in found.items() if pids}

    def show(self, unit: str, name: str) -> str:
        return systemctl("show", "-P", name, unit)

    def pid(self, unit: str) -> int:
        return int(self.show(unit, "MainPID"))

    def complete(self, model: str, *, tokens: int = 4, timeout: float = LONG) -> str:
        """A completion over HTTP. Raises OSError (urllib's included) when there is none."""
        body = {"model": model, "prompt": "Who are you?", "max_tokens": tokens}
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORTS[model]}/v1/completions", json.dumps(body).encode(), self.headers()
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return str(json.load(answer)["choices"][0]["text"])

    def headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", "Authorization": f"Bearer {home.API_KEY}"}

    def answers(self, model: str) -> bool:
        try:
            return f"this is {model} speaking" in self.complete(model)
        except OSError:
            return False

    def serving(self) -> list[str]:
        return [name for name in PORTS if self.answers(name)]

    def open_changes(self) -> list[str]:
        """Ids in the journal's file that have no end."""
        with contextlib.closing(sqlite3.connect(f"file:{self.state}/journal.sqlite?mode=ro", uri=True)) as db:
            return [str(row[0]) for row in db.execute("SELECT id FROM changes WHERE outcome IS NULL")]

    def claims(self) -> dict[int, int]:
        """GPU memory by process, of those that live and those whose memory is not back yet."""
        return {claim.pid: claim.size for claim in self.memory.claims()}

    def journal(self, unit: str, lines: int = 200) -> str:
        """What the unit and systemd wrote about it since the installation."""
        since = f"--since=@{self.since:.3f}"
        argv = ["journalctl", "--no-pager", "-o", "cat", "-n", str(lines), since, f"--user-unit={unit}"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout

    # -- accidents ----------------------------------------------------------------------------------------------------

    def behaviour(self, name: str, **settings: Any) -> None:
        """How the stand-in acts from its next start on; memory comes back quickly unless it is said otherwise."""
        behaviour.save(self.home, name, **{"load_seconds": 0.0, "vram_release_seconds": 0.05, **settings})

    def dropin(self, unit: str, name: str, text: str) -> Path:
        """Not loaded yet: a daemon-reload has to follow."""
        path = self.units / f"{unit}.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def write_config(self, name: str, text: str) -> Path:
        path = self.config / "config.d" / name
        path.write_text(text)
        return path


class Follower:
    """The event stream of a test; `seen` is what came so far."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.seen: list[dict[str, Any]] = []

    def until(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = LONG) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            message = self._stream.next(left)
            if message is not None:
                self.seen.append(json.loads(message[1]))
                if wanted(self.seen[-1]):
                    return self.seen[-1]
        said = [(e.get("kind"), e.get("phase"), e["message"]) for e in self.seen]
        raise AssertionError(f"it did not come within {timeout:g} s; this did: {said}")

    def kind(self, kind: str, timeout: float = LONG) -> dict[str, Any]:
        return self.until(lambda event: event["kind"] == kind, timeout)


def unit_of(model: str) -> str:
    return f"vllm-{model}.service"


def finished(process: subprocess.Popen[str], timeout: float = 120.0) -> Done:
    out, err = process.communicate(timeout=timeout)
    return Done(process.returncode, out, err)


def until(condition: Callable[[], bool], timeout: float = LONG, what: Callable[[], str] | None = None) -> None:
    """Ask until it holds; fails the test when it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what() if what else "the condition did not come to hold in time"
        time.sleep(0.02)


def kill_and_wait(pid: int) -> None:
    """SIGKILL, and until the process is gone."""
    assert pid > 1, "there is no such process"
    fd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        wait_end(fd)
    finally:
        os.close(fd)


def wait_end(pidfd: int, timeout: float = LONG) -> None:
    import select

    assert select.select([pidfd], [], [], timeout)[0], "the process does not end"
