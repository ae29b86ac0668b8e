"""What the checks may know beyond the sources. A field left at its default was not looked at, and what needs it is not
checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.core.gateway.install import Install


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """Variables of an environment file, with their values: neither printed nor kept by anything that checks them."""

    values: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(sorted(self.values))})"


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens on a port; pid 0 and empty names where the kernel does not tell us."""

    pid: int = 0
    comm: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ClientFact:
    """What a client's environment file holds: the variable that is meant, and its value ("" without one)."""

    variable: str
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file that holds keys. `mode`: the permission bits; `own`: it belongs to whoever looks; `problem`: why it could
    not be read, "" when it could."""

    exists: bool = True
    mode: int = 0o600
    own: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ServiceFact:
    """A service of agentd.toml."""

    unit: str
    url: str = ""
    role: str = "generic"
    slot: str = ""
    served_name: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Maps and texts that are None were not looked at."""

    env_file: str = ""
    """Path of the file that `environment` was read from."""
    environment: Secrets | None = None
    clients: Mapping[str, ClientFact] = field(default_factory=dict)
    """Path of a client's environment file -> its key. One that cannot be read is only in `files`."""
    service_keys: Secrets | None = None
    """Service -> the key that its server takes, by its unit's environment files; else by what agentd uses itself; ""
    where it takes none."""
    agentd_keys: Secrets | None = None
    """Service -> the key by which agentd itself asks it (api_key_file)."""
    files: Mapping[str, FileFact] = field(default_factory=dict)
    """Path of the env file and of the clients' files."""
    listeners: Mapping[int, Listener] | None = None
    """Every port of the registry on which somebody listens."""
    reachable: Mapping[str, str] | None = None
    """Provider -> "", or why it does not answer; a provider that is missing was not asked."""
    resident: Mapping[str, str | None] | None = None
    """Slot -> the service that it holds now, None for none."""
    generated: str | None = None
    """Text of the generated file; "" when there is none."""
    config: str = ""
    """Path of the generated file."""
    install: Install | None = None
    services: Mapping[str, ServiceFact] | None = None
