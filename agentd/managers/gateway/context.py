"""What the gateway's manager works with: the service, its units, its policy, and the ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from agentd.core.gateway.generated import Rendered
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.section import Section
from agentd.core.schema_gateway import GatewayPolicy
from agentd.ports import Clock, Files, JournalReader, Kernel, UnitControl
from agentd.ports_gateway import Endpoint, GatewayFiles, GatewayProxy, ScratchProxies

T = TypeVar("T")


class Aside(Protocol):
    """Runs what needs the processor for long, in a thread."""

    async def __call__(self, work: Callable[[], T]) -> T: ...


class Plan(Protocol):
    """What the sources give now, beside what the file holds."""

    @property
    def rendered(self) -> Rendered | None:
        """None while the sources are refused."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]: ...

    @property
    def current(self) -> str | None:
        """The text of the generated file; None when there is none."""
        ...

    @property
    def delta(self) -> str:
        """What would change in the file, for a person."""
        ...

    @property
    def up_to_date(self) -> bool: ...

    @property
    def edited(self) -> bool:
        """The generated file was changed by hand."""
        ...


class Planner(Protocol):
    async def plan(self) -> Plan: ...


@dataclass(frozen=True, slots=True)
class FileText:
    """A generated file as read: `digest` of its body; `section` None when it is none of ours."""

    digest: str
    edited: bool
    section: Section | None


@dataclass(frozen=True, slots=True)
class GatewayPorts:
    control: UnitControl
    kernel: Kernel
    journal: JournalReader
    clock: Clock
    proxy: GatewayProxy
    runtime_files: Files
    """Allows agentd's runtime directory."""
    routes_path: str
    aside: Aside
    read: Callable[[str], FileText]
    """Of a generated file's text. Slow: call it aside. Raises AgentdError for one that is no YAML."""
    scratch: Callable[[GatewayPolicy], ScratchProxies]
    """Blocks: call it aside. Raises AgentdError("gateway-no-litellm")."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Replaced as a whole when the configuration changes."""

    name: str
    unit: str
    url: str
    policy: GatewayPolicy
    files: GatewayFiles
    planner: Planner
    """For looks: it asks nobody."""
    careful: Planner
    """For a change: it asks the providers, too, and looks who listens."""
    control_dir: str
    """Where the control sockets are."""

    @property
    def stem(self) -> str:
        return self.unit.removesuffix(".service")

    @property
    def socket_unit(self) -> str:
        return f"{self.stem}.socket"

    @property
    def standby_unit(self) -> str:
        return f"{self.stem}-standby.service"

    @property
    def public(self) -> Endpoint:
        return Endpoint(self.url)

    @property
    def control(self) -> Endpoint:
        return Endpoint(self.url, f"{self.control_dir}/litellm.sock")

    @property
    def standby(self) -> Endpoint:
        return Endpoint(self.url, f"{self.control_dir}/standby.sock")

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or 80

    def key(self, environment: Mapping[str, str], section: Section | None) -> str:
        """The key that clients use; "" when there is none to try. A secret: it goes nowhere but to the proxy."""
        return environment.get(section.key_variable, "") if section is not None and section.key_variable else ""
