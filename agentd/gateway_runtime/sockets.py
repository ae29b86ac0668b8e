"""The sockets: those that systemd hands over, one of our own, and the control socket."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

from .ending import Refusal

FIRST = 3
CONTROL_MODE = 0o600


def inherited(environ: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """The listening sockets of socket activation; [] when there are none. Its variables are taken out."""
    environ = os.environ if environ is None else environ
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for fd in range(FIRST, FIRST + int(count)):
        try:
            one = socket.socket(fileno=fd)
        except OSError as error:
            raise Refusal(f"cannot use descriptor {fd} from systemd: {error.strerror}") from None
        one.setblocking(False)
        one.set_inheritable(False)
        found.append(one)
    return found


def bound(host: str, port: int) -> socket.socket:
    """A TCP socket of our own, not listening yet. Raises Refusal when the port is taken: no other one is tried."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
    except OSError as error:
        raise Refusal(f"cannot listen on {name(host, port)}: {error.strerror}") from None
    own = socket.socket(family, kind, protocol)
    try:
        # Without it the connections of the process before us would keep the port for a minute.
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(address)
    except OSError as error:
        own.close()
        raise taken(error, host, port) from None
    own.setblocking(False)
    return own


def taken(error: OSError, host: str, port: int) -> Refusal:
    if error.errno == errno.EADDRINUSE:
        return Refusal(f"cannot listen on {name(host, port)}: another process has the port")
    return Refusal(f"cannot listen on {name(host, port)}: {error.strerror or error}")


def name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def describe(one: socket.socket) -> str:
    """ "127.0.0.1:4001", or the path of a unix socket."""
    address = one.getsockname()
    return name(address[0], address[1]) if isinstance(address, tuple) else os.fsdecode(address)


def control(path: str) -> socket.socket:
    """The control socket, bound, for this user alone. One that a dead process left is replaced."""
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(Path(path).lstat().st_mode):
                raise Refusal(f"cannot make the control socket {path}: something else is there")
            if _answers(path):
                raise Refusal(f"cannot make the control socket {path}: another process answers on it")
            Path(path).unlink()
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o777 & ~CONTROL_MODE)
        try:
            own.bind(path)
        finally:
            os.umask(before)
    except OSError as error:
        raise Refusal(f"cannot make the control socket {path}: {error.strerror or error}") from None
    own.setblocking(False)
    return own


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def remove(path: str, inode: int) -> None:
    """The control socket, if it is still ours."""
    with contextlib.suppress(OSError):
        if Path(path).stat().st_ino == inode:
            Path(path).unlink()
