"""Who listens on a port, asked of the kernel by netlink.

/proc/net/tcp says the same, but the kernel walks its whole table of connections for every reader: 10 ms or more on a
machine with much memory, for which the loop would stand still. The dump of listening sockets alone takes 0.1 ms.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_LISTEN = 1 << 10
_HEADER = struct.Struct("=IHHII")
_QUERY = struct.Struct("=BBBxI")
"""Family, protocol, extensions, states; the address of the socket follows."""
_ADDRESS = struct.Struct("!HH16s16s")
"""Source port, destination port, source, destination; interface and cookie follow."""
_CREDENTIALS = struct.Struct("=iII")
_INODE_AT = 68
_MESSAGE_SIZE = 72
_TIMEOUT = 1.0


class Unavailable(Exception):
    """The kernel does not answer such questions here."""


def listeners(port: int) -> Iterator[tuple[bytes, int]]:
    """Address (4 or 16 bytes) and inode of every TCP socket that listens on the port, in our network namespace.

    Raises Unavailable.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(_TIMEOUT)
            for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
                netlink.send(_request(family, port))
                for message in _answers(netlink):
                    source_port, _, source, _ = _ADDRESS.unpack_from(message, 4)
                    if source_port == port:
                        yield source[:size], struct.unpack_from("=I", message, _INODE_AT)[0]
    except OSError as error:
        raise Unavailable(str(error)) from error


def unix_listener(path: str) -> int | None:
    """Pid of who listens on the unix socket, 0 when we may not know, None when nobody does. A local connect answers at
    once, whatever the server does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
            return int(_CREDENTIALS.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
        except (BlockingIOError, PermissionError):  # Its queue is full; it is another user's.
            return 0
        except (OSError, ValueError):
            return None


def _request(family: int, port: int) -> bytes:
    query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, _LISTEN) + _ADDRESS.pack(port, 0, b"", b"") + bytes(12)
    return _HEADER.pack(_HEADER.size + len(query), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 0, 0) + query


def _answers(netlink: socket.socket) -> Iterator[bytes]:
    """The messages of one dump without their headers."""
    while True:
        data = netlink.recv(65536)
        at = 0
        while at + _HEADER.size <= len(data):
            size, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if kind == _DONE:
                return
            if kind == _ERROR or size < _HEADER.size + _MESSAGE_SIZE:
                raise OSError("the kernel refused the question")
            yield data[at + _HEADER.size : at + size]
            at += (size + 3) & ~3
