"""Servers that refuse, hang, load, follow another or are none: agentd says so, loses nothing, and goes on by itself as
soon as the cause is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redisclients import bulk, free_port, peer, running, scripted
from redisrig import Life, Rig, aside
from redisserver import RedisServer

from agentd.adapters.redis import RedisClient
from agentd.errors import AgentdError, ConflictError
from agentd.managers.redis import heal
from agentd.stores import Durability, StoreStatus
from agentd.types import ExitCode, Outcome

VALKEY = Path(__file__).parents[2] / ".cache/valkey/valkey-server"
PRODUCTS = ["redis-server", *([str(VALKEY)] if VALKEY.exists() else [])]
"""Valkey, too, once tests/integration/install_valkey has run."""
KEYS = 500
RDB_ONLY = "appendonly no\nsave 3600 1"
OFTEN = 0.2
"""Seconds between two looks and two repairs, instead of half a minute and a minute."""
ALL = "+info +config|get +config|set +config|rewrite +bgsave +bgrewriteaof"
STEPS = ("line 6: appendonly no -> yes", "line 7: save 3600 1 -> 3600 1 300 100 60 10000")


@pytest.fixture(autouse=True)
def nothing_unforeseen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No traceback in any log."""
    monkeypatch.setattr(heal, "FIRST", OFTEN)
    caplog.set_level(logging.DEBUG)
    yield
    assert [r.getMessage() for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR] == []


@pytest.fixture(params=PRODUCTS, ids=lambda program: Path(program).name)
def product(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def serving(tmp_path: Path, conf: str = RDB_ONLY, **options: Any) -> Iterator[RedisServer]:
    """With data, in memory and on the disk."""
    with running(tmp_path / "redis", conf, **options) as server:
        server.seed(KEYS)
        with server.client() as client:
            client.save()
        yield server


@contextlib.asynccontextmanager
async def guarded(tmp_path: Path, server: RedisServer, *, timeout: float = 5.0, **policy: Any) -> AsyncIterator[Life]:
    rig = Rig(tmp_path / "agentd", server)
    rig.connect = lambda target: RedisClient(target, timeout=timeout)
    async with rig.running(**{"check_every": OFTEN, **policy}) as life:
        yield life


async def seen(life: Life, durability: Durability) -> StoreStatus:
    return await life.until(lambda s: s.durability is durability and not s.enforcing)


def cause(status: StoreStatus, aspect: str) -> tuple[str, str]:
    """(what is wrong, what to do) of the one finding of this aspect."""
    (found,) = (f for f in status.findings if f.aspect == aspect)
    return found.cause, found.fix


async def refused(life: Life, message: str, hint: str = "") -> None:
    """An enforcement that somebody asks for says why it does nothing."""
    change = None
    while change is None:
        with contextlib.suppress(ConflictError):  # One that the watcher began.
            change = await life.enforce()
        await asyncio.sleep(0.01)
    assert (change.outcome, change.exit_code) == (Outcome.REFUSED, ExitCode.REFUSED), change.message
    assert (change.message, change.cause) == (message, hint)


async def whole(life: Life, server: RedisServer, keys: int = KEYS) -> None:
    """Durable, and proven by a restart."""
    await life.durable()
    await aside(server.restart)
    assert (server.keys(), server.get("appendonly")) == (keys, "yes")
    await life.durable()


def password(tmp_path: Path, text: str) -> str:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text(f"{text}\n")
    return str(path)


# -- it does not let us ------------------------------------------------------------------------------------------------
async def test_no_permission_for_config(tmp_path: Path, product: str) -> None:
    conf = f"{RDB_ONLY}\nuser agentd on >pw resetkeys +info +bgsave"
    with serving(tmp_path, conf, executable=product) as server:
        async with guarded(tmp_path, server, user="agentd", password_file=password(tmp_path, "pw")) as life:
            status = await seen(life, Durability.AT_RISK)
            who = addressed(server)
            words = f"{server.url} refuses CONFIG GET: {who} has no permissions to run the 'config|get' command"
            what, fix = cause(status, "settings")
            assert what == f"the settings cannot be read: {words}"
            assert fix == f"give agentd's ACL user {' '.join(ALL.split()[1:])} +info"
            reason = f"its settings can neither be read nor set: {words}"
            assert (await life.actions.plan(life.manager.store(""))).refusals == (reason,)
            await refused(life, f"nothing was changed: {reason}")
            assert status.runtime is None
            with server.client() as admin:
                admin.execute_command("ACL", "SETUSER", "agentd", *ALL.split())
            await life.durable()
            assert server.keys() == KEYS


@pytest.mark.parametrize("name", ['""', "another"], ids=["off", "renamed"])
async def test_config_is_not_there(tmp_path: Path, name: str) -> None:
    with serving(tmp_path, f"{RDB_ONLY}\nrename-command CONFIG {name}") as server:
        async with guarded(tmp_path, server) as life:
            status = await seen(life, Durability.AT_RISK)
            words = f"{server.url} does not know CONFIG GET: it was renamed or switched off"
            what, fix = cause(status, "settings")
            assert what == f"the settings cannot be read: {words}"
            assert fix.startswith("take rename-command CONFIG out of the server's configuration file")
            await refused(life, f"nothing was changed: its settings can neither be read nor set: {words}")
            text = server.config_file.read_text()
            server.config_file.write_text(text.replace(f"rename-command CONFIG {name}\n", ""))
            await aside(server.restart)
            await whole(life, server)


async def test_a_wrong_password(tmp_path: Path, product: str) -> None:
    with serving(tmp_path, password="right", executable=product) as server:
        async with guarded(tmp_path, server, password_file=password(tmp_path, "wrong")) as life:
            status = await seen(life, Durability.UNREACHABLE)
            assert status.summary == f"cannot ask {server.url}: wrong password"
            hint = "see user, password_file and password_credential of the store"
            assert cause(status, "server") == (status.summary, hint)
            await refused(life, f"cannot ask {server.url}: wrong password", hint)
            password(tmp_path, "right")
            await whole(life, server)


async def test_no_password_and_one_too_many(tmp_path: Path) -> None:
    with serving(tmp_path, password="right") as server:
        async with guarded(tmp_path, server) as life:
            assert (await seen(life, Durability.UNREACHABLE)).summary == (
                f"cannot ask {server.url}: it wants a password"
            )
            with server.client() as admin:
                admin.config_set("requirepass", "")
            server.password = ""
            await life.durable()
    with serving(tmp_path / "other") as server:
        async with guarded(tmp_path / "other", server, password_file=password(tmp_path, "none")) as life:
            status = await seen(life, Durability.UNREACHABLE)
            assert status.summary == (
                f"cannot ask {server.url}: a password is configured here, but the server has none for its default user"
            )


@pytest.mark.parametrize("missing", ["info", "bgsave", "config|set"])
async def test_rights_that_are_too_narrow(tmp_path: Path, missing: str) -> None:
    rights = [right for right in ALL.split() if right != f"+{missing}"]
    conf = f"{RDB_ONLY}\nuser agentd on >pw resetkeys {' '.join(rights)}"
    with serving(tmp_path, conf) as server:
        async with guarded(tmp_path, server, user="agentd", password_file=password(tmp_path, "pw")) as life:
            status = await seen(life, Durability.UNREACHABLE if missing == "info" else Durability.AT_RISK)
            command = missing.replace("|", " ").upper()
            words = (
                f"{server.url} refuses {command}: {addressed(server)} has no permissions to run the '{missing}' command"
            )
            await refused(life, words, f"allow it in Redis's ACL: +{missing}")
            assert (server.get("appendonly"), server.get("save")) == ("no", "3600 1")
            if missing == "info":
                assert cause(status, "server") == (words, "allow it in Redis's ACL: +info")
            with server.client() as admin:
                admin.execute_command("ACL", "SETUSER", "agentd", f"+{missing}")
            await life.durable()
            assert server.keys() == KEYS


def addressed(server: RedisServer) -> str:
    """How its refusals begin: since Redis 7.2, which Valkey continues, with the name."""
    major, minor = server.info("redis_version").split(".")[:2]
    return "User agentd" if (int(major), int(minor)) >= (7, 2) else "this user"


# -- it is not ready ---------------------------------------------------------------------------------------------------
async def test_a_replica(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path / "master", "repl-diskless-sync-delay 0", port=port) as master, serving(tmp_path) as server:
        master.seed(7)
        with server.client() as admin:
            admin.replicaof("127.0.0.1", port)
        async with guarded(tmp_path, server) as life:
            status = await life.until(lambda s: any(f.aspect == "role" for f in s.findings))
            what = "it is a replica: its data is its master's, so agentd changes nothing here"
            assert cause(status, "role")[0] == what
            await life.until(lambda s: s.state is not None and not s.state.loading and s.state.keys == 7)
            reason = "the server is a replica (its role is slave): set the policy on its master"
            await refused(life, f"nothing was changed: {reason}")
            assert (server.get("appendonly"), server.get("save")) == ("no", "3600 1")
            with server.client() as admin:
                admin.execute_command("REPLICAOF", "NO", "ONE")
            await life.durable()
            assert server.keys() == 7


async def test_loading(tmp_path: Path, product: str) -> None:
    with serving(tmp_path, executable=product) as server:
        server.stop()
        slow = "key-load-delay 4000\nloading-process-events-interval-bytes 1024"
        server.config_file.write_text(f"{server.config_file.read_text()}{slow}\n")
        server.start(wait=False)
        async with guarded(tmp_path, server) as life:
            status = await life.until(lambda s: s.state is not None and s.state.loading)
            assert (status.durability, status.summary) == (Durability.UNKNOWN, "it is loading its data")
            assert {f.aspect for f in status.findings} == {"file:appendonly", "file:save"}, "only what is on the disk"
            await refused(life, "nothing was changed: its settings can neither be read nor set: it is loading its data")
            assert life.told("redis.data-loss") == []
            await life.durable()
            assert server.keys() == KEYS


async def test_it_hangs(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with guarded(tmp_path, server, timeout=0.3) as life:
            await life.durable()
            os.kill(server.pid, signal.SIGSTOP)
            assert (await seen(life, Durability.UNREACHABLE)).summary == (
                f"cannot ask {server.url}: no answer within 0.3 s"
            )
            words, hint = f"cannot ask {server.url}: no answer within 0.3 s", "it hangs, or is stopped, or the machine"
            await refused(life, words, f"{hint} is too busy")
            os.kill(server.pid, signal.SIGCONT)
            await whole(life, server)


async def test_it_hangs_in_the_middle_of_an_enforcement(tmp_path: Path) -> None:
    """The file still says what the disk can keep."""
    with serving(tmp_path) as server:
        server.set(rdb_key_save_delay="2000")
        async with guarded(tmp_path, server, timeout=0.3) as life:
            await life.until(lambda _: server.info("aof_rewrite_in_progress") == "1")
            os.kill(server.pid, signal.SIGSTOP)
            await seen(life, Durability.UNREACHABLE)
            assert "appendonly no" in server.config_file.read_text()
            os.kill(server.pid, signal.SIGCONT)
            await whole(life, server)


async def test_unreachable_then_started(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", RDB_ONLY)
    async with guarded(tmp_path, server) as life:
        words = f"cannot ask {server.url}: no such file or directory"
        assert (await seen(life, Durability.UNREACHABLE)).problem == words
        await refused(life, words, "is Redis running, and is this its address?")
        with serving(tmp_path) as server:
            await whole(life, server)


# -- it is another thing -----------------------------------------------------------------------------------------------
async def test_no_redis_at_all(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", RDB_ONLY)
    async with peer(scripted(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n")) as url:
        server.port = int(url.rpartition(":")[2])
        async with guarded(tmp_path, server) as life:
            words = f"cannot ask {url}: what answers there is not Redis"
            assert (await seen(life, Durability.UNREACHABLE)).summary == words
            with pytest.raises(AgentdError, match="what answers there is not Redis"):
                await life.actions.plan(life.manager.store(""))
            await refused(life, words, "see the address of the store")


async def test_a_redis_that_is_too_old(tmp_path: Path) -> None:
    info = ("redis_version:6.0.16", "run_id:ab12", "process_id:1", "role:master", "loading:0", "aof_enabled:0")
    known, asked = {"appendonly": "no", "save": "3600 1", "dir": str(tmp_path)}, set()

    def answer(words: list[str]) -> bytes:
        asked.add(" ".join(words[:2]) if words[0] == "CONFIG" else words[0])
        if words[0] == "INFO":
            return bulk("# Server\r\n" + "\r\n".join(info) + "\r\n")
        if words[:2] != ["CONFIG", "GET"] or len(words) > 3:
            return b"-ERR wrong number of arguments\r\n"
        return b"*2\r\n" + bulk(words[2]) + bulk(known[words[2]]) if words[2] in known else b"*0\r\n"

    server = RedisServer(tmp_path / "redis", RDB_ONLY)
    async with peer(scripted(answer)) as url:
        server.port = int(url.rpartition(":")[2])
        async with guarded(tmp_path, server) as life:
            await seen(life, Durability.AT_RISK)
            await refused(life, "nothing was changed: Redis 6.0.16 is older than 7.0: upgrade it")
    assert asked == {"INFO", "CONFIG GET"}, "nothing but questions"


# -- and agentd itself -------------------------------------------------------------------------------------------------
async def test_stopped_at_the_moment_of_news(tmp_path: Path) -> None:
    """A watcher that is told to look and to end at once ends."""
    with serving(tmp_path) as server:
        for turns in range(6):
            rig = Rig(tmp_path / f"agentd-{turns}", server)
            life_of_agentd = rig.running(mode="report")
            life = await life_of_agentd.__aenter__()
            await life.verified()
            life.manager._watchers["redis"].hurry()
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await life_of_agentd.__aexit__(None, None, None)
