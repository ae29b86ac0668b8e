"""The HTTP API, doors: who may act, over which socket, and whose sockets they are."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from fakes.doors import serving
from fakes.operations import FakeOperations

from agentd.api import sockets
from agentd.api.routes import ROUTES
from agentd.api.server import ApiServer
from agentd.errors import AgentdError


async def test_tcp_is_read_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        for method, path in [(r.method, r.path) for r in ROUTES if r.method != "GET"]:
            code, body = await doors.tcp_json(method, re.sub(r"\{[^}]*\}", "x", path), data=b"{}")
            assert (code, body["kind"]) == (405, "read-only")
            assert "unix socket" in body["hint"]
        assert doors.ops.calls == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", "[::1", "localhost.evil"])
async def test_foreign_host_header_is_refused(tmp_path: Path, host: str) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.tcp_json("GET", "/v1/status", headers={"Host": host})
        assert (code, body["kind"]) == (403, "bad-host")


@pytest.mark.parametrize("host", ["localhost", "localhost:9775", "127.0.0.1:1", "[::1]:9775", "127.9.9.9"])
async def test_loopback_host_headers_are_taken(tmp_path: Path, host: str) -> None:
    async with serving(tmp_path) as doors:
        code, _ = await doors.tcp_json("GET", "/v1/slots", headers={"Host": host})
        assert code == 200


_AS_OTHER = """
import os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
for request in sys.argv[3:]:
    s = socket.socket(socket.AF_UNIX); s.connect(path)
    s.sendall(request.encode() + b" HTTP/1.0\\r\\nContent-Length: 0\\r\\n\\r\\n")
    print(s.makefile("rb").read().split(b"\\r\\n")[0].decode().split()[1])
"""


async def _as_uid(uid: int, path: Path, *requests: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _AS_OTHER, str(path), str(uid), *requests, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else to try")
async def test_only_owner_and_root_may_act(tmp_path: Path) -> None:
    requests = ("POST /v1/unload", "GET /v1/status", "GET /v1/config")
    owner, stranger = 61001, 61002
    async with serving(tmp_path, owner=owner) as doors:
        # The modes already keep others out; they are lifted so that the credentials are what decides.
        doors.path.chmod(0o666)
        for directory in (doors.path.parent, *[p for p in doors.path.parents if p.is_relative_to("/tmp")]):
            if directory != Path("/tmp"):
                directory.chmod(directory.stat().st_mode | 0o011)
        assert await _as_uid(stranger, doors.path, *requests) == ["403", "200", "403"]
        assert doors.ops.calls == []
        assert await _as_uid(owner, doors.path, *requests) == ["202", "200", "200"]
        assert await _as_uid(0, doors.path, *requests) == ["202", "200", "200"]


async def test_socket_is_private_and_taken_away(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        assert stat.S_IMODE(doors.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(doors.path.parent.stat().st_mode) == 0o700
    assert not doors.path.exists()


async def test_stale_socket_is_replaced_but_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agentd.sock"
    path.parent.mkdir()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    async with serving(tmp_path) as doors:
        second = ApiServer(doors.ops)
        with pytest.raises(AgentdError, match="another agentd listens") as refused:
            await second.start(unix=str(path))
        assert refused.value.kind == "already-running"
        assert (await doors.json("GET", "/v1/slots"))[0] == 200


async def test_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agentd.sock"
    path.write_text("mine")
    with pytest.raises(AgentdError, match="not a socket"):
        await ApiServer(FakeOperations()).start(unix=str(path))
    assert path.read_text() == "mine"


async def test_foreign_socket_survives_our_stop(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(doors.path))
    assert doors.path.exists()
    other.close()


async def test_sockets_of_systemd_are_served_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "activated.sock"
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(path))
    given.listen()
    api = ApiServer(FakeOperations())
    await api.start(unix=str(tmp_path / "other.sock"), listen="127.0.0.1:0", sockets=[given])
    try:
        assert not (tmp_path / "other.sock").exists()
        assert api.tcp_address is not None
        connector = aiohttp.UnixConnector(path=str(path))
        async with (
            aiohttp.ClientSession("http://localhost", connector=connector) as session,
            session.post("/v1/unload") as answer,
        ):
            assert answer.status == 202
    finally:
        await api.stop()
    assert path.exists()  # systemd's, not ours


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:80", "[::]:0"])
async def test_tcp_never_leaves_loopback(listen: str) -> None:
    with pytest.raises(AgentdError, match="not a loopback address"):
        sockets.tcp_socket(listen)


@pytest.mark.parametrize("listen", ["127.0.0.1", "host:1", "127.0.0.1:x", "127.0.0.1:99999"])
async def test_bad_listen_address_is_named(listen: str) -> None:
    with pytest.raises(AgentdError, match=re.escape(listen)):
        sockets.tcp_socket(listen)


async def test_taken_port_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with sockets.tcp_socket("127.0.0.1:0") as taken:
        port, path = taken.getsockname()[1], tmp_path / "agentd.sock"
        with pytest.raises(AgentdError, match=f"127.0.0.1:{port}: address already in use"):
            await ApiServer(FakeOperations()).start(unix=str(path), listen=f"127.0.0.1:{port}")
        assert not path.exists()


async def test_tcp_port_can_move_and_close(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        before = doors.api.tcp_address
        await doors.api.listen("127.0.0.2:0")
        after = doors.api.tcp_address
        assert after is not None
        assert after[0] == "127.0.0.2"
        assert before is not None
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*before)
        with pytest.raises(AgentdError):
            await doors.api.listen("192.0.2.1:1")
        assert doors.api.tcp_address == after
        await doors.api.listen("")
        assert doors.api.tcp_address is None
