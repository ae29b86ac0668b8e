"""The inside half: pid 1 of the sandbox's namespaces. Prepares the machine, starts the manager, runs the command.

Runs with `python3 -I -S` and the standard library alone, so that a sandbox is up in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from typing import Any

from agentd.sandbox import bringup
from agentd.sandbox.driver import Driver
from agentd.sandbox.reaper import Reaper, Spawn

MANAGER_SECONDS = 30.0
GRACE_SECONDS = 10.0
"""What a command gets to end after a SIGTERM that was passed on."""
EXIT_SECONDS = 5.0
"""What the manager gets to stop its units; the kernel ends the rest."""


class Ended(Exception):
    """A process that the sandbox cannot do without has ended."""


class Init:
    def __init__(self, control: socket.socket) -> None:
        self._plan = _read_plan(control)
        self._control = control
        self._reaper = Reaper(control.fileno())
        self._world = bringup.World(self._plan)
        self._driver: Driver | None = None
        self._manager = 0
        self._asked = 0

    def run(self) -> int:
        self._world.prepare()
        self._driver = Driver(self._world.gpu)
        if self._world.journal:
            self._start_journal()
        self._start_manager()
        command = self._reaper.spawn(
            Spawn(
                self._plan["argv"],
                self._world.command_env(),
                self._world.command_group,
                cwd=self._plan["cwd"],
                terminal=True,
            )
        )
        code = self._wait(command)
        self._stop_manager()
        return code

    def _start_journal(self) -> None:
        sockets = self._world.journald_sockets()
        listen = [s.fileno() for s in sockets]
        argv, env = self._world.journald_argv(), self._world.service_env()
        self._reaper.spawn(Spawn(argv, env, self._world.init_group, log="journald", listen=listen))
        for one in sockets:
            one.close()

    def _start_manager(self) -> None:
        notify = self._world.notify_socket()
        self._manager = self._reaper.spawn(
            Spawn(self._world.manager_argv(), self._world.manager_env(), self._world.manager_group, log="manager")
        )
        deadline = time.monotonic() + MANAGER_SECONDS
        with notify:
            while True:
                readable = self._sleep([notify.fileno()], deadline)
                if notify.fileno() in readable and b"READY=1" in notify.recv(4096):
                    return
                if self._reaper.status(self._manager) is not None or time.monotonic() >= deadline:
                    raise Ended(f"cannot start systemd --user: {self._world.manager_log()}")
                if not self._take_signals():
                    raise Ended("stopped while starting")

    def _wait(self, command: int) -> int:
        """Exit code of the command; signals from outside are passed on to it, a lost outside ends it."""
        deadline: float | None = None
        while (status := self._reaper.status(command)) is None:
            self._sleep([], deadline)
            if self._take_signals() and self._asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(command, self._asked)
                if self._asked != signal.SIGINT and deadline is None:
                    deadline = time.monotonic() + GRACE_SECONDS
                self._asked = 0
            if deadline is not None and time.monotonic() >= deadline:
                return 128 + signal.SIGKILL
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    def _sleep(self, files: list[int], deadline: float | None) -> list[int]:
        """Until something happens; the simulated GPU's events are dealt with on the way."""
        driver = self._driver
        watched = driver.files if driver else []
        ready = self._reaper.wait([*files, *watched], deadline)
        if driver:
            for fd in set(watched) & set(ready):
                driver.ended(fd)
            if self._reaper.notified:
                driver.refresh()
        return ready

    def _take_signals(self) -> bool:
        """Read what the outside sent; the end of the outside is the end of everything."""
        try:
            data = self._control.recv(16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        if not data:
            os._exit(1)
        self._asked = data[-1]
        return self._manager != 0

    def _stop_manager(self) -> None:
        """Let units end in order; what has not ended in time goes with the pid namespace."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._manager, signal.SIGTERM)
        deadline = time.monotonic() + EXIT_SECONDS
        while self._reaper.status(self._manager) is None and time.monotonic() < deadline:
            self._sleep([], deadline)


def _read_plan(control: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        part = control.recv(65536)
        if not part:
            os._exit(1)
        data += part
    plan: dict[str, Any] = json.loads(data)
    return plan


def main(control: int) -> None:
    outside = socket.socket(fileno=control)
    outside.set_inheritable(False)
    try:
        code = Init(outside).run()
    except (Ended, OSError) as error:
        print(f"agentctl: the sandbox ended: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    os._exit(code)
