"""agentd's part for stores in processes of their own, that are killed: at a chosen effect, agentd, the server, or both.

Each line on stdin is an order (JSON, see `Order`); a child is forked for it, which says what happens on stdout, one
JSON object a line; the last is {"ended": exit status} of the parent.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redisrig import Life, Rig

from agentd.adapters.redis import RedisClient
from agentd.core.schema import Settings
from agentd.core.schema_redis import RedisPolicy
from agentd.ports_redis import Target

ADMIN = ("state", "config", "set_config", "rewrite_config", "save", "rewrite_aof")
FILES = ("patch", "link", "copy", "remove")
LOOKS = 2
"""Of a row of questions that wait for the same thing, so many are points of their own: how many come is chance."""
CHANCE = re.compile(r"apply\d+|.*>state2")
"""Points that one run has and another has not: records are written when they differ, and a wait may be over at once."""
BURST = 20
GO = "go"
"""Appears in the folder when the server has been started anew."""
DATABASE = 2
"""Where the keys are that are written meanwhile."""
PATIENCE, LIMIT = 20.0, 40
"""Seconds: for the store to become durable, and for the whole child."""

_enforcing: ContextVar[bool] = ContextVar("enforcing", default=False)


@dataclass(frozen=True, slots=True)
class Order:
    """`point`: the effect at which `who` ("agentd", "server", "both") is killed, `when` it is about to begin
    ("before") or has just ended ("after"); "" for none. With "restart" the server is killed, and agentd stands still
    until it has been started anew."""

    folder: str
    """Of agentd's state."""
    socket: str
    argv: list[str]
    server: int
    """Its pid."""
    conf: str
    data: str
    policy: dict[str, Any] = field(default_factory=dict)
    point: str = ""
    when: str = "before"
    who: str = "agentd"


class Known:
    """The server as the rig wants it; it runs elsewhere."""

    def __init__(self, order: Order) -> None:
        self.url = f"unix://{order.socket}"
        self.argv = tuple(order.argv)


def say(**words: object) -> None:
    os.write(1, (json.dumps(words) + "\n").encode())


# -- the points ----------------------------------------------------------------------------------------------------


class Points:
    """Every effect of the first look and of the first enforcement, named after its kind and its number among those.
    What the watcher does beside the enforcement is no point: when it comes is chance."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.seen: list[str] = []
        self._counts: Counter[str] = Counter()
        self._anchor, self._looks = "begin", 0
        self._begun = self._struck = False

    def around(self, thing: Any, names: tuple[str, ...]) -> Any:
        for name in names:
            setattr(thing, name, self._watched(name, getattr(thing, name)))
        return thing

    def enforcement(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def marked(*args: Any, **options: Any) -> Any:
            if self._begun:
                return await call(*args, **options)
            self._begun = True
            token = _enforcing.set(True)  # The task of the change inherits it.
            try:
                return await call(*args, **options)
            finally:
                _enforcing.reset(token)

        return marked

    def _watched(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(*args: Any, **options: Any) -> Any:
            label = self._label(name)
            self._reached(label, "before")
            result = await call(*args, **options)
            self._reached(label, "after")
            return result

        return watched

    def _label(self, name: str) -> str:
        if self._begun and not _enforcing.get():
            return ""
        if name == "state":
            self._looks += 1
            if self._looks > LOOKS:
                return ""
            label = f"{self._anchor}>state{self._looks}"
        else:
            self._counts[name] += 1
            label = self._anchor = f"{name}{self._counts[name]}"
            self._looks = 0
        self.seen.append(label)
        return label

    def _reached(self, label: str, when: str) -> None:
        if label and label == self.order.point and when == self.order.when and not self._struck:
            self._struck = True
            strike(self.order)


def strike(order: Order) -> None:
    """Says what is true on the disk at this moment, writes some more keys, and kills."""
    client = redis.Redis(unix_socket_path=order.socket, db=DATABASE, socket_timeout=10.0, decode_responses=True)
    with client:
        aof, file = has_aof(client, Path(order.data)), file_says_yes(Path(order.conf))
        for number in range(BURST):
            client.set(f"burst:{number}", str(number))
        say(struck=order.point, aof=aof, file=file, clean=clean_moment(client))
    if order.who != "agentd":
        os.kill(order.server, signal.SIGKILL)
    if order.who in ("agentd", "both"):
        os.kill(os.getpid(), signal.SIGKILL)
    end = time.monotonic() + 20
    while order.who == "restart" and not Path(order.folder, GO).exists():
        assert time.monotonic() < end, "the server was not started anew"
        time.sleep(0.005)  # The test is the server's parent, not ours.


def has_aof(client: Any, data: Path) -> bool:
    """An append-only file that holds everything."""
    info = client.info("persistence")
    busy = info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"]
    whole = bool(info["aof_enabled"]) and not busy and info["aof_last_bgrewrite_status"] == "ok"
    return whole and manifest(data).exists()


def manifest(data: Path) -> Path:
    return data / "appendonlydir" / "appendonly.aof.manifest"


def file_says_yes(conf: Path) -> bool:
    return re.findall(r"(?m)^appendonly +(\w+)", conf.read_text())[-1:] == ["yes"]


def clean_moment(client: Any, seconds: float = 10.0) -> float:
    """A moment (monotonic clock) before which everything that was acknowledged is in the kernel's hands: while a sync
    runs, everysec keeps writes back for up to two seconds, and acknowledges them all the same."""
    end = time.monotonic() + seconds
    while True:
        now = time.monotonic()
        if not int(client.info("persistence").get("aof_buffer_length", 0)):
            return now
        assert now < end, "the server's buffer does not get empty"
        time.sleep(0.001)  # It tells nobody.


# -- a life --------------------------------------------------------------------------------------------------------


async def live(order: Order) -> None:
    points = Points(order)
    rig = Rig(Path(order.folder), Known(order))  # type: ignore[arg-type]
    points.around(rig.files, FILES)

    def connect(target: Target) -> Any:
        return points.around(RedisClient(target), ADMIN)

    rig.connect = connect
    life = Life(rig, Settings(redis=RedisPolicy(url=rig.server.url, **order.policy)))
    points.around(life.journal, ("save_change",))
    points.around(life.ports.state_files, ("apply",))
    life.actions.enforce = points.enforcement(life.actions.enforce)  # type: ignore[assignment]
    await life.start()
    try:
        await life.durable(PATIENCE)
    except AssertionError as error:
        say(failed=str(error).partition("; (Finding")[0])
        os._exit(1)
    told = [phase.detail for change in await life.journal.changes(100) for phase in change.phases]
    say(durable=True, points=points.seen, told=[*told, *(event.message for event in life.events.recent(1000))])
    os._exit(0)  # At once, as every life here.


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                signal.alarm(LIMIT)
                asyncio.run(live(Order(**json.loads(line))))
            except BaseException:
                traceback.print_exc()
            os._exit(2)
        say(ended=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
