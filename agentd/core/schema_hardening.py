"""The shape of the configuration, continued: hardening of a service, profiles, and what follows from a finding."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from agentd.core.schema_types import Addresses, DirectiveNames, Directives, MemoryLimit, Quota, UnitPaths

Network = Literal["any", "localhost", "private", "internet"]
"""Whom a service may talk to: everybody; this machine; also private networks; everybody but private networks."""

PACKAGED = ("gateway", "gpu", "store", "generic")
NO_PROFILE = "none"

Weight = Annotated[int, Meta(ge=0, le=10_000)]
Number = Annotated[int, Meta(ge=0, le=4_194_304)]


class Hardening(Struct, frozen=True, forbid_unknown_fields=True):
    """What a service wants different from its profile. 0 and "" leave the profile's value as it is."""

    memory_max: MemoryLimit = MemoryLimit("")
    memory_high: MemoryLimit = MemoryLimit("")
    memory_swap_max: MemoryLimit = MemoryLimit("")
    cpu_quota: Quota = Quota("")
    cpu_weight: Weight = 0
    io_weight: Weight = 0
    tasks_max: Number = 0
    open_files: Number = 0
    write_paths: UnitPaths = ()
    """Writable besides what the profile names."""
    hide_paths: UnitPaths = ()
    """Inaccessible besides what the profile names."""
    allow_addresses: Addresses = ()
    """Reachable whatever `network` says."""
    set: Directives = field(default_factory=dict)
    """Directives that replace those of the profile; an empty value resets what the unit itself says."""
    unset: DirectiveNames = ()
    """Directives of the profile to leave out."""


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """A profile of the user's own: another one with differences."""

    base: str = ""
    """A packaged or another configured profile; "" starts from nothing."""
    security: Directives = field(default_factory=dict)
    resources: Directives = field(default_factory=dict)
    unset: DirectiveNames = ()


class HardeningPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    readiness: Literal["report", "degrade"] = "report"
    """Whether a service whose hardening is not in effect counts as degraded."""
    verify: bool = True
    """Look at the running processes; false: install the drop-ins only."""
