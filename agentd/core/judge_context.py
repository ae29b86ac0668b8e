"""What a verdict is reached from: a unit's view, evidence and host in one record, and a few questions asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.core.directives_spec import Spec
from agentd.core.loaded import Loaded
from agentd.core.unitfile import Setting
from agentd.evidence import CgroupLevel, HostEvidence, PathEvidence, ProcessEvidence, UnitEvidence, UnitView
from agentd.findings import Verdict
from agentd.types import Scope

INITIAL_UID_MAP = "0 0 4294967295"


@dataclass(frozen=True, slots=True)
class Item:
    """One directive to be judged."""

    spec: Spec
    setting: Setting
    loaded: Loaded


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the evidence says of one process, or of the cgroup. `ok` is None where it does not show it."""

    ok: bool | None
    text: str
    """What was measured, for a reader: "/usr is writable"."""
    cause: str = ""
    fix: str = ""
    verdict: Verdict | None = None
    """Set where the evidence leaves no other word than this."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    view: UnitView
    evidence: UnitEvidence | None
    host: HostEvidence
    settings: Mapping[tuple[str, str], Setting]
    """Of the files as they are on the disk, merged."""
    section: str = "Service"
    changed: Mapping[str, float] = field(default_factory=dict)
    """Time of the last change of each file, by path."""
    processes: tuple[ProcessEvidence, ...] = ()
    """The main process first."""

    @property
    def unit(self) -> str:
        return self.view.state.name

    @property
    def user(self) -> bool:
        return self.host.scope is Scope.USER

    @property
    def unprivileged(self) -> bool:
        """The manager itself may not mount, lower a score, or raise a limit."""
        return self.user and self.host.uid != 0

    @property
    def levels(self) -> tuple[CgroupLevel, ...]:
        return self.evidence.levels if self.evidence is not None else ()

    def setting(self, key: str) -> Setting | None:
        return self.settings.get((self.section, key))

    def has(self, name: str) -> bool:
        """A boolean property (or word) is loaded as set."""
        value = self.view.properties.get(name)
        return value is True or (isinstance(value, str) and value not in ("", "no", "default", "all", "inherit"))

    def own(self, path: str) -> PathEvidence | None:
        """As we see it ourselves."""
        return self.evidence.own_paths.get(path) if self.evidence is not None else None

    def own_namespace(self, name: str) -> str:
        return self.evidence.own_namespaces.get(name, "") if self.evidence is not None else ""

    def systemctl(self, command: str) -> str:
        return f"systemctl --user {command}" if self.user else f"systemctl {command}"

    @property
    def restart(self) -> str:
        return self.systemctl(f"restart {self.unit}")


@dataclass(frozen=True, slots=True)
class Look:
    """One directive at one process; `entry` is one of a path list."""

    context: Context
    item: Item
    process: ProcessEvidence
    entry: str = ""


def has_user_namespace(context: Context, process: ProcessEvidence) -> bool | None:
    """The process has a user namespace of its own; None when that cannot be read."""
    theirs, ours = process.namespaces.get("user", ""), context.own_namespace("user")
    if theirs and ours:
        return theirs != ours
    if process.uid_map is None:
        return None
    return process.uid_map != INITIAL_UID_MAP


def same_namespace(context: Context, process: ProcessEvidence, name: str) -> bool | None:
    """The process shares our namespace of this kind; None when either cannot be read."""
    theirs, ours = process.namespaces.get(name, ""), context.own_namespace(name)
    return theirs == ours if theirs and ours else None


def unreadable(process: ProcessEvidence, what: str) -> Outcome:
    why = process.problem or f"{what} cannot be read"
    return Outcome(None, f"{what}: not readable", f"process {process.pid} cannot be looked at: {why}")
