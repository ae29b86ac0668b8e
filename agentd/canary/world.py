"""What the canary can try with files, devices, sockets and other processes. Like `acts`: a detail when it was allowed,
OSError when it was refused, Untried when it could not be tried, and nothing is changed.
"""

# ruff: noqa: PTH106, PTH116, PTH208
# pathlib is not worth its start time here.

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess

from agentd.canary.calls import Untried, last_error, libc

SECONDS = 3.0
"""For what may wait: a socket, systemd-run."""


def writable_mount(path: str) -> str:
    """Remove a directory that does not exist: a read-only mount says EROFS first, whatever the permissions."""
    if not stat.S_ISDIR(os.stat(path).st_mode):
        return write(path)
    try:
        os.rmdir(f"{path}/.agentd-canary-{os.urandom(8).hex()}")
    except FileNotFoundError:
        return "mounted writable"
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES):
            raise
        raise Untried(f"{path}: {error.strerror}") from None
    return ""


def write(path: str) -> str:
    return _access(path, os.W_OK)


def execute(path: str) -> str:
    return _access(path, os.X_OK)


def device(path: str) -> str:
    """Permission to open it, asked without opening it: some devices act on being opened."""
    return _access(path, os.R_OK | os.W_OK)


def _access(path: str, mode: int) -> str:
    library = libc()
    if library.access(os.fsencode(path), mode):
        raise last_error()
    return ""


def read(path: str) -> str:
    """A mode of 000 is what systemd puts in the place of what it hides."""
    found = os.stat(path)
    if not stat.S_IMODE(found.st_mode):
        raise OSError(errno.EACCES, "hidden")
    if stat.S_ISDIR(found.st_mode):
        return f"{len(os.listdir(path))} entries"
    if stat.S_ISREG(found.st_mode):
        os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        return ""
    if stat.S_ISSOCK(found.st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.settimeout(SECONDS)
            one.connect(path)
        return "connected"
    return _access(path, os.R_OK)


def exists(path: str) -> str:
    os.stat(path)
    return ""


def bus(path: str) -> str:
    """As far as the server's consent to who we are; from there every method could be called."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.settimeout(SECONDS)
        one.connect(path)
        identity = str(os.geteuid()).encode().hex().encode()
        one.sendall(b"\0AUTH EXTERNAL " + identity + b"\r\n")
        answer = one.recv(256)
    if not answer.startswith(b"OK"):
        raise OSError(errno.EACCES, answer.decode(errors="replace").strip())
    return "authenticated"


def systemd_run(arguments: str) -> str:
    """A process of the manager's, outside of this sandbox, that does nothing."""
    program = "/usr/bin/systemd-run"
    if not os.access(program, os.X_OK):
        raise Untried("no systemd-run program")
    name = f"--unit=agentd-canary-escape-{os.urandom(4).hex()}"
    argv = [program, *arguments.split(), "--quiet", "--collect", "--wait", name, "/bin/true"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Untried("systemd-run did not end in time") from None
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip()
        raise OSError(errno.EACCES, text.splitlines()[0] if text else f"exit status {done.returncode}")
    return "ran"


def notify(_: str) -> str:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        raise Untried("no NOTIFY_SOCKET")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.settimeout(SECONDS)
        one.connect("\0" + address[1:] if address.startswith("@") else address)
        one.send(b"STATUS=canary")
    return ""


def inet(kind: int, family: int = socket.AF_INET) -> socket.socket:
    """Without a socket there is nothing that an address or a port could be refused to."""
    try:
        return socket.socket(family, kind)
    except OSError as error:
        raise Untried(f"no socket: {error.strerror}") from None


def send_to(address: str) -> str:
    """A datagram to the port "discard" of an address of this machine. A packet filter answers at once."""
    with inet(socket.SOCK_DGRAM, socket.AF_INET6 if ":" in address else socket.AF_INET) as one:
        one.settimeout(SECONDS)
        try:
            one.sendto(b"", (address, 9))
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise
            raise Untried(f"{address}: {error.strerror}") from None
    return ""


def bind(port: str) -> str:
    with inet(socket.SOCK_STREAM) as one:
        try:
            one.bind(("127.0.0.1", int(port)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # which is found out after permission was given
                raise
    return ""


def signal_to(pid: str) -> str:
    """Signal 0 asks for the permission alone."""
    os.kill(int(pid), 0)
    return ""
