"""How long after a SIGKILL of a model's main process agentd's event stream says so, beside supervisord."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from figures import Goal, Row, Section
from rig import Rig, load_average, monotonic_ms, properties, say, unit_of, until

from agentd.client import default_socket

GOAL = 5.0
PEER = "supervisord's event listener"
_CONF = """\
[supervisord]
nodaemon=true
logfile={dir}/supervisord.log
pidfile={dir}/supervisord.pid
childlogdir={dir}

[unix_http_server]
file={dir}/supervisor.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{dir}/supervisor.sock

[eventlistener:watch]
command={python} -IS {listener} {dir}/news
events=PROCESS_STATE
stderr_logfile={dir}/listener.err
"""
_PROGRAM = """
[program:{name}]
command={command}
startsecs=0
autorestart=true
stopwaitsecs=2
"""


def measure(rig: Rig, peers: Path, count: int) -> list[Section]:
    rig.install(extra=False, load_seconds=0.0, restart="RestartSec=50ms")
    rig.start_agentd("qwen")
    ours: list[float] = []
    named: list[float] = []
    theirs: list[float] = []
    with _events(rig) as events, supervisord(peers, {"model": "/bin/sleep 1000000"}) as peer:
        for number in range(count):
            if number % 10 == 0:
                say(f"  death: {number} of {count}")
            first, health = _one(rig, events)
            ours.append(first)
            named.append(health)
            if peer is not None:
                theirs.append(_peer_one(peer))
    first_row = Row("agentd, first word on /v1/events", tuple(ours))
    rows = [first_row, Row("agentd, health failed on /v1/events", tuple(named))]
    rows += [Row(PEER, tuple(theirs))] if theirs else []
    goals = [Goal("SIGKILL of a model to its visibility in the API, median", first_row.median, GOAL)]
    notes = [] if theirs else ["supervisord: not measured, it is not installed"]
    return [Section("SIGKILL of a main process until it is told", rows, goals, notes, load_average())]


class Feed:
    """Server-sent events read from the raw socket, each with the time at which its bytes came."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""

    def next(self) -> tuple[float, dict[str, object]]:
        while True:
            while b"\n\n" not in self._buffer:
                data = self._socket.recv(65536)
                self._at = monotonic_ms()
                if not data:
                    raise SystemExit("bench: the event stream ended")
                self._buffer += data
            block, _, self._buffer = self._buffer.partition(b"\n\n")
            for line in block.split(b"\n"):
                if line.startswith(b"data: "):
                    return self._at, json.loads(line[6:])

    _at = 0.0


@contextlib.contextmanager
def _events(rig: Rig) -> Iterator[Feed]:
    last = rig.client.get("/v1/events?limit=1")["events"][-1]["seq"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(default_socket())
        path = f"/v1/events?follow=1&limit=1000&after={last}"
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise SystemExit(f"bench: no event stream: {head[:80]!r}")
        yield Feed(connection)


def _one(rig: Rig, events: Feed) -> tuple[float, float]:
    """Milliseconds to the first word about the model, and to the word that its health is failed."""
    pid = rig.pid(unit_of("qwen"))
    # Watched by agentd, and everything of the start before is over.
    until(lambda: (s := rig.service("qwen"))["main_pid"] == pid and s["health"] == "ready", "a ready model")
    last = rig.client.get("/v1/events?limit=1")["events"][-1]["seq"]
    time.sleep(0.2)
    begun = monotonic_ms()
    os.kill(pid, signal.SIGKILL)
    first = health = 0.0
    while not (first and health):
        at, event = events.next()
        if int(str(event["seq"])) <= last or event["subject"] != "qwen":
            continue
        first = first or at - begun
        if event["kind"] == "service.health" and "failed" in str(event["data"]):
            health = at - begun
    until(lambda: properties(unit_of("qwen"), "MainPID")["MainPID"] not in ("0", str(pid)), "a restart")
    return first, health


# -- supervisord ------------------------------------------------------------------------------------------------------


class Peer:
    def __init__(self, folder: Path, peers: Path, news: socket.socket) -> None:
        self.conf = folder / "supervisord.conf"
        self.ctl = [str(peers / "supervisorctl"), "-c", str(self.conf)]
        self._news = news

    def next(self) -> tuple[float, str, int]:
        """When the listener was told, of what, and the pid that it is about."""
        at, kind, pid = self._news.recv(4096).decode().split()
        return float(at), kind, int(pid)


@contextlib.contextmanager
def supervisord(peers: Path, programs: dict[str, str]) -> Iterator[Peer | None]:
    """A supervisord with these programs running, or None where it is not installed."""
    if not (peers / "supervisord").exists():
        yield None
        return
    folder = Path.home() / "supervisor"
    folder.mkdir(exist_ok=True)
    (folder / "news").unlink(missing_ok=True)
    listener = Path(__file__).with_name("listener.py")
    text = _CONF.format(dir=folder, python=sys.executable, listener=listener)
    text += "".join(_PROGRAM.format(name=name, command=command) for name, command in programs.items())
    (folder / "supervisord.conf").write_text(text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news:
        news.settimeout(30)
        news.bind(str(folder / "news"))
        argv = [str(peers / "supervisord"), "-c", str(folder / "supervisord.conf")]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                peer = Peer(folder, peers, news)
                running: set[int] = set()
                while len(running) < len(programs):
                    _, kind, pid = peer.next()
                    if kind == "PROCESS_STATE_RUNNING" and pid:
                        running.add(pid)
                peer_pids[:] = sorted(running)
                yield peer
            finally:
                process.terminate()
                process.wait(30)


peer_pids: list[int] = []
"""Of the programs that run now."""


def _peer_one(peer: Peer) -> float:
    pid = peer_pids[0]
    time.sleep(0.2)
    begun = monotonic_ms()
    os.kill(pid, signal.SIGKILL)
    told = 0.0
    while True:
        at, kind, about = peer.next()
        if kind == "PROCESS_STATE_EXITED" and about == pid:
            told = at - begun
        elif kind == "PROCESS_STATE_RUNNING" and told:
            peer_pids[0] = about
            return told
