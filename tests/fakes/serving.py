"""The real API server with plain values behind it, in a thread of its own: for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from agentd.api.server import ApiServer
from fakes.operations import FakeOperations

T = TypeVar("T")


class Served:
    """`ops` belongs to the server's loop: change it with `call`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = ""
        self.ops: FakeOperations
        self.api: ApiServer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def call(self, function: Callable[[FakeOperations], T]) -> T:
        """Run in the server's loop; the result."""

        async def inside() -> T:
            return function(self.ops)

        return self.run(inside())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def start(self) -> None:
        self._thread.start()
        self.run(self._open())

    def stop(self) -> None:
        self.run(self.api.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def restart(self) -> None:
        """As after a crash of the daemon: connections are cut, what is known stays."""
        self.run(self._again())

    def follow_through(self, *, until: int = 1) -> None:
        """Advance the running change whenever somebody is told of its last step, to its end."""
        self.run(self._drive(until))

    async def _open(self) -> None:
        self.ops = FakeOperations()
        await self._listen()

    async def _listen(self) -> None:
        self.api = ApiServer(self.ops, keep_alive=0.2)
        await self.api.start(unix=str(self.path), listen="127.0.0.1:0")
        assert self.api.tcp_address is not None
        self.url = f"http://127.0.0.1:{self.api.tcp_address[1]}"

    async def _again(self) -> None:
        await self.api.stop()
        await self._listen()

    async def _drive(self, until: int) -> None:
        await self.ops.until(lambda: self.ops.followers >= until)
        for change in [c for c in self.ops.change_list.values() if c.finished is None]:
            while self.ops.change_list[change.id].finished is None:
                self.ops.advance(change.id)
                await asyncio.sleep(0)


@contextmanager
def served(directory: Path) -> Iterator[Served]:
    server = Served(directory / "agentd.sock")
    server.start()
    try:
        yield server
    finally:
        server.stop()
