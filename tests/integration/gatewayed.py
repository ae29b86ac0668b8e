"""The real LiteLLM in front of the stack's models, and clients that never stop asking."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integration.stack import Stack, until
from userunits import systemctl

ROOT = Path(__file__).resolve().parents[2]
LITELLM = ROOT / ".cache/litellm-venv/bin/litellm"
GATEWAY, STANDBY, SOCKET = "litellm.service", "litellm-standby.service", "litellm.socket"
UNITS = (SOCKET, STANDBY, GATEWAY)
KEY = "sk-Zr8wq3VdT0y2mXcJ7uPfLh5sKbN9aGeR4oQiW1tYxDk"
VLLM_KEY = "Jq2xVb7nLw0sRt5yHc8mKd3fGz6pXe1uTa9oWiQkYvB"
PORT = 4001
PATIENCE = 60.0
"""Seconds for one answer: no client may hang."""

PROVIDERS = """\
# Two of a slot.
providers:
  vllm-qwen: {kind: vllm, port: qwen, service: qwen, key: VLLM_API_KEY}
  vllm-dolphin: {kind: vllm, port: dolphin, service: dolphin, key: VLLM_API_KEY}
"""
PORTS = "ports:\n  gateway: {port: 4001, unit: litellm.socket}\n  qwen: 8001\n  dolphin: 8002\n"
MODELS = """\
models:
  qwen: {provider: vllm-qwen, model: qwen, fallbacks: [dolphin]}
  dolphin: {provider: vllm-dolphin, model: dolphin, when_absent: refuse}
  patient: {provider: vllm-dolphin, model: dolphin, when_absent: wait}
policy:
  limits: {vllm: {rpm: 0, tpm: 0}}
  timeouts: {try: 20s, silence: 20s, answer: 60s, wait: 20s}
  retries: 0
"""


class Gateway:
    """`stack` with the shipped units of the gateway, and sources of its own."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.sources = stack.config / "gateway"
        self.file = stack.home / ".config/litellm/litellm-unified.yaml"
        self.candidate = self.file.with_name("litellm-candidate.yaml")

    def install(self) -> None:
        assert LITELLM.exists(), "run tests/integration/install_litellm first"
        self.remove()
        (self.stack.home / ".local/bin/litellm").write_text(f'#!/bin/sh\nexec {LITELLM} "$@"\n')
        keys = self.stack.config / "litellm.env"
        vllm = (self.stack.config / "vllm.env").read_text()
        keys.write_text(f"LITELLM_MASTER_KEY={KEY}\n{vllm}")
        keys.chmod(0o600)
        self.file.unlink(missing_ok=True)
        self.write(MODELS)
        (self.sources / "providers.yaml").write_text(PROVIDERS)
        (self.sources / "ports.yaml").write_text(PORTS)
        systemctl("start", SOCKET)

    def remove(self) -> None:
        """With what an earlier one kept."""
        systemctl("stop", *UNITS, check=False)
        systemctl("reset-failed", *UNITS, check=False)

    def write(self, models: str) -> None:
        self.sources.mkdir(parents=True, exist_ok=True)
        (self.sources / "model-mappings.yaml").write_text(models)

    # -- agentd ---------------------------------------------------------------------------------------------------

    def apply(self) -> dict[str, Any]:
        return self.stack.post("/v1/gateway/apply")

    def applied(self, timeout: float = 240.0) -> dict[str, Any]:
        return self.stack.ended(self.apply(), timeout)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stack.client.get("/v1/gateway")["gateway"]
        return found

    def look(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stack.client.post("/v1/gateway/verify", timeout=30.0)["gateway"]
        return found

    def change(self, change: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.stack.client.get(f"/v1/changes/{change['id']}")
        return found

    # -- past agentd ----------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/models", headers=headers())
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return sorted(item["id"] for item in json.load(answer)["data"])

    def rests(self) -> bool:
        """One LiteLLM, no standby, no candidate."""
        return (
            self.stack.show(GATEWAY, "ActiveState") == "active"
            and self.stack.show(STANDBY, "ActiveState") != "active"
            and not self.candidate.exists()
        )

    def journal(self) -> str:
        return "\n".join(f"-- {unit}\n{self.stack.journal(unit, 60)}" for unit in (GATEWAY, STANDBY))


@dataclass(frozen=True)
class Answer:
    status: int
    """0: none."""
    at: float
    seconds: float
    text: str = ""
    retry_after: str = ""


def headers() -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}


def ask(model: str) -> Answer:
    """One chat completion on a connection of its own; never raises."""
    began = time.monotonic()
    body = {"model": model, "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 4}
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers())
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        again = response.headers.get("retry-after", "")
        return Answer(response.status, began, time.monotonic() - began, text, again)
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, began, time.monotonic() - began, f"{type(error).__name__}: {error}")
    finally:
        connection.close()


@dataclass
class Load:
    """What the clients got."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    def slowest(self) -> float:
        return max((answer.seconds for answer in self.answers), default=0.0)


@contextlib.contextmanager
def load(model: str, clients: int = 2, pause: float = 0.05) -> Iterator[Load]:
    """Clients that ask again and again until the block ends; each has had its last answer then."""
    done, seen = threading.Event(), Load()

    def client() -> None:
        while not done.wait(pause):
            seen.answers.append(ask(model))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE + 10)


def settled(gateway: Gateway, condition: Callable[[], bool], timeout: float = 120.0) -> None:
    until(condition, timeout, lambda: f"{gateway.status()}\n{gateway.journal()}")
