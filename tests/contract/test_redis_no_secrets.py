"""A whole life of a store with passwords everywhere: none of them is anywhere but in the files that hold it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redisclients import running
from redisrig import Life, Rig, aside
from redisserver import RedisServer

from agentd.errors import AgentdError
from agentd.metrics.exposition import Exposition
from agentd.metrics.view import MetricsView
from agentd.stores import Durability
from agentd.types import Outcome
from agentd.wire import plain

KEYS = 200
OURS, OTHERS, MASTER = "hunter2-Ours-7f3a", "hunter3-Others-91bc", "hunter4-Master-55de"
WRONG = "hunter5-Wrong-0042"
SECRETS = (OURS, OTHERS, MASTER, WRONG)
CONF = f"""appendonly no
save 3600 1
masterauth {MASTER}
user agentd on >{OURS} resetkeys +info +config|get +config|set +config|rewrite +bgsave +bgrewriteaof
user other on >{OTHERS} ~* +@all
enable-debug-command yes"""


class Children:
    """Arguments and environment of every process below this one, seen again and again meanwhile."""

    def __init__(self) -> None:
        self.text = ""
        self.seen: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Children:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.002):
            for task in Path("/proc/self/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    for pid in task.read_text().split():
                        self._look(Path("/proc") / pid)

    def _look(self, process: Path) -> None:
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                words = (process / name).read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words not in self.seen:
                    self.seen.add(words)
                    self.text += f"{words}\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path / "redis", CONF, password=OTHERS) as made:
        made.seed(KEYS)
        with made.client() as client:
            client.save()
        yield made


def store_password(tmp_path: Path, text: str) -> str:
    path = tmp_path / "credentials" / "redis"
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(f"{text}\n")
    return str(path)


def told(life: Life) -> str:
    """All that anybody gets to see: status, events and changes by the API, and the metrics."""
    view = MetricsView("1", 0.0, True, stores=tuple(life.manager.statuses()), now=1e9)
    kept = [plain(life.manager.statuses()), plain(life.events.recent(1000))]
    return "\n".join([json.dumps(kept), repr(life.manager.statuses()), Exposition(lambda: view).render("")[1].decode()])


async def ended(life: Life, what: str) -> str:
    """The change of one action, followed to its end, as the API shows it."""
    store = life.manager.store("")
    while True:
        try:
            if what == "enforce":
                _, task = await life.actions.enforce(store)
            elif what == "drill":
                _, task = await life.actions.drill(store)
            else:
                _, task = await life.actions.backup(store, "", None)
        except AgentdError as error:
            if error.kind != "conflict":
                return json.dumps([error.kind, error.message, error.hint])
            await asyncio.sleep(0.01)
        else:
            return json.dumps(plain(await task))


@pytest.mark.parametrize("by", ["file", "credential"])
async def test_no_secret_leaves_its_file(
    tmp_path: Path, server: RedisServer, by: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    path = store_password(tmp_path, OURS)
    source = {"password_file": path} if by == "file" else {"password_credential": "redis"}
    text, rig = "", Rig(tmp_path / "agentd", server)
    with Children() as children:
        async with rig.running(user="agentd", check_every=0.2, **source) as life:
            text += json.dumps(plain(await life.actions.plan(life.manager.store(""))))
            await life.durable()
            for what in ("enforce", "drill", "backup"):
                found = await ended(life, what)
                assert json.loads(found)["outcome"] in (Outcome.DONE, Outcome.ALREADY), found
                text += found
            text += told(life) + json.dumps(plain(await life.verified()))
            server.config_file.write_text(
                f"{server.config_file.read_text()}maxmemory-policy\nuser third on >{OTHERS}\n"
            )
            text += json.dumps(plain(await life.verified()))
            store_password(tmp_path, WRONG)
            with server.client() as admin:
                admin.execute_command("CLIENT", "KILL", "USER", "agentd")
            await life.until(lambda s: s.durability is Durability.UNREACHABLE)
            text += await ended(life, "enforce") + told(life)
            store_password(tmp_path, OURS)
            await life.durable()
            text += await lost(life, server) + told(life)
            children.text += " ".join(server.argv)
    text += children.text + caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert "redis-server" in children.text, "the drill's own server was seen"
    assert life.told("redis.data-loss") != []
    for secret in SECRETS:
        assert secret not in text
        assert kept_in(rig.state, secret) == []


async def lost(life: Life, server: RedisServer) -> str:
    """The data set is gone: what is told, and what is copied, has no password in it either."""
    server.kill()
    text = server.config_file.read_text().replace("maxmemory-policy\nuser third", "user third")
    server.config_file.write_text(text + "appenddirname elsewhere\n")
    await aside(server.start)
    await life.until(lambda s: s.durability is Durability.DATA_LOSS)
    return "".join([await ended(life, "enforce"), await ended(life, "backup")])


def kept_in(folder: Path, secret: str) -> list[Path]:
    """Files below the folder that hold it, whatever they are; journal, records, evidence and backups are among them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"journal.sqlite", "redis.json", "dump.rdb"}
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_the_environment_is_ours() -> None:
    """What the test above looks for in the children's environment is not there by accident."""
    assert not any(secret in value for value in os.environ.values() for secret in SECRETS)
