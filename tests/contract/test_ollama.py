"""What agentd relies on in Ollama: one suite on the fake, the stand-in, and the real one where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import FakeWorld

from agentd.adapters.probe import NetworkProber
from agentd.core import ollama
from agentd.errors import AgentdError
from agentd.ports import HttpAnswer, Prober
from agentd.runtimes import RuntimeModel
from agentd.sandbox import home as sandbox_home
from agentd.sandbox.gpu import GIB, Memory
from agentd.sandbox.standins import behaviour

LLAMA = "llama3:8b"
PATIENCE = 20.0
REAL_MODEL = "AGENTD_TEST_OLLAMA_MODEL"
"""Names a small model that the Ollama of this machine has; with it the suite runs on that Ollama, too."""


@dataclass
class Server:
    """An Ollama with `model` in its library and nothing loaded."""

    prober: Prober
    url: str
    model: str
    busy: Callable[[], contextlib.AbstractAsyncContextManager[None]]
    """The model is in use while the context is open, and for a moment longer at most."""
    held: Callable[[], int] | None = None
    """GPU memory of its runners; None where that is not known."""
    now: Callable[[], float] = time.time

    async def post(self, body: dict[str, object], timeout: float = 120.0) -> HttpAnswer:
        return await self.prober.http(self.url + ollama.GENERATE, timeout=timeout, method="POST", json=body)

    async def load(self) -> None:
        body = {"model": self.model, "prompt": "hi", "stream": False, "options": {"num_predict": 1}}
        assert (await self.post(body)).status == 200

    async def loaded(self) -> tuple[RuntimeModel, ...]:
        answer = await self.prober.http(self.url + ollama.PS, timeout=5.0)
        return ollama.loaded(answer.status, answer.body)

    async def unload(self, model: str = "") -> HttpAnswer:
        return await self.post(ollama.unload(model or self.model), timeout=5.0)

    async def until(self, condition: Callable[[tuple[RuntimeModel, ...]], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition(await self.loaded()):  # noqa: ASYNC110 - its API has no event
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def fake(_home: Path) -> AsyncIterator[Server]:
    world = FakeWorld()
    made = world.add_ollama()

    @contextlib.asynccontextmanager
    async def busy() -> AsyncIterator[None]:
        made.busy[LLAMA] = 1
        yield
        made.finish(LLAMA)

    held = lambda: sum(size for _, size in world.gpus.holders.values())  # noqa: E731
    yield Server(world.prober, made.url, LLAMA, busy, held, world.clock.time)


@contextlib.asynccontextmanager
async def process(argv: list[str], env: dict[str, str], log: Path) -> AsyncIterator[tuple[NetworkProber, str]]:
    """A server as a child, answering; its runners end with it."""
    port = free_port()
    url, prober = f"http://127.0.0.1:{port}", NetworkProber()
    with log.open("w") as out:
        child = subprocess.Popen(  # noqa: ASYNC220 - killed by its group below
            argv, env={**env, "OLLAMA_HOST": f"127.0.0.1:{port}"}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(AgentdError):
                    await prober.http(url + ollama.VERSION, timeout=1.0)
                    break
                await asyncio.sleep(0.02)
        yield prober, url
    finally:
        await prober.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, 9)
        child.wait()


@contextlib.asynccontextmanager
async def standin(home: Path, **settings: object) -> AsyncIterator[Server]:
    python = os.path.realpath("/proc/self/exe")
    sandbox_home.programs(home / ".local/bin", python, python)
    defaults = {"load_seconds": 0.0, "vram_release_seconds": 0.0, "token_seconds": 0.02}
    behaviour.save(home, "ollama", **{**defaults, **settings})
    memory = Memory(home / "gpu")
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "AGENTD_STANDIN_GPU": str(home / "gpu")}
    async with process([str(home / ".local/bin/ollama"), "serve"], env, home / "log") as (prober, url):
        held = lambda: sum(claim.size for claim in memory.claims())  # noqa: E731
        yield Server(prober, url, LLAMA, lambda: asking(prober, url, LLAMA), held)


@contextlib.asynccontextmanager
async def asking(prober: Prober, url: str, model: str) -> AsyncIterator[None]:
    """A long answer is under way; its end is awaited."""
    options = {"num_predict": 100}
    body = {"model": model, "prompt": "Count to a thousand.", "stream": False, "options": options}
    request = asyncio.ensure_future(prober.http(url + ollama.GENERATE, timeout=60.0, method="POST", json=body))
    await asyncio.sleep(0.3)
    assert not request.done()
    yield
    await request


@contextlib.asynccontextmanager
async def real(home: Path) -> AsyncIterator[Server]:
    program, model = shutil.which("ollama"), os.environ[REAL_MODEL]
    assert program is not None
    env = {key: os.environ[key] for key in ("HOME", "PATH", "OLLAMA_MODELS") if key in os.environ}
    async with process([program, "serve"], env, home / "log") as (prober, url):
        yield Server(prober, url, model, lambda: asking(prober, url, model))


BACKENDS = {"fake": fake, "standin": standin}
if shutil.which("ollama") and os.environ.get(REAL_MODEL):
    BACKENDS["real"] = real


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(params=BACKENDS)
def server(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[], contextlib.AbstractAsyncContextManager[Server]]:
    return lambda: BACKENDS[request.param](tmp_path)


Begin = Callable[[], contextlib.AbstractAsyncContextManager[Server]]


async def test_it_tells_its_version_and_an_empty_list(server: Begin) -> None:
    async with server() as it:
        answer = await it.prober.http(it.url + ollama.VERSION, timeout=5.0)
        assert ollama.version(answer.status, answer.body)[0].isdigit()
        assert await it.loaded() == ()


async def test_a_request_loads_and_the_list_tells_sizes_and_time(server: Begin) -> None:
    async with server() as it:
        await it.load()
        (model,) = await it.loaded()
        assert model.name == it.model
        assert model.size > 0
        assert 0 <= model.size_vram <= model.size
        assert it.now() < model.expires < it.now() + 3600
        if it.held is not None:
            assert it.held() == model.size_vram


async def test_unloading_is_answered_at_once_and_done_soon(server: Begin) -> None:
    async with server() as it:
        await it.load()
        answer = await it.unload()
        assert answer.status == 200
        assert json.loads(answer.body)["done_reason"] == "unload"
        await it.until(lambda models: not models)
        if it.held is not None:
            assert it.held() == 0


async def test_a_model_in_use_goes_when_its_last_request_has_ended(server: Begin) -> None:
    async with server() as it:
        await it.load()
        async with it.busy():
            assert (await it.unload()).status == 200
            await asyncio.sleep(0.5)
            (model,) = await it.loaded()
            assert 0 < model.expires <= it.now(), "by which it is known to be on its way"
        await it.until(lambda models: not models)


async def test_what_is_not_loaded_can_be_unloaded(server: Begin) -> None:
    async with server() as it:
        assert (await it.unload()).status == 200
        assert await it.loaded() == ()


async def test_a_model_that_it_has_not_is_an_error(server: Begin) -> None:
    async with server() as it:
        answer = await it.unload("no-such-model:1b")
        assert answer.status == 404
        assert "no-such-model:1b" in ollama.excerpt(answer.body)


# -- what only the stand-in does on command -------------------------------------------------------------------------


async def test_a_full_gpu_leaves_part_of_a_model_on_the_cpu(tmp_path: Path) -> None:
    Memory(tmp_path / "gpu").claim(1, 12 * GIB, held=True)
    async with standin(tmp_path) as it:
        await it.load()
        (model,) = await it.loaded()
        assert 0 < model.size_vram < model.size
    world = FakeWorld()
    made = world.add_ollama()
    world.gpus.hold(world.kernel.spawn("game"), 20 * GIB)
    made.load(LLAMA)
    assert 0 < made.loaded[LLAMA] < made.library[LLAMA]


async def test_one_that_sees_no_gpu_computes_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = os.path.realpath("/proc/self/exe")
    sandbox_home.programs(tmp_path / ".local/bin", python, python)
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "AGENTD_STANDIN_GPU": str(tmp_path / "gpu")}
    argv = [str(tmp_path / ".local/bin/ollama"), "serve"]
    async with process(argv, {**env, **ollama.OFF_GPU}, tmp_path / "log") as (prober, url):
        it = Server(prober, url, LLAMA, lambda: asking(prober, url, LLAMA))
        await it.load()
        (model,) = await it.loaded()
        assert (model.size_vram, model.size > 0) == (0, True)


async def test_a_client_that_asks_again_at_once(tmp_path: Path) -> None:
    async with standin(tmp_path, fail="reload-on-request") as it:
        await it.load()
        await it.unload()
        await it.until(lambda models: not models)
        await it.until(lambda models: bool(models))


async def test_one_that_never_unloads(tmp_path: Path) -> None:
    async with standin(tmp_path, fail="never-unloads") as it:
        await it.load()
        assert (await it.unload()).status == 200
        await asyncio.sleep(0.5)
        assert [m.name for m in await it.loaded()] == [LLAMA]
