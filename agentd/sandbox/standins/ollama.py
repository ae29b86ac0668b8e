"""A stand-in for `ollama serve`: its API, its lazy loading and its unloading that answers before the memory is back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from agentd.sandbox.gpu import GIB, Memory
from agentd.sandbox.standins import behaviour
from agentd.sandbox.standins.web import JSON, POLL_SECONDS, Handler, Server, log

VERSION = "0.24.0"
MODELS = ("llama3:8b", "mistral:7b")
_DEFAULT_VRAM = 5 * GIB
_CLOSE_SECONDS = 0.1
"""Between the last use of a model that is to go and the end of its runner."""
_AGAIN_SECONDS = 0.2
"""With "reload-on-request": between the end of a runner and the client that asks for the model again."""
_WORDS = 4
"""Tokens of an answer for which no other number was asked."""


@dataclass(slots=True)
class Loaded:
    name: str
    runner: int
    size: int
    vram: int
    """On the GPU; the rest of `size` is in main memory."""
    keep_alive: float
    used: int = 0
    """Requests in work; a model in use is not unloaded."""
    expires: float = field(default=0.0)


class Scheduler:
    def __init__(self) -> None:
        self._behaviour = behaviour.load("ollama")
        self._memory = Memory.from_environment()
        self._keep_alive = seconds(os.environ.get("OLLAMA_KEEP_ALIVE", "5m"))
        self.loaded: dict[str, Loaded] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._expire, daemon=True).start()

    def use(self, name: str, keep_alive: object) -> None:
        """Load the model if need be and mark it used."""
        with self._changed:
            model = self.loaded.get(name)
            if model is None:
                time.sleep(self._behaviour.load_seconds)
                model = self.loaded[name] = self._load(name)
            model.used += 1
            model.keep_alive = self._keep_alive if keep_alive is None else seconds(keep_alive)

    def done(self, name: str) -> None:
        with self._changed:
            model = self.loaded[name]
            model.used -= 1
            model.expires = time.time() + model.keep_alive
            self._changed.notify_all()

    def unload(self, name: str) -> None:
        """Ask for it; the runner goes when nothing uses it any more."""
        with self._changed:
            if name in self.loaded:
                self.loaded[name].expires = time.time()
                self.loaded[name].keep_alive = 0.0
                self._changed.notify_all()

    def answer(self, words: int) -> None:
        """Take the time of so many tokens."""
        time.sleep(self._behaviour.token_seconds * words)

    def _load(self, name: str) -> Loaded:
        """What does not fit on the GPU, or all where it sees none, is computed on the CPU."""
        wanted = self._behaviour.vram_bytes or _DEFAULT_VRAM
        vram = min(wanted, self._memory.free()) if self._memory and self._memory.visible() else 0
        code = "import signal; open('/proc/self/comm', 'w').write('ollama'); signal.pause()"
        runner = os.posix_spawn(sys.executable, ["ollama", "-I", "-S", "-c", code, "runner"], os.environ)
        if self._memory and vram:
            self._memory.claim(runner, vram, release_seconds=self._behaviour.vram_release_seconds)
        return Loaded(name, runner, wanted, vram, self._keep_alive, expires=time.time() + self._keep_alive)

    def _expire(self) -> None:
        while True:
            with self._changed:
                idle = [m for m in self.loaded.values() if not m.used]
                gone = [m for m in idle if time.time() >= m.expires]
                if not gone or self._behaviour.fail == "never-unloads":
                    following = min((m.expires - time.time() for m in idle), default=None)
                    self._changed.wait(None if following is None else max(0.05, following))
                    continue
                time.sleep(_CLOSE_SECONDS)
                for model in gone:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(model.runner, signal.SIGKILL)
                    os.waitpid(model.runner, 0)
                    del self.loaded[model.name]
                    if self._behaviour.fail == "reload-on-request":
                        threading.Timer(_AGAIN_SECONDS, self._once, (model.name,)).start()

    def _once(self, name: str) -> None:
        self.use(name, None)
        self.done(name)


def seconds(value: object) -> float:
    """keep_alive as Ollama takes it: a number of seconds, or "5m"; negative is for ever."""
    if isinstance(value, (int, float)):
        amount = float(value)
    else:
        text = str(value)
        unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
        amount = float(text[:-1]) * unit if unit else float(text or 0)
    return amount if amount >= 0 else 1e9


def _stamp(when: float) -> str:
    """RFC 3339 with nine digits of a second, as Go writes it."""
    when = min(when, 4e9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + f".{int(when % 1 * 1e9):09d}Z"


def _entry(name: str, size: int = _DEFAULT_VRAM) -> JSON:
    digest = f"{abs(hash(name)):064x}"[:64]
    return {"name": name, "model": name, "size": size, "digest": digest, "details": {"format": "gguf"}}


class OllamaHandler(Handler):
    server_version = "ollama"
    scheduler: Scheduler

    def route(self, method: str, path: str) -> None:
        if path == "/":
            self.send_text(200, "Ollama is running")
        elif path == "/api/version":
            self.send_json(200, {"version": VERSION})
        elif path == "/api/tags":
            self.send_json(200, {"models": [{**_entry(n), "modified_at": _stamp(0)} for n in MODELS]})
        elif path == "/api/ps":
            self.send_json(200, {"models": self._loaded()})
        elif method == "POST" and path in ("/api/generate", "/api/chat"):
            self._generate(chat=path.endswith("chat"))
        else:
            self.send_text(404, "404 page not found")

    def _loaded(self) -> list[JSON]:
        return [
            {**_entry(m.name, m.size), "size_vram": m.vram, "expires_at": _stamp(m.expires), "context_length": 4096}
            for m in list(self.scheduler.loaded.values())
        ]

    def _generate(self, *, chat: bool) -> None:
        request = self.parse()
        if request is None:
            return
        name = str(request.get("model", ""))
        if name not in MODELS:
            self.send_json(404, {"error": f"model '{name}' not found"})
            return
        prompt = request.get("messages" if chat else "prompt")
        keep_alive = request.get("keep_alive")
        if not prompt and keep_alive is not None and seconds(keep_alive) == 0:
            self.scheduler.unload(name)
            self._say(name, "", request, chat, "unload")
            return
        self.scheduler.use(name, keep_alive)
        try:
            if prompt:
                self.scheduler.answer(int((request.get("options") or {}).get("num_predict", _WORDS)))
            self._say(name, f"this is {name} speaking" if prompt else "", request, chat, "stop" if prompt else "load")
        finally:
            self.scheduler.done(name)

    def _say(self, name: str, text: str, request: JSON, chat: bool, reason: str) -> None:
        answer: dict[str, Any] = {"model": name, "created_at": _stamp(time.time())}
        answer |= {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
        answer |= {"done": True, "done_reason": reason}
        if request.get("stream", True):
            self._send(200, "application/x-ndjson", (json.dumps(answer) + "\n").encode())
        else:
            self.send_json(200, answer)


def main() -> None:
    if sys.argv[1:2] in (["--version"], ["-v"]):
        print(f"ollama version is {VERSION}")
        return
    if sys.argv[1:] != ["serve"]:
        raise SystemExit("usage: ollama serve")
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").removeprefix("http://").partition(":")
    handler = type("BoundHandler", (OllamaHandler,), {"scheduler": Scheduler()})
    server = Server(host, int(port or 11434), handler)
    if behaviour.load("ollama").fail == "gone":
        signal.pause()  # Alive, and nobody listens.
    server.server_activate()
    log("INFO", f"Listening on {host}:{port} (stand-in, version {VERSION})")
    server.serve_forever(POLL_SECONDS)
