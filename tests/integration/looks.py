"""Ways to look at agentd from outside that several modules share: its log by priority, its TCP door, its unit."""

from __future__ import annotations

import http.client
import json
import subprocess
from dataclasses import dataclass
from typing import Any

from integration.stack import Stack, until
from userunits import systemctl

AGENTD = "agentd.service"
NO_DEFAULT = '[slots.gpu0]\ndefault = ""\n'
"""A stack whose slot stays empty until a test asks for a model."""
PORT = 9775


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def tcp(path: str, *, method: str = "GET", port: int = PORT, timeout: float = 30.0, **headers: str) -> Answer:
    """One request over the loopback door. Raises OSError when nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, fields, answer.read().decode())
    finally:
        connection.close()


def complaints(stack: Stack, priority: str = "warning") -> str:
    """What agentd, and systemd about it, said at this priority or above since the installation."""
    argv = ["journalctl", "--no-pager", "-o", "cat", "-p", priority, f"--since=@{stack.since:.3f}"]
    argv.append(f"--user-unit={AGENTD}")
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout


def gating(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What concerns exclusion and readiness; hardening has its own tests, and is not installed in most others."""
    ours = ("90-agentd-exclusive.conf", "90-agentd-readiness.conf")
    return [f for f in findings if f["aspect"] == "Conflicts=" or f["aspect"].endswith(ours)]


def service(stack: Stack, name: str) -> dict[str, Any]:
    found: dict[str, Any] = stack.client.get(f"/v1/services/{name}")
    return found


def becomes(stack: Stack, name: str, health: str, timeout: float = 60.0) -> dict[str, Any]:
    """The service once its health is this."""
    seen: dict[str, Any] = {}

    def there() -> bool:
        seen.update(service(stack, name))
        return bool(seen["health"] == health)

    until(there, timeout, lambda: f"{name} does not become {health}: {seen}")
    return seen


def supervised(stack: Stack, name: str) -> bool:
    return any(found["name"] == name for found in stack.client.get("/v1/services")["services"])


def agentd_active() -> bool:
    return systemctl("show", "-P", "ActiveState", AGENTD) == "active"
