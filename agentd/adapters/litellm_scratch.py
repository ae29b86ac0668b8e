"""The ScratchProxies port: the installed LiteLLM on a spare loopback port, as our child."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from agentd import paths
from agentd.adapters import plain_http, sock_diag
from agentd.adapters.child import holds
from agentd.adapters.conversation import BrokenOff, Conversation, TooLarge, connected
from agentd.adapters.litellm_scratch_process import ScratchProcess
from agentd.core.gateway.install import Install
from agentd.errors import AgentdError
from agentd.ports_gateway import Endpoint

HOST = "127.0.0.1"
RUNTIME = Path(__file__).resolve().parents[1] / "gateway_runtime" / "serve.py"
_ALIVE = "/health/liveliness"
_ASK_EVERY, _ASK_FOR = 0.2, 3.0
"""Seconds between two looks, and for one."""
_DEFAULT_PORT = 4000
"""When it is taken, LiteLLM goes elsewhere without a word."""
_TAKEN_OVER = ("PATH", "LD_LIBRARY_PATH", "TZ", "HOME", "LANG", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "TMPDIR")
_OURS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # Else it asks for the list of prices on the internet, three times.
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "PYTHONUNBUFFERED": "1",
}


class LocalScratchProxies:
    def __init__(self, install: Install) -> None:
        self._install = install

    async def start(
        self, config: str, environment: Mapping[str, str], *, timeout: float, plain: bool = False
    ) -> LocalScratchProxy:
        """Its environment is `environment` with the few variables of ours that every program needs. A cancelled call
        has ended the process when it returns."""
        if not self._install.executable:
            message = "cannot start LiteLLM: it is not installed"
            raise AgentdError("gateway-start", message, hint="pip install 'litellm[proxy]', or set gateway.executable")
        folder = await asyncio.to_thread(_private_folder)
        try:
            port = await asyncio.to_thread(_spare_port)
            command = self._command(config, port, f"{folder}/c", plain=plain)
            taken = {name: os.environ[name] for name in _TAKEN_OVER if name in os.environ}
            everything = {**taken, **environment, **_OURS}
            process = await ScratchProcess.start(command, everything, folder, secrets=[*environment.values()])
        except BaseException:
            await asyncio.shield(asyncio.to_thread(_remove, folder))
            raise
        proxy = LocalScratchProxy(process, port, folder)
        try:
            await _ready(process, port, timeout)
        except BaseException:
            await proxy.stop()
            raise
        return proxy

    def _command(self, config: str, port: int, control: str, *, plain: bool) -> list[str]:
        options = ["--config", config, "--host", HOST, "--port", str(port)]
        if plain:
            return [self._install.executable, *options]
        return [self._install.python, str(RUNTIME), *options, "--control", control]


class LocalScratchProxy:
    def __init__(self, process: ScratchProcess, port: int, folder: str) -> None:
        self._process = process
        self._port = port
        self._folder = folder

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://{HOST}:{self._port}")

    @property
    def control(self) -> str:
        """The path of its control socket, where our runtime runs it."""
        return f"{self._folder}/c"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> str:
        """How, in words; "" while it runs."""
        return self._process.words() if self._process.ended else ""

    def log(self, lines: int = 50) -> tuple[str, ...]:
        return self._process.log(lines)

    async def stop(self) -> None:
        try:
            await self._process.end()
        finally:
            await asyncio.shield(asyncio.to_thread(_remove, self._folder))


async def _ready(process: ScratchProcess, port: int, timeout: float) -> None:
    """Raises AgentdError("gateway-start")."""
    gone = asyncio.ensure_future(process.gone())
    try:
        async with asyncio.timeout(timeout):
            while not gone.done():
                if await _alive(port) and await asyncio.to_thread(_ours, process.pid, port):
                    return
                await asyncio.wait({gone}, timeout=_ASK_EVERY)
    except TimeoutError:
        message = f"cannot start LiteLLM: it did not answer within {timeout:g} s: {process.words() or 'not a word'}"
        raise AgentdError("gateway-start", message) from None
    finally:
        gone.cancel()
    raise AgentdError("gateway-start", f"cannot start LiteLLM: it ended ({process.words() or 'not a word'})")


async def _alive(port: int) -> bool:
    with contextlib.suppress(OSError, TimeoutError, BrokenOff, TooLarge, plain_http.NotHttp):
        async with asyncio.timeout(_ASK_FOR), connected(HOST, port) as connection:
            talk = Conversation(connection)
            await talk.say(plain_http.request(plain_http.Target(HOST, port, _ALIVE), "GET", {}, None))
            status, _ = await plain_http.answer(talk, 65536)
            return status == 200
    return False


def _ours(pid: int, port: int) -> bool:
    """That the listener on the port is the process's own. Where the kernel does not tell, an answer is enough."""
    try:
        return holds(pid, {inode for _, inode in sock_diag.listeners(port)})
    except sock_diag.Unavailable:
        return True


def _spare_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        if port != _DEFAULT_PORT:
            return port


def _private_folder() -> str:
    """0700, with a path short enough for a socket. Raises AgentdError("gateway-start")."""
    problem = "no place for it"
    for parent in (str(paths.user_runtime_dir()), tempfile.gettempdir(), "/tmp"):
        try:
            folder = tempfile.mkdtemp(prefix="agentd-gateway-", dir=parent)
        except OSError as error:
            problem = f"{parent}: {(error.strerror or str(error)).lower()}"
            continue
        if len(folder) < 90:
            return folder
        os.rmdir(folder)  # noqa: PTH106
    raise AgentdError("gateway-start", f"cannot make a directory for LiteLLM ({problem})", hint="set TMPDIR")


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
