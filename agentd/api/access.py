"""Who may ask what, and over which door: the unix socket (its owner and root may act) or loopback TCP (read-only)."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from enum import StrEnum
from urllib.parse import urlsplit

from aiohttp import web

from agentd.errors import AgentdError

_UCRED = struct.Struct("iII")
SAFE_METHODS = frozenset({"GET", "HEAD"})


class Access(StrEnum):
    PUBLIC = "public"
    """Both doors; never changes anything and holds no secret."""
    LOCAL = "local"
    """Unix socket alone, its owner and root: reads that tell where things are."""
    OWNER = "owner"
    """Unix socket alone, its owner and root: whatever acts."""


def is_unix(request: web.BaseRequest) -> bool:
    sock = _socket(request)
    return sock is not None and sock.family == socket.AF_UNIX


def peer_uid(request: web.BaseRequest) -> int | None:
    """The uid at the other end of the unix socket, by the kernel's account; None over TCP."""
    sock = _socket(request)
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def check_door(request: web.BaseRequest) -> None:
    """Before routing: over TCP only reads, only by a loopback name (a page that rebinds DNS sends another)."""
    if is_unix(request):
        return
    if request.method not in SAFE_METHODS:
        hint = f"use the unix socket: curl --unix-socket $XDG_RUNTIME_DIR/agentd/agentd.sock -X {request.method} ..."
        raise AgentdError("read-only", f"cannot {request.method} {request.path}: TCP is read-only", hint=hint)
    host = request.headers.get("Host", "")
    if host and not _loopback_name(host):
        raise AgentdError("bad-host", f'refused: the Host header "{host[:100]}" is not a loopback name')


def check_access(request: web.BaseRequest, access: Access, owner: int) -> None:
    if access is Access.PUBLIC:
        return
    uid = peer_uid(request)
    if uid is None:
        raise AgentdError("local-only", f"cannot {request.method} {request.path}: only over the unix socket")
    if uid not in (owner, 0):
        who = f"uid {uid}"
        raise AgentdError("forbidden", f"cannot {request.method} {request.path}: {who} is neither the owner nor root")


def own_uid() -> int:
    return os.geteuid()


def _loopback_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _socket(request: web.BaseRequest) -> socket.socket | None:
    transport = request.transport
    return None if transport is None else transport.get_extra_info("socket")
