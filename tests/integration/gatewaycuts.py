"""Accidents at every point of an apply: what is killed, when, and what has to be true once all is quiet again."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration.gatewayed import GATEWAY, STANDBY, Gateway, ask, load
from integration.stack import Stack, until
from userunits import systemctl

from agentd.client import Unreachable
from agentd.core.gateway.header import parse_header

FAULTY = Path(__file__).with_name("faulty_agentd.py")
QUIET = 150.0
"""Seconds: LiteLLM may start three times on a busy machine."""
ENDED_BADLY = (0, *range(500, 600))
"""Statuses of a request whose LiteLLM was killed."""

A, M, S = "agentd", "main", "standby"
NO_STANDBY: Sequence[tuple[str, ...]] = ((A,), (M,), (A, M))
ANY: Sequence[tuple[str, ...]] = ((A,), (M,), (S,), (A, M), (A, M, S))
OF_AGENTD: Sequence[tuple[str, ...]] = ((A,), (A, M))

FIRST = ("begin", "validate", "candidate", "check", "write")
STEPS: Mapping[tuple[str, bool], Sequence[str]] = {
    ("blue-green", True): (*FIRST, "takeover", "restart", "finish", "done"),
    ("blue-green", False): (*FIRST, "takeover", "restart", "undo", "restart", "done"),
    ("restart", True): (*FIRST, "restart", "finish", "done"),
    ("restart", False): (*FIRST, "restart", "undo", "restart", "done"),
}
"""(way, does the main LiteLLM come up with it?) -> the writes of the journal."""


@dataclass(frozen=True, slots=True)
class Cut:
    """At the n-th write of the journal. After it is before the effect of its step, and after that of the step before;
    with `seconds`, in the middle of its effect. `again`: agentd is killed once more, in its recovery."""

    way: str
    good: bool
    number: int
    side: str
    seconds: float
    victims: tuple[str, ...]
    again: bool = False

    @property
    def step(self) -> str:
        return STEPS[self.way, self.good][self.number - 1]

    def __str__(self) -> str:
        moment = f"{self.seconds:g}s into" if self.seconds else self.side
        kind = f"{self.way}-{'good' if self.good else 'bad'}"
        return f"{kind}-{moment} {self.number} {self.step}-{'+'.join(self.victims)}{'-again' * self.again}"

    @property
    def harmless(self) -> bool:
        """Nobody is served by what is killed. A main LiteLLM that does not come up, with no standby and no agentd that
        puts the old file back, is started by each connection until systemd closes the socket."""
        served = S in self.victims and self.number > STEPS[self.way, self.good].index("takeover") + 1
        return M not in self.victims and not served and (self.good or self.way == "blue-green")


def every() -> list[Cut]:
    """The points that differ in what is there: files, processes, an open change."""
    found: list[Cut] = []

    def at(way: str, good: bool, number: int, whos: Sequence[tuple[str, ...]], *moments: float) -> None:
        found.extend(Cut(way, good, number, "after", moment, who) for moment in moments or (0.0,) for who in whos)

    blue, plain = "blue-green", "restart"
    found += [Cut(blue, True, 1, "before", 0.0, who) for who in OF_AGENTD]
    at(blue, True, 3, NO_STANDBY)
    at(blue, True, 4, NO_STANDBY)
    at(blue, True, 4, ANY, 3.0)
    for number in (5, 6, 7, 8):
        at(blue, True, number, ANY)
    at(blue, True, 7, ANY, 0.3, 5.0)
    found += [Cut(blue, True, 9, "before", 0.0, who) for who in NO_STANDBY]
    at(blue, False, 6, ((A, M), (A, M, S)))
    at(blue, False, 7, ((A, M), (A, M, S)))
    at(blue, False, 8, ((A,), (S,), (A, S)))
    at(blue, False, 9, ((A,), (S,), (A, S)))
    at(blue, False, 9, ANY, 5.0)
    found += [Cut(blue, False, 10, "before", 0.0, who) for who in NO_STANDBY]
    at(plain, True, 4, ((A,),))
    at(plain, True, 4, NO_STANDBY, 5.0)
    at(plain, True, 5, NO_STANDBY)
    at(plain, True, 6, NO_STANDBY)
    at(plain, True, 6, NO_STANDBY, 0.3, 5.0)
    at(plain, True, 7, OF_AGENTD)
    at(plain, False, 6, ((A, M),))
    at(plain, False, 7, ((A,),))
    at(plain, False, 8, ((A,),))
    at(plain, False, 8, NO_STANDBY, 5.0)
    found += [Cut(blue, True, 6, "after", 0.0, (A, M, S), True), Cut(blue, False, 7, "after", 0.0, (A, M), True)]
    found += [Cut(blue, True, 7, "after", 5.0, (A, S), True), Cut(plain, True, 6, "after", 5.0, (A,), True)]
    return found


SAMPLE = [
    Cut("blue-green", True, 6, "after", 0.0, (A,)),
    Cut("blue-green", True, 7, "after", 0.3, (A, M)),
    Cut("blue-green", True, 4, "after", 3.0, (A, M, S)),
]


@dataclass(frozen=True, slots=True)
class Ended:
    config: str
    """By which it serves: "old" or "new"."""
    outcome: str
    """"": the change was never journaled."""
    message: str
    seconds: float
    slowest: float
    failed: tuple[int, ...]
    """Statuses of the requests that were not answered."""


class Accidents:
    """`gateway`, whose agentd can be told to strike, and whose main LiteLLM refuses what it is told to."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.stack = gateway.stack
        self._refused = self.stack.home / ".litellm-refuses"
        self._plan = self.stack.home / ".agentd-fault"
        self._fired = self.stack.home / ".agentd-fault-fired"
        self._count = 0

    def install(self) -> None:
        stack, serve = self.stack, re.compile(r"(?m)^ExecStart=((?:.*\\\n)*.*)$")
        found = serve.search((stack.units / GATEWAY).read_text())
        assert found
        command = found[1].replace("\\\n", " ")
        refusing = f"[ -s {self._refused} ] && grep -qf {self._refused} {self.gateway.file} && exit 3"
        stack.dropin(
            GATEWAY, "96-refusing.conf", f"[Service]\nExecStart=\nExecStart=/bin/sh -c '{refusing}; exec {command}'\n"
        )
        agentd = f"{sys.executable} {FAULTY}"
        stack.dropin("agentd.service", "96-faulty.conf", f"[Service]\nExecStart=\nExecStart={agentd}\n")
        systemctl("daemon-reload")

    # -- one accident -----------------------------------------------------------------------------------------------

    def run(self, cut: Cut, aliased: Callable[[str], str]) -> Ended:
        """`aliased`: sources with an alias of that name, which the gateway does not serve yet."""
        self._count += 1
        alias = f"alias-{self._count}-"
        models = aliased(alias)
        agentd = self._prepare(cut, alias, models)
        began = time.monotonic()
        with load("qwen", pause=0.2) as seen:
            change = self._applied()
            until(self._fired.exists, QUIET, lambda: f"it did not come to {cut}: {self.gateway.journal()}")
            if A in cut.victims:
                until(lambda: self.stack.pid("agentd.service") not in (0, agentd))
                if cut.again:
                    time.sleep(2.0)  # Into its recovery, which tells nobody where it is.
                    self.stack.kill_agentd()
            self.quiet()
        ended = self._ended(change, alias, began, seen.slowest(), tuple(a.status for a in seen.failed))
        at = self._fired.read_text().split()[0]
        assert at == cut.step, f"{cut} came at {at}: {ended}"
        self._judged(cut, ended)
        return ended

    def _prepare(self, cut: Cut, alias: str, models: str) -> int:
        stack = self.stack
        self._fired.unlink(missing_ok=True)
        self._refused.write_text("" if cut.good else f"{alias}\n")
        stack.write_config("80-apply.toml", f'[gateway]\napply = "{cut.way}"\n')
        cgroups = {M: stack.cgroups / GATEWAY / "cgroup.procs", S: stack.cgroups / STANDBY / "cgroup.procs", A: A}
        victims = " ".join(str(cgroups[victim]) for victim in cut.victims)
        self._plan.write_text(f"litellm {cut.side} {cut.number} {cut.seconds:g} {victims}\n")
        self.gateway.write(models)
        stack.restart_agentd()
        assert not self._plan.exists()
        return stack.pid("agentd.service")

    def _applied(self) -> dict[str, Any] | None:
        try:
            return self.gateway.apply()
        except Unreachable:
            return None

    def _ended(
        self, change: dict[str, Any] | None, alias: str, began: float, slowest: float, failed: tuple[int, ...]
    ) -> Ended:
        known = {c["id"]: c for c in self.stack.client.get("/v1/changes?limit=100")["changes"]}
        last = known.get(change["id"]) if change is not None else None
        there = alias in self.gateway.file.read_text()
        assert ask("qwen").status == 200
        assert (alias in self.gateway.models()) == there
        outcome, message = (last["outcome"], last["message"]) if last is not None else ("", "")
        return Ended("new" if there else "old", outcome, message, time.monotonic() - began, slowest, failed)

    def _judged(self, cut: Cut, ended: Ended) -> None:
        if cut.side == "before" and cut.number == 1:
            assert (ended.outcome, ended.config) == ("", "old"), ended
        elif A in cut.victims:
            assert ended.outcome == "recovered", ended
            assert "could not" not in ended.message, ended
        else:
            assert ended.outcome in ("done", "rolled-back", "refused"), ended
            assert (ended.config == "new") == (ended.outcome == "done"), ended
        if not cut.good:
            assert ended.config == "old", ended
        assert set(ended.failed) <= set(ENDED_BADLY), ended
        assert not (cut.harmless and ended.failed), ended
        assert ended.slowest < 60.0, f"somebody waited without an end: {ended}"

    # -- quiet ------------------------------------------------------------------------------------------------------

    def quiet(self) -> None:
        """One LiteLLM serves, by the file; nothing is left over, and agentd says so."""
        until(lambda: not self.missing(), QUIET, lambda: f"{self.missing()}\n{self.gateway.journal()}")

    def missing(self) -> str:
        stack, gateway = self.stack, self.gateway
        if stack.open_changes():
            return "a change is open"
        if not gateway.rests() or stack.pids(STANDBY):
            return "there is a standby, or a candidate, or no gateway"
        if len(stack.pids("agentd.service")) != 1:
            return "agentd does not run, or not alone"
        header, state = parse_header(gateway.file.read_text()), running(stack)
        if header is None or not state:
            return "the gateway does not answer on its control socket"
        if state["pid"] != stack.pid(GATEWAY) or not state["shared"] or state["digest"] != header.digest:
            return f"another one runs than the file: {state}"
        try:
            status = gateway.look()
        except (Unreachable, OSError) as error:
            return f"agentd does not answer: {error}"
        return "" if status["state"] in ("ready", "stale") else f"agentd says {status['state']}: {status['summary']}"


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5.0)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def running(stack: Stack) -> dict[str, Any]:
    """What the main LiteLLM says of itself, asked past agentd; {} when it does not answer."""
    path = Path(os.environ["XDG_RUNTIME_DIR"], "agentd-gateway/litellm.sock")
    with contextlib.closing(_Unix(path)) as connection:
        try:
            connection.request("GET", "/agentd/state")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return {}
    return found
