"""How long after a SIGKILL of a model's main process agentd's event stream says so, beside supervisord."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from figures import Goal, Row, Section
from rig import Rig, load_average, monotonic_ms, properties, say, unit_of, until

from agentd.client import default_socket

GOAL = 5.0
PEER, POLLED = "supervisord, its event listener is told", "supervisord, XML-RPC asked without a pause"
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
    kernel: list[float] = []
    theirs: list[float] = []
    polled: list[float] = []
    with _events(rig) as events, supervisord(peers, {"model": "/bin/sleep 1000000"}) as peer:
        for number in range(count):
            if number % 10 == 0:
                say(f"  death: {number} of {count}")
            told, reaped = _one(rig, events)
            ours.append(told)
            kernel.append(reaped)
            if peer is not None and number % 2 == 0:  # A round of theirs takes seconds.
                theirs.append(_peer_one(peer))
                polled.append(_peer_polled(peer))
    row = Row("agentd, told on /v1/events", tuple(ours))
    rows = [row, Row("the kernel itself, a pidfd of the bench", tuple(kernel))]
    rows += [Row(PEER, tuple(theirs)), Row(POLLED, tuple(polled))] if theirs else []
    goals = [Goal("SIGKILL of a model to its visibility in the API, median", row.median, GOAL)]
    notes = [
        "agentd's times begin with the kill of a server of 20 MB, supervisord's with that of a sleep of 1 MB",
        "supervisord pushes to event listeners from a loop that ticks each second; its XML-RPC answers sooner",
    ]
    notes = notes if theirs else ["supervisord: not measured, it is not installed"]
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
    """Milliseconds to the first word about the model, and to the kernel's own word."""
    pid = rig.pid(unit_of("qwen"))
    # Watched by agentd, and everything of the start before is over.
    until(lambda: (s := rig.service("qwen"))["main_pid"] == pid and s["health"] == "ready", "a ready model")
    time.sleep(0.2)
    last = rig.client.get("/v1/events?limit=1")["events"][-1]["seq"]
    with _Reaper(pid) as reaper:
        begun = monotonic_ms()
        os.kill(pid, signal.SIGKILL)
        while True:
            at, event = events.next()
            if int(str(event["seq"])) > last and event["subject"] == "qwen":
                break
    until(lambda: properties(unit_of("qwen"), "MainPID")["MainPID"] not in ("0", str(pid)), "a restart")
    return at - begun, reaper.at - begun


class _Reaper(threading.Thread):
    """Notes when a process's pidfd says that it has ended."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._fd = os.pidfd_open(pid)
        self.at = 0.0

    def run(self) -> None:
        select.select([self._fd], [], [], 30.0)
        self.at = monotonic_ms()

    def __enter__(self) -> _Reaper:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()
        os.close(self._fd)


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


def _peer_polled(peer: Peer) -> float:
    """The state as XML-RPC tells it, asked again and again: each request wakes supervisord's loop."""
    pid = peer_pids[0]
    time.sleep(0.2)
    body = (
        "<?xml version='1.0'?><methodCall><methodName>supervisor.getProcessInfo</methodName><params><param><value>"
        "<string>model</string></value></param></params></methodCall>"
    )
    head = f"POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    told = 0.0
    begun = monotonic_ms()
    os.kill(pid, signal.SIGKILL)
    while not told:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(peer.conf.with_name("supervisor.sock")))
            connection.sendall((head + body).encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
        if b"<name>pid</name>" in answer and f"<int>{pid}</int>".encode() not in answer:
            told = monotonic_ms() - begun
    while True:
        _, kind, about = peer.next()
        if kind == "PROCESS_STATE_RUNNING" and about not in (0, pid):
            peer_pids[0] = about
            return told
