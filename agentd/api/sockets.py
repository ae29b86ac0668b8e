"""The two listening sockets. A stale unix socket is removed only when nobody listens on it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from agentd.errors import AgentdError

BACKLOG = 128


class UnixListener:
    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._identity: tuple[int, int] | None = None

    def open(self) -> socket.socket:
        """Bound and listening, for the owner alone. Raises AgentdError("already-running") or ("listen-failed")."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self._path.with_suffix(".lock")):
                self._clear()
                return self._bind()
        except OSError as error:
            raise _failed(str(self._path), error) from error

    def remove(self) -> None:
        """Take the path away again, unless somebody else's socket is there by now."""
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._identity:
                self._path.unlink()

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.bind(str(self._path))
            # Nobody can connect before listen(), so the mode is right in time.
            self._path.chmod(0o600)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        self._identity = _identity(self._path)
        return sock

    def _clear(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise AgentdError("listen-failed", f"cannot listen on {self._path}: there is a file that is not a socket")
        if _answers(self._path):
            hint = "see: systemctl --user status agentd"
            raise AgentdError("already-running", f"another agentd listens on {self._path}", hint=hint)
        self._path.unlink()


def tcp_socket(address: str) -> socket.socket:
    """A listening socket for "host:port"; only a loopback address is taken. Raises AgentdError("listen-failed")."""
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
        number = int(port)
    except ValueError:
        raise AgentdError("listen-failed", f'cannot listen on "{address}": expected "127.0.0.1:PORT"') from None
    if not ip.is_loopback:
        raise AgentdError("listen-failed", f"cannot listen on {address}: not a loopback address")
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(ip), number))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        raise _failed(address, error) from error
    return sock


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two daemons that start at once do not take each other's socket for a stale one."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        # A full backlog (EAGAIN) is a listener too; only a refusal says that there is none.
        return probe.connect_ex(str(path)) != errno.ECONNREFUSED


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _failed(where: str, error: Exception) -> AgentdError:
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return AgentdError("listen-failed", f"cannot listen on {where}: {reason}")
