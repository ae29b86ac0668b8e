"""Merged configuration -> Settings, or every problem that it has.

Each value is checked by itself, then all of them together. A value that is wrong is reported once and replaced by its
default for the rest of the check, so that one mistake does not hide or cause another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from agentd.core import leaves
from agentd.core.crosschecks import cross_check
from agentd.core.layers import KeyPath, Origin, Provenance, Table, format_key, origin_of
from agentd.core.leaves import Invalid, shown, suggest
from agentd.core.probes import complete
from agentd.core.schema import Model, Settings
from agentd.core.schema_types import DirectiveName
from agentd.errors import ConfigError, ConfigProblem
from agentd.types import ProbeKind

NOWHERE = "(no file)"
_PLACEHOLDER = "-"
"""Stands for a required text that is missing or wrong (all required fields are texts); no name can be equal to it."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A valid configuration and where it came from. `files` are those that were read, in their order."""

    settings: Settings
    provenance: Provenance
    files: tuple[str, ...]
    digest: str
    profile: str = ""
    """The profile of use in force; "" for none."""


def validate(merged: Mapping[str, Any], provenance: Provenance, *, home: str = "") -> Settings:
    """The settings. Raises ConfigError with all problems. With `home`, a leading ~ of a path is expanded."""
    settings, problems = check(merged, provenance, home=home)
    if problems:
        raise ConfigError(problems)
    return settings


def check(
    merged: Mapping[str, Any], provenance: Provenance, *, home: str = "", whole: bool = True
) -> tuple[Settings, list[ConfigProblem]]:
    """The settings with the problems' values replaced by defaults, and the problems.

    With `whole` false, each value is checked by itself only: for a configuration of which a part could not be read.
    """
    checker = _Checker(provenance, home, whole=whole)
    draft = checker.table(Settings, merged, ())
    for service in draft.get("services", {}).values():
        _complete_probes(service)
    settings = msgspec.convert(draft, Settings)
    if whole:
        cross_check(settings, checker)
    return settings, checker.problems


def digest(settings: Settings) -> str:
    """SHA-256 of the meaning: comments, order of tables and spelling of durations do not change it."""
    return sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()


@cache
def fields_of(struct: type[Struct]) -> Mapping[str, Any]:
    """Field name -> type with its annotations."""
    return get_type_hints(struct, include_extras=True)


def struct_of(hint: Any) -> type[Struct] | None:
    """The table type in `X` or `X | None`."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, Struct)), None)


def _complete_probes(service: Table) -> None:
    role = service.get("role", "generic")
    ready_timeout = service.get("model", {}).get("ready_timeout", Model(slot="", served_name="").ready_timeout)
    for kind in ProbeKind:
        if kind.value in service:
            service[kind.value] = complete(service[kind.value], kind, role, ready_timeout)


class _Checker:
    """Turns tables into what msgspec can build, and collects problems. Is the Report of the cross-checks, too."""

    def __init__(self, provenance: Provenance, home: str, *, whole: bool) -> None:
        self.problems: list[ConfigProblem] = []
        self._provenance = provenance
        self._home = home
        self._whole = whole
        self._bad: set[KeyPath] = set()

    def __call__(self, path: KeyPath, message: str, value: object = None, allowed: str = "") -> None:
        if not self.known_bad(path):
            self._note(path, message, "" if value is None else shown(value), allowed)

    def known_bad(self, path: KeyPath) -> bool:
        return path in self._bad

    def known_bad_below(self, path: KeyPath) -> bool:
        return any(bad[: len(path)] == path for bad in self._bad)

    def table(self, struct: type[Struct], raw: Mapping[str, Any], at: KeyPath) -> Table:
        hints = fields_of(struct)
        for key in raw:
            if key not in hints:
                self._unknown(key, list(hints), at)
        checked: Table = {}
        for field in msgspec.structs.fields(struct):
            path = (*at, field.name)
            if field.name in raw:
                self._value(hints[field.name], raw[field.name], path, checked)
            elif field.required and self._whole:
                self._add(path, "is required", allowed=leaves.form_of(hints[field.name]))
            else:
                self._default(hints[field.name], field, path, checked)
            if field.required:
                checked.setdefault(field.name, _PLACEHOLDER)
        return checked

    def _default(self, hint: Any, field: msgspec.structs.FieldInfo, path: KeyPath, checked: Table) -> None:
        """msgspec fills in what is left out; only a path may begin with the user's home, in a table left out, too."""
        if struct := struct_of(hint):
            if field.default_factory is struct:
                checked[path[-1]] = self.table(struct, {}, path)
        elif leaves.is_path(hint) and field.default is not msgspec.NODEFAULT:
            checked[path[-1]] = self._expanded(hint, field.default)

    def _value(self, hint: Any, raw: object, path: KeyPath, checked: Table) -> None:
        """Put the checked value into `checked`; nothing when it is wrong."""
        struct = struct_of(hint)
        if struct or get_origin(hint) is dict:
            if not isinstance(raw, Mapping):
                self._add(path, "expected a table", shown(raw))
            elif struct:
                checked[path[-1]] = self.table(struct, raw, path)
            elif struct_of(get_args(hint)[1]):
                checked[path[-1]] = self._named(get_args(hint)[1], raw, path)
            else:
                checked[path[-1]] = self._directives(get_args(hint)[1], raw, path)
            return
        try:
            checked[path[-1]] = self._expanded(hint, leaves.convert(hint, raw))
        except Invalid as error:
            self._add(path, error.message, "" if error.secret else shown(raw), error.allowed)

    def _named(self, struct: type[Struct], raw: Mapping[str, Any], at: KeyPath) -> Table:
        """A table of tables whose keys are the user's names."""
        checked: Table = {}
        for name, value in raw.items():
            if not leaves.NAME.fullmatch(name):
                self._add((*at, name), "is not a usable name", allowed=leaves.NAME_FORM)
            self._value(struct, value, (*at, name), checked)
        return checked

    def _directives(self, hint: Any, raw: Mapping[str, Any], at: KeyPath) -> Table:
        """A table of values whose keys are the names of directives."""
        checked: Table = {}
        for name, value in raw.items():
            try:
                leaves.convert(DirectiveName, name)
            except Invalid as error:
                self._add((*at, name), error.message, allowed=error.allowed)
            else:
                self._value(hint, value, (*at, name), checked)
        return checked

    def _expanded(self, hint: Any, value: object) -> object:
        if not self._home or not leaves.is_path(hint):
            return value
        if isinstance(value, list):
            return [self._at_home(item) for item in value]
        return self._at_home(value)

    def _at_home(self, value: object) -> object:
        return self._home + value[1:] if isinstance(value, str) and value.startswith("~/") else value

    def _unknown(self, key: str, known: list[str], at: KeyPath) -> None:
        # Its value is not shown: an unknown key may well be a secret in the wrong place.
        guess = suggest(key, known)
        self._add((*at, key), f"unknown key{guess}", allowed="" if guess else ", ".join(known))

    def _add(self, path: KeyPath, message: str, value: str = "", allowed: str = "") -> None:
        self._bad.add(path)
        self._note(path, message, value, allowed)

    def _note(self, path: KeyPath, message: str, value: str, allowed: str) -> None:
        origin = origin_of(self._provenance, path) or Origin(NOWHERE)
        self.problems.append(
            ConfigProblem(origin.file, format_key(path), message, value=value, allowed=allowed, line=origin.line)
        )
