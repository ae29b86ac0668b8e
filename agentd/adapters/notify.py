"""sd_notify, the watchdog and socket activation. Everything is a no-op when systemd did not start us."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

logger = logging.getLogger(__name__)

_FIRST_FD = 3


class SystemdNotifier:
    """The Notifier port. Takes its variables out of the environment, so that children do not speak for us."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self.watchdog_period = _period(environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", ""))
        self._socket: socket.socket | None = None
        self._unsent: list[str] = []

    def ready(self) -> None:
        self._send("READY=1", keep=True)

    def status(self, text: str) -> None:
        self._send("STATUS=" + " ".join(text.split()))

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", keep=True)

    def stopping(self) -> None:
        self._send("STOPPING=1", keep=True)

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str, *, keep: bool = False) -> None:
        """A manager that does not read must not stop our loop: what it has to know is kept for the next message."""
        if not self._address:
            return
        lines = [*self._unsent, text]
        try:
            if self._socket is None:
                self._socket = _connect(self._address)
            self._socket.send("\n".join(lines).encode())
        except BlockingIOError:
            if keep:
                self._unsent = lines
            return
        except OSError as error:
            logger.warning("cannot notify systemd at %s: %s", self._address, error.strerror or error)
            self.close()
            return
        self._unsent = []


def _connect(address: str) -> socket.socket:
    """A path, or "@name" for an abstract socket."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        connected.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        connected.close()
        raise
    return connected


def _period(usec: str, pid: str) -> float | None:
    """Half of the watchdog's time; None when it is off or meant for another process."""
    if not usec.isdigit() or int(usec) == 0:
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(usec) / 2e6


def listen_sockets(environ: MutableMapping[str, str] | None = None) -> dict[str, list[socket.socket]]:
    """Sockets that systemd opened for us, by their FileDescriptorName=; empty when there are none."""
    environ = os.environ if environ is None else environ
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, list[socket.socket]] = {}
    for index in range(int(count)):
        name = names[index] if index < len(names) and names[index] else "unknown"
        try:
            received = socket.socket(fileno=_FIRST_FD + index)
        except OSError as error:
            logger.warning("passed file descriptor %d (%s) is no socket: %s", _FIRST_FD + index, name, error.strerror)
            continue
        os.set_inheritable(received.fileno(), False)
        received.setblocking(False)
        found.setdefault(name, []).append(received)
    return found
