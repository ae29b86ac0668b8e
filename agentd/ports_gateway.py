"""The gateway's outside world as Protocols: its files, a running proxy, a scratch one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agentd.core.gateway.problems import Problem
from agentd.core.gateway.tree import Node


@dataclass(frozen=True, slots=True)
class SourceSet:
    """The sources as they lie on the disk. `problems`: what could not be read or parsed (then the tree is missing)."""

    directory: str
    texts: Mapping[str, str]
    """File name ("providers.yaml") -> text."""
    trees: Mapping[str, Node]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """An earlier generated file. `id` sorts by age: "20261121T194001-1a2b3c4d" (UTC, start of the digest)."""

    id: str
    written: float
    """Seconds since the epoch."""
    digest: str
    path: str


class GatewayFiles(Protocol):
    """Sources and the generated file. A failing write raises AgentdError and leaves what was there."""

    async def sources(self) -> SourceSet: ...

    async def generated(self) -> str | None:
        """The text of the generated file, None when there is none."""
        ...

    async def write(self, text: str) -> Version | None:
        """Replace the generated file, atomically, mode 0600; the one before is kept as a version, the oldest beyond
        `keep` go. Returns the version that keeps the old text; None when there was none, or it was the same."""
        ...

    async def write_candidate(self, text: str) -> str:
        """The candidate beside the generated file; its path."""
        ...

    async def remove_candidate(self) -> None: ...

    async def versions(self) -> Sequence[Version]:
        """Newest first."""
        ...

    async def version_text(self, version: str) -> str:
        """Raises AgentdError("version-not-found") that names the versions there are."""
        ...

    async def environment(self) -> Mapping[str, str]:
        """The variables of the env file; {} when there is none. Secrets: never log them."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a proxy answers: "http://127.0.0.1:4001", or a unix socket with `url` only naming the host."""

    url: str
    socket: str = ""


@dataclass(frozen=True, slots=True)
class ProxyState:
    """One look at a running LiteLLM; `error` says why there is nothing to see."""

    alive: bool
    """GET /health/liveliness answered 200."""
    models: tuple[str, ...] = ()
    """/v1/models with the key, sorted."""
    key_status: int = 0
    """Status of /v1/models with the key: 200 right, 400 or 401 wrong."""
    open_status: int = 0
    """Status of /v1/models without a key: must be 401."""
    digest: str = ""
    """Of the config that the process read; "" when it was not started by `agentctl gateway serve`."""
    pid: int = 0
    shared: bool = False
    """It accepts on the gateway's own socket (a standby may not yet)."""
    version: str = ""
    error: str = ""


class GatewayProxy(Protocol):
    """HTTP to a running proxy; no call takes longer than `timeout` seconds, none raises for an answer."""

    async def look(self, endpoint: Endpoint, key: str, *, timeout: float, keyless: bool = True) -> ProxyState:
        """Without `keyless` nothing is asked without a key, for which LiteLLM logs a traceback each time, and
        `open_status` is 0."""
        ...

    async def metrics(self, endpoint: Endpoint, key: str, *, timeout: float) -> str:
        """LiteLLM's own exposition; "" when it has none. Raises AgentdError("probe-failed")."""
        ...


class ScratchProxy(Protocol):
    """A LiteLLM of ours on a spare loopback port, ended with us."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def pid(self) -> int: ...

    def log(self, lines: int = 50) -> tuple[str, ...]:
        """The last lines that it wrote, without secrets."""
        ...

    async def stop(self) -> None: ...


class ScratchProxies(Protocol):
    async def start(
        self, config: str, environment: Mapping[str, str], *, timeout: float, plain: bool = False
    ) -> ScratchProxy:
        """Runs once it answers /health/liveliness. `config`: a path. `plain`: without our runtime. Raises
        AgentdError("gateway-start") with its exit status in words and its last lines."""
        ...


@dataclass(frozen=True, slots=True)
class SlotRoute:
    """What a slot holds now. Both are names of services; None: nothing."""

    resident: str | None
    switching_to: str | None = None
    retry_after: int = 5
    """Seconds after which a client may ask again."""


@dataclass(frozen=True, slots=True)
class Routes:
    """Written by agentd for the proxy's runtime, at every change of a slot: JSON
    {"version": 1, "written": EPOCH, "slots": {"gpu0": {"resident": "qwen", "switching_to": null, "retry_after": 5}}}
    """

    slots: Mapping[str, SlotRoute] = field(default_factory=dict)


ROUTES_FILE = "routes.json"
"""Below $XDG_RUNTIME_DIR/agentd-gateway, the directory of the gateway's units; the runtime finds it there, or by
$AGENTD_ROUTES."""
ROUTES_LOCK = ROUTES_FILE + ".lock"
"""Held by agentd while it lives: without it the runtime does not believe the file."""
