"""An act that the canary tries, and what it is expected to show. Pure data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

from agentd.findings import Finding


class Expect(StrEnum):
    DENIED = auto()
    """Refused by the directive, and possible without it."""
    ALLOWED = auto()
    """The service needs it; refused, the sandbox breaks the service."""
    GRANTED = auto()
    """Possible by the directive, and refused without it."""
    DIFFERS = auto()
    """The detail names something of the canary's own, which is another one without the directive."""
    VALUE = auto()
    """The detail is `Act.value`; "<=HEX" and ">=HEX" compare bit masks."""


@dataclass(frozen=True, slots=True)
class Act:
    """`name`: what the program is told, "KIND" or "KIND:ARGUMENT". `keys`: the directives that it is about."""

    name: str
    keys: tuple[str, ...]
    expect: Expect = Expect.DENIED
    value: str = ""
    errno: str = ""
    """How the directive refuses; a refusal with another errno has another reason, and shows nothing."""

    @property
    def argument(self) -> str:
        return self.name.partition(":")[2]

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def words(self) -> str:
        """What was tried, for a reader."""
        argument = self.argument
        if self.kind == "family":
            argument = next((name for name, number in FAMILIES.items() if str(number) == argument), argument)
        return _WORDS.get(self.kind, self.name).replace("{}", argument)


FAMILIES: Mapping[str, int] = {
    "AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_KEY": 15, "AF_NETLINK": 16, "AF_PACKET": 17, "AF_CAN": 29,
    "AF_TIPC": 30, "AF_BLUETOOTH": 31, "AF_ALG": 38, "AF_VSOCK": 40, "AF_KCM": 41, "AF_XDP": 44,
}  # fmt: skip
"""Those that are tried."""

_WORDS: Mapping[str, str] = {
    "bind": "bind to port {}",
    "bus": "talk to {}",
    "call": "{}()",
    "device": "open {}",
    "enter": "setns {}",
    "execute": "execute {}",
    "exists": "see {}",
    "family": "{}",
    "foreign-abi": "system call of another ABI",
    "identity": "own {}",
    "kernel-log": "read the kernel's log",
    "mmap-wx": "mmap W+X",
    "mprotect-x": "mprotect W to X",
    "mount": "change {}",
    "notify": "notify systemd",
    "open-files": "open more than {} files",
    "personality": "change the personality",
    "read": "read {}",
    "realtime": "realtime scheduling",
    "send": "send to {}",
    "set-id": "set the set-user-ID bit",
    "signal": "signal process {}",
    "systemd-run": "systemd-run {}",
    "unshare": "unshare {}",
    "value": "{}",
    "write": "write {}",
}


def key_of(finding: Finding) -> str:
    """The directive that a finding is about: "ReadOnlyPaths" of an aspect "ReadOnlyPaths=/srv"."""
    return finding.aspect.partition("=")[0].partition(" ")[0]


def told(results: Iterable[tuple[str, str]], *, most: int = 8) -> str:
    """(what was tried, what came of it) for a reader: "bpf(), mount(): EPERM; ptrace(): allowed"."""
    groups: dict[str, list[str]] = {}
    for words, result in results:
        groups.setdefault(result, []).append(words)
    return "; ".join(f"{_enumerated(words, most)}: {result}" for result, words in groups.items())


def _enumerated(words: Sequence[str], most: int) -> str:
    shown = ", ".join(words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
