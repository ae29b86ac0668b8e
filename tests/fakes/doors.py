"""The real API server in the test's own loop, with a client at each of its two doors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from agentd.api.server import ApiServer

from .operations import FakeOperations


class Doors:
    """One server with a client at each door."""

    def __init__(self, ops: FakeOperations, api: ApiServer, path: Path, unix: Any, tcp: Any) -> None:
        self.ops, self.api, self.path, self.unix, self.tcp = ops, api, path, unix, tcp

    async def json(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.unix.request(method, path, **more) as answer:
            return answer.status, json.loads(await answer.read())

    async def tcp_json(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.tcp.request(method, path, **more) as answer:
            return answer.status, json.loads(await answer.read())


@asynccontextmanager
async def serving(directory: Path, **options: Any) -> AsyncIterator[Doors]:
    ops, path = FakeOperations(), directory / "run" / "agentd.sock"
    api = ApiServer(ops, **options)
    await api.start(unix=str(path), listen="127.0.0.1:0")
    assert api.tcp_address is not None
    base = f"http://127.0.0.1:{api.tcp_address[1]}"
    connector = aiohttp.UnixConnector(path=str(path))
    try:
        async with (
            aiohttp.ClientSession("http://localhost", connector=connector) as unix,
            aiohttp.ClientSession(base) as tcp,
        ):
            yield Doors(ops, api, path, unix, tcp)
    finally:
        await api.stop()
