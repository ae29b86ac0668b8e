"""The questions to a proxy, on real sockets: what each answer means, and that no key is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentd.adapters.litellm_http import LitellmHttp
from agentd.errors import AgentdError
from agentd.ports_gateway import Endpoint, ProxyState

KEY = "sk-right"
MODELS = json.dumps({"data": [{"id": "qwen"}, {"id": "dolphin"}, {"id": "qwen"}]})


@dataclass
class Peer:
    """Answers each path with (status, body); a `stall` never answers."""

    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    stall: bool = False
    raw: bytes = b""
    seen: list[str] = field(default_factory=list)

    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.ensure_future(self._served(reader, writer)))

    async def close(self) -> None:
        if self.stall:
            for task in self.tasks:
                task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path, right = head.split(" ")[1], f"Bearer {KEY}" in head
        self.seen.append(path + (" with the key" if right else " with another" if "Bearer" in head else ""))
        if self.stall:
            await asyncio.sleep(60)
        status, body = self.answers.get(path, (404, ""))
        if path == "/v1/models" and status == 200 and not right:
            status, body = (400 if "Bearer" in head else 401), "{}"
        text = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        writer.write(self.raw or text.encode())
        await writer.drain()


@asynccontextmanager
async def at_port(peer: Peer) -> AsyncIterator[Endpoint]:
    server = await asyncio.start_server(peer.connected, "127.0.0.1", 0)
    async with server:
        yield Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await peer.close()


@asynccontextmanager
async def at_socket(peer: Peer, path: Path) -> AsyncIterator[Endpoint]:
    async with await asyncio.start_unix_server(peer.connected, path):
        yield Endpoint("http://127.0.0.1:4001", str(path))
        await peer.close()


def healthy(**more: tuple[int, str]) -> Peer:
    return Peer({"/health/liveliness": (200, '"I\'m alive!"'), "/v1/models": (200, MODELS), **more})


async def test_a_proxy_by_its_port() -> None:
    peer = healthy()
    async with at_port(peer) as endpoint:
        found = await LitellmHttp().look(endpoint, KEY, timeout=5)
    assert found == ProxyState(True, ("dolphin", "qwen"), 200, 401)
    assert peer.seen == ["/health/liveliness", "/v1/models", "/v1/models with the key"]


async def test_without_a_question_without_a_key() -> None:
    peer = healthy()
    async with at_port(peer) as endpoint:
        found = await LitellmHttp().look(endpoint, KEY, timeout=5, keyless=False)
    assert found == ProxyState(True, ("dolphin", "qwen"), 200, 0)
    assert peer.seen == ["/health/liveliness", "/v1/models with the key"]


async def test_a_wrong_key_and_none() -> None:
    async with at_port(healthy()) as endpoint:
        assert (await LitellmHttp().look(endpoint, "sk-wrong", timeout=5)).key_status == 400
        found = await LitellmHttp().look(endpoint, "", timeout=5)
    assert (found.key_status, found.open_status, found.models) == (0, 401, ())


async def test_by_the_control_socket_it_says_more(tmp_path: Path) -> None:
    state = {"pid": 7, "digest": "ab", "version": "1.106.2", "shared": True, "draining": False, "in_flight": 3}
    peer = healthy(**{"/agentd/state": (200, json.dumps(state))})
    async with at_socket(peer, tmp_path / "s") as endpoint:
        found = await LitellmHttp().look(endpoint, KEY, timeout=5)
    assert (found.pid, found.digest, found.version, found.shared) == (7, "ab", "1.106.2", True)


@pytest.mark.parametrize("body", ["", "[]", "{", '{"pid": "x", "digest": null, "shared": 1}'])
async def test_a_control_socket_of_somebody_else(tmp_path: Path, body: str) -> None:
    async with at_socket(healthy(**{"/agentd/state": (200, body)}), tmp_path / "s") as endpoint:
        found = await LitellmHttp().look(endpoint, KEY, timeout=5)
    assert (found.alive, found.pid, found.digest, found.shared) == (True, 0, "", False)


@pytest.mark.parametrize("body", ["", "[]", '{"data": 1}', '{"data": [{}]}'])
async def test_a_list_of_models_that_is_none(body: str) -> None:
    async with at_port(healthy(**{"/v1/models": (200, body)})) as endpoint:
        assert (await LitellmHttp().look(endpoint, KEY, timeout=5)).models == ()


async def test_nobody_answers(tmp_path: Path) -> None:
    found = await LitellmHttp().look(Endpoint("http://127.0.0.1:9", str(tmp_path / "none")), KEY, timeout=5)
    assert (found.alive, found.error) == (False, f"cannot ask {tmp_path / 'none'}: no such file or directory")
    async with at_port(Peer(stall=True)) as endpoint:
        assert (await LitellmHttp().look(endpoint, KEY, timeout=0.2)).error == "no answer within 0.2 s"
    async with at_port(Peer(raw=b"SSH-2.0\r\n\r\n")) as endpoint:
        assert "is not HTTP" in (await LitellmHttp().look(endpoint, KEY, timeout=5)).error
    async with at_port(healthy(**{"/health/liveliness": (503, "")})) as endpoint:
        assert (await LitellmHttp().look(endpoint, KEY, timeout=5)).error == "/health/liveliness answered 503"


async def test_a_key_is_never_told() -> None:
    async with at_port(healthy()) as endpoint:
        found = await LitellmHttp().look(endpoint, "sk-bad\nkey", timeout=5)
    assert "sk-bad" not in found.error
    assert "cannot be sent" in found.error


async def test_its_metrics() -> None:
    async with at_port(healthy(**{"/metrics/": (200, "a 1\n")})) as endpoint:
        assert await LitellmHttp().metrics(endpoint, KEY, timeout=5) == "a 1\n"
    async with at_port(healthy()) as endpoint:
        assert await LitellmHttp().metrics(endpoint, KEY, timeout=5) == ""
    with pytest.raises(AgentdError, match="cannot ask"):
        await LitellmHttp().metrics(endpoint, KEY, timeout=5)
    async with at_port(Peer(stall=True)) as endpoint:
        with pytest.raises(AgentdError, match=r"no answer within 0\.2 s"):
            await LitellmHttp().metrics(endpoint, KEY, timeout=0.2)
