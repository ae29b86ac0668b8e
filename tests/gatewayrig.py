"""LiteLLM's runtime as a process: under the real LiteLLM, or under a small program in its place that starts at once."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
SERVE = ROOT / "agentd/gateway_runtime/serve.py"
PYTHON = ROOT / ".cache/litellm-venv/bin/python"
KEY = "sk-only-for-the-tests-0123456789"
LONG = 40.0
"""Seconds for what takes a fraction of one, or LiteLLM's start, on an idle machine."""
_AS_SYSTEMD = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"
"""systemd names the process that a socket is for; only that process knows its number before it runs."""

STAND_IN = """
import asyncio, json, os, uvicorn

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup" and os.environ.get("REFUSE"):
                await send({"type": "lifespan.startup.failed", "message": os.environ["REFUSE"]})
                return
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = (await receive()).get("body", b"")
    wanted = json.loads(body or b"{}")
    if wanted.get("stream"):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number in range(wanted["chunks"]):
            await asyncio.sleep(wanted["every"])
            chunk = b"data: {\\"n\\": %d}\\n\\n" % number
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\\n\\n"})
        return
    await asyncio.sleep(wanted.get("sleep", 0))
    data = json.dumps({"pid": os.getpid(), "model": wanted.get("model")}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(data))]})
    await send({"type": "http.response.body", "body": data})

def run_server(args, **_):
    if os.environ.get("BREAK"):
        raise ValueError(os.environ["BREAK"])
    uvicorn.run(app=app, host=args[3], port=int(args[5]), log_level="info", workers=1)
"""
"""litellm/proxy/proxy_cli.py: what the runtime calls."""


def stand_in(folder: Path) -> dict[str, str]:
    """The environment in which LiteLLM is the small program."""
    package = folder / "litellm/proxy"
    package.mkdir(parents=True)
    for init in (package / "__init__.py", package.parent / "__init__.py"):
        init.write_text("callbacks = []\n")
    (package / "proxy_cli.py").write_text(STAND_IN)
    return {"PYTHONPATH": str(folder)}


def listening(backlog: int = 512) -> socket.socket:
    """A socket as systemd holds it: bound, listening, shared by whoever gets it."""
    one = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    one.setblocking(False)
    return one


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return port_of(one)


class Runtime:
    """One process; `async with` starts it and ends it in any case. `notified`: what it told systemd."""

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Path,
        *arguments: str,
        env: Mapping[str, str],
        public: Sequence[socket.socket] = (),
    ) -> None:
        self.control = folder / f"{name}.sock"
        self.notified: list[str] = []
        self.output = ""
        self._path = folder / f"{name}.notify"
        self._arguments = ("--config", str(config), "--control", str(self.control), *arguments)
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "NOTIFY_SOCKET": str(self._path),
            "LITELLM_MASTER_KEY": KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "GRACEFUL_SHUTDOWN_TIMEOUT": "20",
            **({"LISTEN_FDS": str(len(public))} if public else {}),
            **env,
        }
        self._public = public
        self._news = asyncio.Event()

    async def __aenter__(self) -> Runtime:
        loop = asyncio.get_running_loop()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.setblocking(False)
        self._notify.bind(str(self._path))
        loop.add_reader(self._notify, self._hear)
        words = [str(PYTHON), str(SERVE), *self._arguments]
        if self._public:
            words = [sys.executable, "-IS", "-c", _AS_SYSTEMD, *words]
        self.process = await asyncio.create_subprocess_exec(
            *words,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=self._hand_over if self._public else None,
            pass_fds=range(3, 3 + len(self._public)),
        )
        self._reading = asyncio.create_task(self._read())
        return self

    def _hand_over(self) -> None:
        """In the child: the sockets become descriptors from 3 on."""
        copies = [os.dup(one.fileno()) for one in self._public]
        for number, copy in enumerate(copies, start=3):
            os.dup2(copy, number, inheritable=True)

    async def __aexit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading
        asyncio.get_running_loop().remove_reader(self._notify)
        self._notify.close()
        if kind is not None:
            print(self.output[-4000:])

    def _hear(self) -> None:
        self.notified += self._notify.recv(4096).decode().splitlines()
        self._news.set()

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while part := await self.process.stderr.read(65536):
            self.output += part.decode(errors="replace")
        self._news.set()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def said(self, text: str) -> None:
        """Until it told systemd so. Fails with its last words when it ended before."""
        await self._until(lambda: text in self.notified, text)

    async def wrote(self, text: str) -> None:
        """Until it wrote so to standard error."""
        await self._until(lambda: text in self.output, text)

    async def _until(self, check: Callable[[], bool], text: str) -> None:
        async with asyncio.timeout(LONG):
            while not check():
                assert not self._reading.done(), f"it ended before {text!r}: {self.output[-2000:]}"
                self._news.clear()
                await self._news.wait()

    async def ended(self) -> int:
        async with asyncio.timeout(LONG):
            code = await self.process.wait()
            await self._reading
        return code

    @property
    def last_line(self) -> str:
        return self.output.strip().splitlines()[-1]

    async def state(self) -> dict[str, Any]:
        connector = aiohttp.UnixConnector(str(self.control))
        url = "http://gateway/agentd/state"
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
            assert answer.status == 200
            found: dict[str, Any] = await answer.json()
        return found


async def reached(check: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """What `check` answers once it is as wanted."""
    async with asyncio.timeout(LONG):
        while not wanted(found := await check()):  # noqa: ASYNC110  (another process's state has no event)
            await asyncio.sleep(0.02)
    return found
