"""The packaged profiles on a stack's units: drop-ins as they are rendered, written without agentd."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from integration.stack import Stack, until
from userunits import systemctl

from agentd import resources
from agentd.adapters.config_files import load
from agentd.core import dropin
from agentd.core.dropin import DropIn
from agentd.core.profile import desired
from agentd.evidence import HostEvidence
from agentd.types import Scope

STANDIN_GPU = """\
[services.qwen.hardening]
write_paths = ["%t/standin-gpu"]
[services.dolphin.hardening]
write_paths = ["%t/standin-gpu"]
"""
"""The stand-ins note in that directory what they hold of a GPU that is not there."""


def host() -> HostEvidence:
    version = systemctl("--version").split()[1]
    return HostEvidence(scope=Scope.USER, systemd=int(version), home=str(Path.home()))


def declared(stack: Stack, config: str) -> tuple[DropIn, ...]:
    stack.write_config("75-profiles.toml", STANDIN_GPU + config)
    settings = load([stack.config], home=str(stack.home)).settings
    gates = [
        dropin.readiness(s.unit, url, 60, agentctl=str(stack.home / ".local/bin/agentctl"))
        for s in settings.services.values()
        if s.gate and (url := gate_url(s.role, s.url))
    ]
    return (*desired(settings, resources.profile_texts(), host()), *gates)


def gate_url(role: str, url: str) -> str:
    paths = {"model": "/health", "runtime": "/api/version", "gateway": "/health/liveliness", "store": ""}
    return url + paths[role] if role in paths else ""


def install(stack: Stack, config: str = "") -> None:
    for one in declared(stack, config):
        path = stack.units / one.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(one.text)
    systemctl("daemon-reload")


def root_of(stack: Stack, unit: str) -> Path:
    """The file system as the unit's main process sees it."""
    return Path(f"/proc/{stack.pid(unit)}/root")


def readonly(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def hidden(path: Path) -> bool:
    return path.lstat().st_mode & 0o7777 == 0


def status(pid: int) -> Mapping[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


class Redis:
    """A connection of a test; knows as much of the protocol as the tests ask."""

    def __init__(self, port: int = 6379) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def __call__(self, *words: str) -> str:
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
        self._socket.sendall(b"*%d\r\n%s" % (len(words), parts))
        return self._answer()

    def _answer(self) -> str:
        kind, rest = self._file.read(1), self._file.readline().decode().strip()
        if kind == b"$":
            return self._file.read(int(rest) + 2).decode()[:-2] if rest != "-1" else ""
        assert kind in (b"+", b":"), f"redis says {rest}"
        return rest

    def info(self, section: str) -> Mapping[str, str]:
        lines = self("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def until_written(self, *flags: str) -> Mapping[str, str]:
        """Persistence, once nothing is being written any more."""
        until(lambda: all(self.info("persistence")[flag] == "0" for flag in flags))
        return self.info("persistence")


def probe_unit(stack: Stack, name: str, program: Path) -> str:
    """A oneshot unit that runs a program of the test and leaves its answer in the journal."""
    unit = f"{name}.service"
    text = f"[Service]\nType=oneshot\nExecStart=/usr/bin/python3 -I {program}\nStandardOutput=file:%t/{name}.json\n"
    (stack.units / unit).write_text(text)
    return unit


def answer_of(name: str) -> Any:
    path = Path(os.environ["XDG_RUNTIME_DIR"]) / f"{name}.json"
    return json.loads(path.read_text())
