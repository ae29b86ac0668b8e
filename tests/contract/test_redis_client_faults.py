"""The RedisAdmin port when things go wrong: every kind of error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redisclients import asking, free_port, peer, powerless, refused, running
from redisserver import RedisServer

from agentd.errors import AgentdError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path) as started:
        yield started


# -- nobody there -----------------------------------------------------------------------------------------------------
async def test_nobody_listens() -> None:
    for host in ("127.0.0.1", "localhost"):
        url = f"redis://{host}:{free_port()}"
        async with asking(url) as client:
            error = await refused(client.state(), "redis-unreachable")
            assert error.message == f"cannot ask {url}: connection refused"
            assert error.hint == "is Redis running, and is this its address?"


async def test_no_socket(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/redis.sock"
    async with asking(url) as client:
        error = await refused(client.config(["save"]), "redis-unreachable")
        assert error.message == f"cannot ask {url}: no such file or directory"
        (tmp_path / "redis.sock").write_text("")
        error = await refused(client.config(["save"]), "redis-unreachable")
        assert error.message == f"cannot ask {url}: connection refused"


async def test_a_socket_that_is_not_for_us(server: RedisServer) -> None:
    server.socket.chmod(0)
    async with asking(server.url) as client:
        with powerless():
            error = await refused(client.state(), "redis-unreachable")
        assert error.message == f"cannot ask {server.url}: permission denied"
        assert "unixsocketperm" in error.hint


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://no-such-host.invalid:6379", "the host name is unknown"),
        ("redis://" + "x" * 70 + ":6379", "that is no address to connect to"),
        ("http://127.0.0.1:1", "that is neither redis://HOST:PORT nor unix:///PATH"),
        ("redis://127.0.0.1:1?db=1", "that is neither redis://HOST:PORT nor unix:///PATH"),
    ],
)
async def test_no_address(url: str, words: str) -> None:
    async with asking(url) as client:
        error = await refused(client.state(), "redis-unreachable")
        assert error.message.endswith(f": {words}")


# -- not let in -------------------------------------------------------------------------------------------------------
async def test_passwords(tmp_path: Path) -> None:
    with running(tmp_path, "user agentd on >theirs +@all", password="right") as server:
        async with asking(server.url) as client:
            error = await refused(client.state(), "redis-auth")
            assert error.message == f"cannot ask {server.url}: it wants a password"
            assert "password_file" in error.hint
        async with asking(server.url, password="wrong") as client:
            error = await refused(client.state(), "redis-auth")
            assert error.message == f"cannot ask {server.url}: wrong password"
        async with asking(server.url, user="agentd", password="right") as client:
            error = await refused(client.state(), "redis-auth")
            assert error.message == f"cannot ask {server.url}: wrong password or user (agentd)"
        async with asking(server.url, password="right") as client:
            assert (await client.state()).pid == server.pid


async def test_a_password_where_none_is_wanted(server: RedisServer) -> None:
    async with asking(server.url, password="superfluous") as client:
        error = await refused(client.state(), "redis-auth")
        assert error.message.endswith("a password is configured here, but the server has none for its default user")


async def test_the_password_is_read_for_each_connection(tmp_path: Path) -> None:
    passwords = ["wrong", "right"]
    with running(tmp_path, password="right") as server:
        async with asking(server.url, password=lambda: passwords.pop(0)) as client:
            await refused(client.state(), "redis-auth")
            await client.state()
            await client.state()
    assert passwords == []


async def test_a_password_that_cannot_be_read(server: RedisServer) -> None:
    def source() -> str:
        raise AgentdError("redis-password", "cannot read the password in /x: permission denied")

    async with asking(server.url, password=source) as client:
        await refused(client.state(), "redis-password")


async def test_the_acl_refuses(tmp_path: Path) -> None:
    with running(tmp_path, "user agentd on nopass resetkeys +info +config|get +config|rewrite") as server:
        async with asking(server.url, user="agentd") as client:
            await client.state()
            error = await refused(client.set_config({"save": ""}), "redis-denied")
            assert error.message.startswith(f"{server.url} refuses CONFIG SET: ")
            assert "'config|set'" in error.message
            assert error.hint == "allow it in Redis's ACL: +config|set"
            assert (await refused(client.save(), "redis-denied")).hint == "allow it in Redis's ACL: +bgsave"
            assert await client.config(["port"]) == {"port": "0"}


async def test_a_renamed_command(tmp_path: Path) -> None:
    with running(tmp_path, 'rename-command CONFIG "hidden"\nrename-command BGSAVE ""') as server:
        async with asking(server.url) as client:
            await client.state()
            error = await refused(client.config(["save"]), "redis-unknown-command")
            assert error.message == f"{server.url} does not know CONFIG GET: it was renamed or switched off"
            await refused(client.set_config({"save": ""}), "redis-unknown-command")
            await refused(client.save(), "redis-unknown-command")
            await client.rewrite_aof()


async def test_no_file_to_rewrite(tmp_path: Path) -> None:
    with running(tmp_path, config_file=False) as server:
        async with asking(server.url) as client:
            assert (await client.state()).config_file == ""
            error = await refused(client.rewrite_config(), "redis-refused")
            assert error.message.endswith("refuses CONFIG REWRITE: The server is running without a config file")


async def test_no_room(tmp_path: Path) -> None:
    with running(tmp_path, port=free_port()) as server, server.client() as admin:
        admin.config_set("maxclients", 1)
        async with asking(server.url) as client:
            error = await refused(client.state(), "redis-refused")
            assert error.message.endswith("it has no room for another client (maxclients)")


async def test_protected_mode() -> None:
    async def deny(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-DENIED Redis is running in protected mode because protected mode is enabled and ...\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with peer(deny) as url, asking(url) as client:
        error = await refused(client.state(), "redis-denied")
        assert error.message == f"{url} refuses INFO: it is in protected mode"
