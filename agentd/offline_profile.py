"""Profiles of use without a daemon: list, show, and choose. Imported only when such a command runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from agentd import paths
from agentd.adapters.config_files import load
from agentd.adapters.files import LocalFiles
from agentd.adapters.profile_files import SELECTION_FILE, ProfileFiles
from agentd.core.settings import LoadedConfig
from agentd.core.use_plan import SettingChange, setting_changes
from agentd.core.use_profiles import selection_text
from agentd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Row:
    """`problems`: why it cannot be used; empty when it can."""

    name: str
    selected: bool
    description: str
    file: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """`off`: services that do not run under it. `changes` against no profile, those of `off` left out."""

    name: str
    file: str
    description: str
    off: tuple[str, ...]
    changes: tuple[SettingChange, ...]


def selected(directory: str | None = None) -> str:
    """The name in the selection file; "" for none, and for what is no name."""
    return ProfileFiles(paths.config_layers(directory)).selected([])


def names() -> list[str]:
    return [profile.name for profile in ProfileFiles(paths.config_layers()).known()]


def rows(directory: str | None = None) -> list[Row]:
    files = ProfileFiles(paths.config_layers(directory))
    chosen = files.selected([])
    return [
        Row(found.name, found.name == chosen, found.description, found.file, _problems(directory, found.name))
        for found in files.known()
    ]


def show(name: str, directory: str | None = None) -> Shown:
    """Raises AgentdError("profile-not-found"), ConfigError."""
    files = ProfileFiles(paths.config_layers(directory))
    files.check_name(name)
    found = next(profile for profile in files.known() if profile.name == name)
    new, bare = configured(name, directory), configured("", directory)
    off = tuple(n for n, service in new.settings.services.items() if not service.enabled)
    changes = tuple(change for change in setting_changes(bare, new) if not change.key.endswith(".enabled"))
    return Shown(name, found.file, found.description, off, changes)


def use(name: str, directory: str | None = None, *, dry_run: bool = False) -> Shown | None:
    """Checked, then selected for the next start; what it changes, None for no profile. Raises AgentdError,
    ConfigError; then nothing was written."""
    found = show(name, directory) if name else None
    loaded = configured(name, directory)
    if not dry_run:
        path = selection(directory, system=loaded.settings.daemon.scope == "system")
        asyncio.run(LocalFiles([path.parent]).apply({str(path): selection_text(name)}))
    return found


def selection(directory: str | None, *, system: bool) -> Path:
    """The file that names the profile."""
    return (paths.config_override(directory) or paths.config_dir(system=system)) / SELECTION_FILE


def configured(name: str, directory: str | None = None) -> LoadedConfig:
    """The configuration with this profile, "" for none. Raises ConfigError, AgentdError("profile-not-found")."""
    layers = paths.config_layers(directory)
    if name:
        ProfileFiles(layers).check_name(name)
    return load(layers, required=paths.config_override(directory), home=str(paths.home()), profile=name)


def _problems(directory: str | None, name: str) -> tuple[str, ...]:
    try:
        configured(name, directory)
    except ConfigError as error:
        return tuple(map(str, error.problems))
    return ()
