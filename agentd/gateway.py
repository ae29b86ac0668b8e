"""The gateway as agentd last saw it. Times are wall-clock seconds; a digest is a sha256 in hex, "" when not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agentd.findings import Finding


class GatewayState(StrEnum):
    """The one word for it, worst first."""

    OPEN = "open"
    """It answers without a key: anybody who reaches it may use the models."""
    CONFIG_ERROR = "config-error"
    """LiteLLM refused its configuration; starting it again does not help."""
    DOWN = "down"
    STARTING = "starting"
    UNREADY = "unready"
    """It answers, with other models than the file promises, or refuses our key."""
    APPLYING = "applying"
    """A change is under way."""
    OUTDATED = "outdated"
    """It serves, by another configuration than the file's."""
    STALE = "stale"
    """It serves by the file, which is not what the sources give."""
    READY = "ready"
    UNMANAGED = "unmanaged"
    """Its file is not one of ours, so all that is known is whether it answers."""
    UNKNOWN = "unknown"
    """Nobody has looked yet."""


SERVING = (
    GatewayState.READY,
    GatewayState.STALE,
    GatewayState.OUTDATED,
    GatewayState.APPLYING,
    GatewayState.UNMANAGED,
)


@dataclass(frozen=True, slots=True)
class GatewayProblem:
    """What validation says, for the wire. `place`: FILE:LINE:COLUMN."""

    check: str
    severity: str
    place: str
    value: str
    text: str
    fix: str


@dataclass(frozen=True, slots=True)
class GatewayFigures:
    """From LiteLLM's own metrics, since its start. Empty where it has none, or nothing happened yet."""

    deployments: Mapping[str, int] = field(default_factory=dict)
    """Deployment -> 0 healthy, 1 partly failing, 2 out of use."""
    cooldowns: Mapping[str, int] = field(default_factory=dict)
    """Deployment -> times that its breaker opened."""
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    """Model -> requests for it that another one answered."""
    failed_fallbacks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlotModelStatus:
    """A model of the gateway that is there only while its slot holds it."""

    model: str
    service: str
    slot: str
    when_absent: str
    resident: bool


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    service: str
    unit: str
    url: str = ""
    state: GatewayState = GatewayState.UNKNOWN
    summary: str = ""
    """Why it is in that state, in one sentence; "" when all is well."""
    at: float = 0.0
    """When it was last looked at; 0 for never."""
    alive: bool = False
    ready: bool = False
    """It answers, lists exactly the models of the file, takes our key and refuses to answer without one."""
    version: str = ""
    """LiteLLM's."""
    running_digest: str = ""
    file_digest: str = ""
    wanted_digest: str = ""
    """What the sources give now; "" while they are refused."""
    up_to_date: bool | None = None
    """The file is what the sources give; None while they are refused or were not read."""
    running_matches: bool | None = None
    """The process read the file as it is now; None while it does not say."""
    edited: bool = False
    """The file was changed by hand since it was generated."""
    expected: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    key_ok: bool | None = None
    """None without an answer, or without a key to try."""
    open_without_key: bool | None = None
    blue_green: bool = False
    """Its socket and its standby are installed, so that a new configuration is applied without an interruption."""
    standby: str = ""
    """The standby's state when it is up, else ""."""
    change: str = ""
    """Id of the change that is at work on it."""
    problems: tuple[GatewayProblem, ...] = ()
    models: tuple[SlotModelStatus, ...] = ()
    figures: GatewayFigures | None = None
    findings: tuple[Finding, ...] = ()
