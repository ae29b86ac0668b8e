"""One Redis under the shipped unit, agentd that keeps it, and ways to look at both past agentd."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import redis
from integration.stack import LONG, Done, Stack, until
from redis.backoff import NoBackoff
from redis.retry import Retry
from userunits import systemctl

from agentd import resources

UNIT = "agentd-redis.service"
CONFIG = f"""\
[services.redis]
unit = "{UNIT}"
role = "store"
url = "redis://127.0.0.1:6379"
"""
QUICK = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=100ms\n"
RDB_ONLY = ("appendonly yes", "appendonly no")
SLOW = "2000"
"""Microseconds for each key while a child writes: 1000 keys take two seconds."""


class Stored:
    """`fresh()` before each test: an empty Redis from the shipped file, and an agentd that has never seen it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.data = stack.home / ".local/state/agentd-redis"
        self.config_file = stack.config / "redis.conf"
        self.backups = stack.state / "backups"

    def fresh(self, *edits: tuple[str, str], keys: int = 0) -> None:
        """`edits`: (old, new) in the redis.conf with which it starts first. agentd is not started."""
        self.stack.stop_agentd()
        systemctl("kill", "--signal=KILL", UNIT, check=False)
        systemctl("stop", UNIT, check=False)
        for folder in (self.data, self.stack.state, self.stack.config / "config.d", self.dropins(UNIT)):
            shutil.rmtree(folder, ignore_errors=True)
        (self.stack.config / "config.d").mkdir()
        (self.stack.config / "agentd.toml").write_text(CONFIG)
        self.config_file.write_text((resources.directory("etc") / "redis.conf").read_text())
        for old, new in edits:
            self.edit(old, new)
        for unit in (UNIT, "agentd.service"):
            self.stack.dropin(unit, "95-test.conf", QUICK)
        systemctl("daemon-reload")
        systemctl("reset-failed")
        self.start()
        if keys:
            self.seed(keys)
            with self.client() as client:
                client.save()

    def dropins(self, unit: str) -> Path:
        return self.stack.units / f"{unit}.d"

    # -- Redis --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        try:
            systemctl("start", UNIT)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.stack.journal(UNIT, 40)}") from None

    def restart(self) -> None:
        systemctl("restart", UNIT)

    def stop(self) -> None:
        systemctl("stop", UNIT)

    def pid(self) -> int:
        return self.stack.pid(UNIT)

    def client(self) -> redis.Redis:
        """One that ends with its server, and does not go on with the next."""
        return redis.Redis(port=6379, decode_responses=True, socket_timeout=LONG, retry=Retry(NoBackoff(), 0))

    def seed(self, count: int, prefix: str = "key") -> None:
        with self.client() as client, client.pipeline(transaction=False) as pipe:
            for number in range(count):
                pipe.set(f"{prefix}:{number}", f"{number:020}")
            pipe.execute()

    def keys(self) -> int:
        with self.client() as client:
            return int(client.dbsize())

    def get(self, name: str) -> str:
        with self.client() as client:
            return str(client.config_get(name)[name])

    def set(self, **values: str) -> None:
        with self.client() as client:
            for name, value in values.items():
                client.config_set(name.replace("_", "-"), value)

    def info(self, field: str) -> str:
        with self.client() as client:
            return str(client.info("everything")[field])

    def edit(self, old: str, new: str) -> None:
        text = self.config_file.read_text()
        assert old in text
        self.config_file.write_text(text.replace(old, new))

    # -- agentd's word ------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stack.client.get("/v1/redis")["stores"][0]
        return found

    def becomes(self, word: str, timeout: float = LONG) -> dict[str, Any]:
        """The status, once it is of the process that runs now, in this word, with no change under way."""
        now: dict[str, Any] = {}

        def so() -> bool:
            now.update(self.status())
            current = now["state"] is not None and now["state"]["pid"] == self.pid()
            return current and now["durability"] == word and not now["enforcing"]

        until(so, timeout, lambda: f"it does not become {word}: {now['durability']}, {now['summary']}, {now}")
        return now

    def durable(self, timeout: float = LONG) -> dict[str, Any]:
        return self.becomes("durable", timeout)

    def ctl(self, *words: str) -> Done:
        return self.stack.ctl("redis", *words)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.stack.events() if event["kind"] == kind]


class Writer:
    """Writes one key after the other until the server goes away; `acknowledged` counts the answers."""

    def __init__(self, stored: Stored, prefix: str) -> None:
        self.acknowledged = 0
        self._stored = stored
        self._prefix = prefix
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Writer:
        self._thread.start()
        until(lambda: self.acknowledged > 100)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(LONG)

    def _write(self) -> None:
        end = time.monotonic() + LONG
        with self._stored.client() as client:
            try:
                while time.monotonic() < end:
                    client.set(f"{self._prefix}:{self.acknowledged}", "x")
                    self.acknowledged += 1
            except redis.exceptions.ConnectionError:
                return

    def kept(self) -> int:
        """How many of the acknowledged ones are there."""
        with self._stored.client() as client:
            names = [f"{self._prefix}:{number}" for number in range(self.acknowledged)]
            return int(client.exists(*names))
