"""sd_notify over real datagram sockets, and sockets handed over by systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agentd.adapters.notify import SystemdNotifier, listen_sockets

MANY = 5_000
"""Messages: the sender's buffer holds some 300, whatever the queue may hold (net.unix.max_dgram_qlen)."""


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The manager's end and the address that it announces."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@agentd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        end.settimeout(2)
        yield end, address


def drain(end: socket.socket) -> Iterator[bytes]:
    end.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            yield end.recv(4096)


def test_messages(manager: tuple[socket.socket, str]) -> None:
    end, address = manager
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = SystemdNotifier(environ)
    assert environ == {}, "children must not speak for us"
    assert notifier.watchdog_period == 1.5
    notifier.ready()
    assert end.recv(4096) == b"READY=1"
    notifier.status("qwen is\nready")
    assert end.recv(4096) == b"STATUS=qwen is ready"
    notifier.reloading()
    first, second = end.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    assert second.partition("=")[2].isdigit()
    notifier.watchdog()
    assert end.recv(4096) == b"WATCHDOG=1"
    notifier.stopping()
    assert end.recv(4096) == b"STOPPING=1"
    notifier.close()


def test_full_queue_does_not_block_and_loses_no_state(manager: tuple[socket.socket, str]) -> None:
    end, address = manager
    notifier = SystemdNotifier({"NOTIFY_SOCKET": address})
    for _ in range(MANY):
        notifier.watchdog()
    notifier.ready()
    received = list(drain(end))
    assert 0 < len(received) < MANY
    assert set(received) == {b"WATCHDOG=1"}
    notifier.watchdog()
    assert end.recv(4096) == b"READY=1\nWATCHDOG=1"
    notifier.close()


def test_nobody_listens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "none")})
    notifier.ready()
    assert "cannot notify systemd" in caplog.text


def test_not_under_systemd() -> None:
    notifier = SystemdNotifier({})
    notifier.ready()
    notifier.watchdog()
    assert notifier.watchdog_period is None


@pytest.mark.parametrize(
    ("usec", "pid", "period"),
    [("2000000", "", 1.0), ("2000000", "1", None), ("0", "", None), ("x", "", None), ("", "", None)],
)
def test_watchdog_period(usec: str, pid: str, period: float | None) -> None:
    assert SystemdNotifier({"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}).watchdog_period == period


RECEIVER = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
from agentd.adapters.notify import listen_sockets
found = listen_sockets()
print({name: [s.getsockname()[1] for s in group] for name, group in found.items()})
print(all(not s.getblocking() and not s.get_inheritable() for group in found.values() for s in group))
print("LISTEN_FDS" in os.environ)
for group in found.values():
    for s in group: s.close()
"""


def test_sockets_from_systemd() -> None:
    """In a process of its own, with descriptors 3, 4 and 5 as systemd would pass them."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [listener.getsockname()[1] for listener in (one, two)]
        script = f'exec {sys.executable} -c "$0" 3<&{one.fileno()} 4<&{two.fileno()} 5</dev/null'
        done = subprocess.run(
            ["/bin/bash", "-c", script, RECEIVER],
            pass_fds=(one.fileno(), two.fileno()),
            env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "http:http:junk"},
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    assert done.stdout.splitlines() == [str({"http": ports}), "True", "False"]
    assert "(junk) is no socket" in done.stderr


def test_sockets_meant_for_another_process() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert listen_sockets(environ) == {}
    assert environ == {}
    assert listen_sockets({}) == {}
