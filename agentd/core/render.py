"""The configuration as text and as JSON, value by value, with the file that set each.

The text is TOML again: dotted keys, so that every line stands for itself and can be searched for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

from agentd.core.layers import KeyPath, Origin, format_key
from agentd.core.leaves import shown_whole, unwrap
from agentd.core.probes import effective_probes
from agentd.core.quantities import format_bytes, format_seconds
from agentd.core.schema import Service
from agentd.core.schema_types import Bytes, Directive, Seconds
from agentd.core.settings import LoadedConfig, fields_of, struct_of
from agentd.types import ProbeKind

_COMMENT_COLUMN = 64
_PROBES = tuple(kind.value for kind in ProbeKind)


@dataclass(frozen=True, slots=True)
class Setting:
    """One value in force. `text` is what TOML would say; `origin` is None for a built-in default."""

    key: str
    text: str
    origin: Origin | None


def settings_list(loaded: LoadedConfig, *, defaults: bool = False) -> list[Setting]:
    """Every value that a file set; with `defaults`, every value in force, a role's probes included."""
    rows = []
    for path, hint, value in _leaves(type(loaded.settings), loaded.settings, ()):
        origin = loaded.provenance.get(path)
        if defaults or origin:
            rows.append(Setting(format_key(path), _text(hint, value), origin))
    return rows


def render_config(loaded: LoadedConfig, *, provenance: bool = False, defaults: bool = False) -> str:
    """One line per value; with `provenance`, a comment says where it was written."""
    lines = []
    for row in settings_list(loaded, defaults=defaults):
        line = f"{row.key} = {row.text}"
        lines.append(f"{line:<{_COMMENT_COLUMN}}  # {row.origin or 'built-in default'}" if provenance else line)
    return "\n".join(lines)


def render_provenance(loaded: LoadedConfig, *, defaults: bool = False) -> str:
    """What `agentctl config show --provenance` prints."""
    read = "\n".join(f"# {file}" for file in loaded.files) or "# no file"
    body = render_config(loaded, provenance=True, defaults=defaults)
    return f"# read, later ones win:\n{read}\n\n{body or '# nothing is set'}"


def config_json(loaded: LoadedConfig) -> dict[str, Any]:
    """The same for programs: every value in force, as plain JSON (seconds, bytes) and as text."""
    rows = []
    for path, hint, value in _leaves(type(loaded.settings), loaded.settings, ()):
        origin = loaded.provenance.get(path)
        rows.append(
            {
                "key": format_key(path),
                "value": msgspec.to_builtins(value),
                "text": _text(hint, value),
                "file": origin.file if origin else None,
                "line": origin.line or None if origin else None,
            }
        )
    return {"digest": loaded.digest, "profile": loaded.profile, "files": list(loaded.files), "settings": rows}


def render_check(loaded: LoadedConfig) -> str:
    """What `agentd --check` prints when all is well."""
    settings = loaded.settings
    counts = f"{_count(settings.services, 'service')}, {_count(settings.slots, 'slot')}"
    files = "\n".join(f"  {file}" for file in loaded.files)
    profile = f"\nprofile of use: {loaded.profile}" if loaded.profile else ""
    return f"the configuration is valid: {counts}\n{files}".rstrip() + profile


def _count(things: Mapping[str, object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _leaves(struct: type[Struct], table: Struct, at: KeyPath) -> Iterator[tuple[KeyPath, Any, Any]]:
    for name, hint in fields_of(struct).items():
        yield from _below(hint, _value(table, name), (*at, name))


def _below(hint: Any, value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any, Any]]:
    inner = struct_of(hint)
    if inner:
        if value is not None:
            yield from _leaves(inner, value, path)
    elif get_origin(hint) is dict:
        for name, item in value.items():
            yield from _below(get_args(hint)[1], item, (*path, name))
    else:
        yield path, hint, value


def _value(table: Struct, name: str) -> Any:
    """The field; of a service's probes, the one in force."""
    if isinstance(table, Service) and name in _PROBES and getattr(table, name) is None:
        return effective_probes(table).get(ProbeKind(name))
    return getattr(table, name)


def _text(hint: Any, value: Any) -> str:
    base, _ = unwrap(hint)
    if base is Seconds:
        return f'"{format_seconds(value)}"' if value else "0"
    if base is Bytes:
        text = format_bytes(value)
        return text if text.isdigit() else f'"{text}"'
    if base is Directive and len(value) == 1:
        return shown_whole(value[0])
    return shown_whole(value)
