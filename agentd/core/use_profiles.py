"""Profiles of use: a named overlay of the configuration, chosen as one thing ("production", "testing").

A profile is a file like any other of the configuration and is laid over it last. Its table `[use]` says in few words
what would be long otherwise: which services run, and what holds for every model. It becomes plain settings here, each
with the file and line that it came from, so that everything after it knows nothing of profiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentd.core.layers import Fragment, KeyPath, Merged, Table, format_key, merge
from agentd.core.leaves import NAME, quoted, shown, suggest
from agentd.core.schema import Model, Service
from agentd.errors import ConfigProblem

USE = "use"
KEYS = ("description", "services", "roles", "models")
ROLES = ("model", "runtime", "gateway", "store", "generic")
OWN_TO_A_MODEL = frozenset({"slot", "served_name", "path", "api_key_file", "api_key_name"})
"""Keys that no two models share."""


@dataclass(frozen=True, slots=True)
class UseProfile:
    """A file `profiles/NAME.toml`."""

    name: str
    file: str
    description: str = ""


def selected_name(text: str) -> str | None:
    """What the selection file names: "" for no profile, None when it is no name. Lines with # are comments."""
    lines = [line.strip() for line in text.splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    if not words:
        return ""
    return words[0] if len(words) == 1 and NAME.fullmatch(words[0]) else None


def selection_text(name: str) -> str:
    """What the selection file shall hold."""
    return f"# The profile of use in force; written by: agentctl profile use\n{name}\n"


def description_of(fragment: Fragment) -> str:
    use = fragment.data.get(USE)
    text = use.get("description") if isinstance(use, dict) else None
    return text if isinstance(text, str) else ""


def why_off(name: str, service: Service, profile: str) -> str:
    """Why it does not run though it is configured; "" when it may."""
    if service.enabled:
        return ""
    key = format_key(("services", name, "enabled"))
    return f"{name} is switched off by profile {profile}" if profile else f"{name} is switched off: {key} is false"


def lay_over(merged: Merged, profile: Fragment) -> tuple[Merged, list[ConfigProblem]]:
    """The configuration with the profile laid over it, and what is wrong in `[use]`.

    What `[use]` says of many services gives way to what it, or the rest of the file, says of one.
    """
    check = _Check(profile)
    use = check.table()
    rest = Fragment(profile.file, {k: v for k, v in profile.data.items() if k != USE}, profile.lines)
    services = _services(merge([rest], base=merged).data)
    roles, own = check.switches(use, "roles", ROLES), check.switches(use, "services", tuple(services))
    models = check.models(use)
    wide, named = _Draft(profile), _Draft(profile)
    for name, service in services.items():
        role = service.get("role", "generic")
        if role in roles:
            wide.put(("services", name, "enabled"), roles[role], (USE, "roles", role))
        if name in own:
            named.put(("services", name, "enabled"), own[name], (USE, "services", name))
        if isinstance(service.get("model"), dict):
            for key, value in models.items():
                wide.put(("services", name, "model", key), value, (USE, "models", key))
    if roles.get("model") is False:
        _without_defaults(merged.data, wide, own)
    return merge([wide.fragment(), rest, named.fragment()], base=merged), check.problems


def _without_defaults(data: Table, draft: _Draft, own: Mapping[str, bool]) -> None:
    """Where no model runs, none is brought up by default."""
    slots = data.get("slots")
    for name, slot in slots.items() if isinstance(slots, dict) else ():
        default = slot.get("default") if isinstance(slot, dict) else None
        if default and not own.get(default):
            draft.put(("slots", name, "default"), "", (USE, "roles", "model"))


def _services(data: Mapping[str, Any]) -> dict[str, Table]:
    services = data.get("services")
    return {n: s for n, s in services.items() if isinstance(s, dict)} if isinstance(services, dict) else {}


class _Draft:
    """Settings made from `[use]`, each at the line of what it was made from."""

    def __init__(self, profile: Fragment) -> None:
        self._profile = profile
        self._data: Table = {}
        self._lines: dict[KeyPath, int] = {}

    def put(self, path: KeyPath, value: object, source: KeyPath) -> None:
        line = self._profile.lines.get(source, 0)
        table = self._data
        for depth, key in enumerate(path[:-1], 1):
            table = table.setdefault(key, {})
            self._lines.setdefault(path[:depth], line)
        table[path[-1]] = value
        self._lines[path] = line

    def fragment(self) -> Fragment:
        return Fragment(self._profile.file, self._data, self._lines)


class _Check:
    """Reads `[use]` and notes what is wrong in it; what is wrong is left out."""

    def __init__(self, profile: Fragment) -> None:
        self.problems: list[ConfigProblem] = []
        self._profile = profile

    def table(self) -> Table:
        found = self._profile.data.get(USE, {})
        if not isinstance(found, dict):
            self._note((USE,), "expected a table", found)
            return {}
        for key in found:
            if key not in KEYS:
                self._note((USE, key), f"unknown key{suggest(key, KEYS)}", allowed=", ".join(KEYS))
        if not isinstance(found.get("description", ""), str):
            self._note((USE, "description"), "expected a text", found["description"])
        return found

    def switches(self, use: Table, key: str, known: tuple[str, ...]) -> dict[str, bool]:
        what = "is not a service" if key == "services" else "is not a role"
        good: dict[str, bool] = {}
        for name, value in self._below(use, key).items():
            if name not in known:
                self._note((USE, key, name), f"{what}{suggest(name, known)}", allowed=quoted(list(known)) or "none")
            elif not isinstance(value, bool):
                self._note((USE, key, name), "expected true or false", value)
            else:
                good[name] = value
        return good

    def models(self, use: Table) -> Table:
        known = [k for k in Model.__struct_fields__ if k not in OWN_TO_A_MODEL]
        given = self._below(use, "models")
        for key in given:
            if key in OWN_TO_A_MODEL:
                self._note((USE, "models", key), "cannot be the same for every model")
            elif key not in known:
                guess = suggest(key, known)
                self._note((USE, "models", key), f"unknown key{guess}", allowed="" if guess else ", ".join(known))
        return {key: value for key, value in given.items() if key in known}

    def _below(self, use: Table, key: str) -> Table:
        found = use.get(key, {})
        if not isinstance(found, dict):
            self._note((USE, key), "expected a table", found)
            return {}
        return found

    def _note(self, path: KeyPath, message: str, value: object = None, allowed: str = "") -> None:
        lines = self._profile.lines
        line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 0)
        got = "" if value is None else shown(value)
        self.problems.append(
            ConfigProblem(self._profile.file, format_key(path), message, value=got, allowed=allowed, line=line)
        )
