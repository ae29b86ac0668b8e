"""The %-specifiers of unit files, as far as the host's evidence tells what they stand for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agentd.evidence import HostEvidence
from agentd.types import Scope

_SPECIFIER = re.compile(r"%(.)", re.DOTALL)
_ESCAPED = re.compile(rb"\\x([0-9a-fA-F]{2})")
_STATE_DIRECTORIES = 254
"""From this version on %S and %L of a user manager lie below ~/.local/state; before, below ~/.config."""
_SYSTEM = {"t": "/run", "S": "/var/lib", "C": "/var/cache", "L": "/var/log", "E": "/etc"}


def expand(text: str, unit: str, host: HostEvidence) -> str:
    """A specifier that we cannot know (%H, %m, %b, ...) stays as it is; see `complete`."""
    if "%" not in text:
        return text
    table = values(unit, host)
    return _SPECIFIER.sub(lambda match: table.get(match[1], match[0]), text)


def complete(text: str, unit: str, host: HostEvidence) -> bool:
    """Every specifier in it is known."""
    table = values(unit, host)
    return all(match[1] in table for match in _SPECIFIER.finditer(text))


def values(unit: str, host: HostEvidence) -> Mapping[str, str]:
    """What each known letter stands for."""
    name, _, _ = unit.rpartition(".")
    prefix, _, instance = name.partition("@")
    last = prefix.rpartition("-")[2]
    found = {"%": "%", "n": unit, "N": name, "p": prefix, "i": instance, "j": last}
    found |= {letter.upper(): unescape(found[letter]) for letter in "pij"}
    found |= {"f": "/" + unescape(instance or prefix).lstrip("/"), "T": "/tmp", "V": "/var/tmp", "U": str(host.uid)}
    found |= _directories(host)
    if host.uid == 0:
        found["u"] = "root"
    if host.home:
        found["h"] = host.home
    if host.kernel:
        found["v"] = host.kernel
    found["d"] = f"{found['t']}/credentials/{unit}" if "t" in found else "%d"
    return found


def _directories(host: HostEvidence) -> dict[str, str]:
    if host.scope is Scope.SYSTEM:
        return dict(_SYSTEM)
    found = {"t": host.runtime_dir} if host.runtime_dir else {}
    if not host.home:
        return found
    newer = host.systemd >= _STATE_DIRECTORIES
    state = f"{host.home}/.local/state" if newer else f"{host.home}/.config"
    return {**found, "S": state, "C": f"{host.home}/.cache", "L": f"{state}/log", "E": f"{host.home}/.config"}


def unescape(text: str) -> str:
    """systemd-escape, undone: "-" is "/", "\\x2d" a byte."""
    data = text.replace("-", "/").encode(errors="surrogateescape")
    return _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), data).decode(errors="replace")
