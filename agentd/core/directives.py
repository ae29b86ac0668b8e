"""The directives that are judged, by name, and what to say of a name that systemd does not know. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from agentd.core.directives_cgroup import CGROUP
from agentd.core.directives_exec import EXEC
from agentd.core.directives_known import ALIASES, KNOWN, NEWER
from agentd.core.directives_spec import Check, Kind, Spec

__all__ = ["TABLE", "Check", "Kind", "Spec", "known", "lookup", "section_of", "since", "suggest"]

TABLE: Mapping[str, Spec] = {spec.key: spec for spec in (*EXEC, *CGROUP)}

_CGROUP_KEYS = frozenset(spec.key for spec in CGROUP)
_SECTIONS = {"service": "Service", "slice": "Slice", "scope": "Scope", "socket": "Socket", "mount": "Mount"}
_UNKNOWN_WHEN = 253
"""The first version after 252, for keys of which only is known that 252 has not got them."""


def lookup(key: str) -> Spec | None:
    return TABLE.get(ALIASES.get(key, key))


def section_of(unit: str) -> str:
    """Where the directives of a unit of this type stand: "Service"."""
    return _SECTIONS.get(unit.rpartition(".")[2], "Service")


def known(section: str, key: str) -> bool:
    """systemd reads such a key, in some version. True too for sections that are not in the table."""
    if key.startswith("X-") or section.startswith("X-"):
        return True
    keys = KNOWN.get("Service" if section in _SECTIONS.values() else section)
    return keys is None or key in keys


def since(key: str, value: str = "") -> int:
    """The version that brought the key, or the value where that came later; 0 for what all have."""
    spec = lookup(key)
    came = spec.since if spec is not None else 0
    if not came and key in NEWER:
        came = _UNKNOWN_WHEN
    return max(came, spec.words_since.get(value, 0)) if spec is not None else came


def suggest(section: str, key: str) -> str:
    """The key that was probably meant, or ""."""
    for name in dict.fromkeys((section, "Service", "Unit", "Install")):
        close = get_close_matches(key, sorted(KNOWN.get(name, ())), n=1, cutoff=0.8)
        if close:
            return close[0]
    return ""
