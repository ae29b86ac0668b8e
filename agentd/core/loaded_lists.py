"""Lists: what is declared over several lines and files, compared to the one list that systemd has. Pure.

Every function gives (declared value, whether they agree, loaded value); the latter two are None without a property.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentd.core import loaded_values as values
from agentd.core.directives_spec import Kind, Spec
from agentd.core.specifiers import complete, expand
from agentd.core.unitfile import Setting, words
from agentd.evidence import HostEvidence

Compared = tuple[object, bool | None, object]

_TAKEN_AWAY = sum(1 << bit for bit in (16, 17, 25, 27, 34, 35))
"""What ProtectKernelModules=, PrivateDevices=, ProtectClock= and ProtectKernelLogs= take out of the bounding set."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One comparison: a directive with its setting, and where %-specifiers get their values."""

    spec: Spec
    setting: Setting
    properties: Mapping[str, object]
    unit: str
    host: HostEvidence

    @property
    def found(self) -> object:
        return self.properties.get(self.spec.property)

    def words(self) -> list[str]:
        """Expanded words of all lines. One with a specifier that we do not know is left out."""
        found = [word for value in self.setting.values for word in words(value)]
        return [expand(w, self.unit, self.host) for w in found if complete(w, self.unit, self.host)]


def normal(path: str) -> str:
    """Without doubled or trailing slashes, as systemd keeps paths; prefixes "-" and "+" stay."""
    prefix = path[: len(path) - len(path.lstrip("-+"))]
    parts = [part for part in path[len(prefix) :].split("/") if part not in ("", ".")]
    return f"{prefix}/{'/'.join(parts)}"


def _strings(found: object) -> list[str] | None:
    return [str(item) for item in found] if isinstance(found, list | tuple) else None


def _paths(asked: Asked) -> Compared:
    written = asked.words()
    for path in written:
        if not path.lstrip("-+").startswith("/"):
            raise ValueError(f"{path} is not absolute")
    declared = tuple(dict.fromkeys(map(normal, written)))
    loaded = _strings(asked.found)
    return declared, None if loaded is None else set(declared) <= set(map(normal, loaded)), loaded


def _plain(asked: Asked) -> Compared:
    declared = asked.words()
    loaded = _strings(asked.found)
    return declared, None if loaded is None else set(declared) <= set(loaded), loaded


def _capabilities(asked: Asked) -> Compared:
    bounding = asked.spec.key == "CapabilityBoundingSet"
    start = values.ALL_CAPABILITIES if bounding else 0
    declared = values.capabilities(asked.setting.values, start, reset=asked.setting.reset is not None)
    if not isinstance(asked.found, int):
        return declared, None, None
    loaded = asked.found & values.ALL_CAPABILITIES
    agrees = loaded == declared or (bounding and not loaded & ~declared and not declared & ~loaded & ~_TAKEN_AWAY)
    return declared, agrees, loaded


def _pair(found: object) -> tuple[bool, list[str]] | None:
    """(bas): whether it is a list of what is allowed, and the list."""
    if isinstance(found, list | tuple) and len(found) == 2 and isinstance(found[1], list | tuple):
        return bool(found[0]), [str(item) for item in found[1]]
    return None


def _families(asked: Asked) -> Compared:
    lines = asked.setting.values
    allow = bool(lines) and not lines[0].startswith("~")
    chosen: set[str] = set()
    for line in lines:
        names = set(line.removeprefix("~").split()) - {"none"}
        chosen = chosen | names if line.startswith("~") != allow else chosen - names
    loaded = _pair(asked.found)
    if loaded is None:
        return (allow, chosen), None, None
    return (
        (allow, chosen),
        loaded == (allow, sorted(chosen)) or (loaded[0] == allow and set(loaded[1]) == chosen),
        (("" if allow else "~") + " ".join(sorted(loaded[1])) or "none"),
    )


def _syscalls(asked: Asked) -> Compared:
    lines = asked.setting.values
    if not lines:
        return None, None, None
    allow = not lines[0].startswith("~")
    known: dict[str, bool] = {}
    for line in lines:
        plus = not line.startswith("~")
        for word in line.removeprefix("~").split():
            name = word.partition(":")[0]
            if name.startswith("@"):
                # What an earlier line said of single calls may be undone by a group.
                known = {call: sign for call, sign in known.items() if sign == plus}
                name = values.FIRST_OF_GROUP.get(name, "")
            known[name] = plus
    known.pop("", None)
    loaded = _pair(asked.found)
    if loaded is None:
        return lines, None, None
    calls = {item.partition(":")[0] for item in loaded[1]}
    agrees = loaded[0] == allow and all((name in calls) == (plus == allow) for name, plus in known.items())
    return lines, agrees, f"{'only' if loaded[0] else 'all but'} {len(calls)} system calls"


def _namespaces(asked: Asked) -> Compared:
    declared = values.namespaces(asked.setting.values)
    if not isinstance(asked.found, int):
        return declared, None, None
    loaded = asked.found & values.ALL_NAMESPACES
    return declared, declared == loaded, loaded


def _networks(asked: Asked) -> Compared:
    declared = values.networks(asked.setting.values)
    if not isinstance(asked.found, list | tuple):
        return declared, None, None
    loaded = [(int(item[0]), bytes(item[1]), int(item[2])) for item in asked.found]
    return declared, all(values.covered(net, loaded) for net in declared), f"{len(loaded)} networks"


def _bitmap(asked: Asked) -> Compared:
    if asked.setting.values[-1:] == ("numa",):
        return None, None, None
    declared = values.bitmap(asked.setting.values)
    if not isinstance(asked.found, bytes | list | tuple):
        return declared, None, None
    loaded = frozenset(
        place * 8 + bit for place, byte in enumerate(bytes(asked.found)) for bit in range(8) if byte >> bit & 1
    )
    return declared, declared == loaded, loaded


def bind(word: str) -> tuple[str, str]:
    """(source with its prefix, destination) of one word of BindPaths=."""
    source, _, rest = word.partition(":")
    target = rest.partition(":")[0] or source.lstrip("-")
    return normal(source), normal(target)


def _binds(asked: Asked) -> Compared:
    declared = tuple(map(bind, asked.words()))
    if not isinstance(asked.found, list | tuple):
        return declared, None, None
    loaded = [(normal(str(item[0])), normal(str(item[1]))) for item in asked.found]
    agrees = all((source.lstrip("-"), target) in loaded for source, target in declared)
    return declared, agrees, [target for _, target in loaded]


def _first(asked: Asked) -> Compared:
    declared = tuple(_firsts(asked))
    if not isinstance(asked.found, list | tuple):
        return declared, None, None
    loaded = {str(item[0]): item[1] for item in asked.found}
    device = asked.spec.key.startswith("IO")
    agrees = all(
        first in loaded and (not device or _amount(asked.spec.key, rest) == loaded[first]) for first, rest in declared
    )
    return declared, agrees, list(loaded)


def _firsts(asked: Asked) -> list[tuple[str, str]]:
    key = asked.spec.key
    if key == "TemporaryFileSystem":
        return [(normal(word.partition(":")[0]), word.partition(":")[2]) for word in asked.words()]
    separator = ":" if "Credential" in key else None
    lines = (value.split(separator, 1) for value in asked.setting.values)
    return [(expand(line[0], asked.unit, asked.host), line[1].strip() if len(line) > 1 else "") for line in lines]


def _amount(key: str, text: str) -> int:
    if "Latency" in key:
        return values.span(text)
    return int(text) if "Weight" in key else values.decimal_size(text)


def _nonempty(asked: Asked) -> Compared:
    declared = list(asked.setting.values)
    found = asked.found
    pair = _pair(found)
    loaded = pair[1] if pair is not None else found if isinstance(found, list | tuple) else None
    return declared, None if loaded is None else bool(loaded) == bool(declared), loaded


LISTS: Mapping[Kind, Callable[[Asked], Compared]] = {
    Kind.WORDS: _plain,
    Kind.PATHS: _paths,
    Kind.CAPABILITIES: _capabilities,
    Kind.FAMILIES: _families,
    Kind.SYSCALLS: _syscalls,
    Kind.NAMESPACES: _namespaces,
    Kind.NETWORKS: _networks,
    Kind.BITMAP: _bitmap,
    Kind.BINDS: _binds,
    Kind.FIRST: _first,
    Kind.NONEMPTY: _nonempty,
}
DECLARED_COUNTS = frozenset((Kind.PATHS, Kind.BINDS, Kind.FIRST, Kind.SYSCALLS, Kind.FAMILIES, Kind.NETWORKS))
"""Kinds whose declared value is what has to be looked for; the loaded one may hold more."""
