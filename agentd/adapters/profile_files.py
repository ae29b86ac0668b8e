"""The files of profiles of use: `profiles/NAME.toml` in any layer of the configuration, and which one is selected.

The selection is a file of its own, `profile`, in the layer with the highest priority: it is part of the configuration,
so it is seen by whatever reads that (the daemon at a start after a reboot, `agentd --check`, `agentctl config show`),
and a directory given with --config has one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentd.adapters.config_reading import lexists, read, toml_names
from agentd.core.fragments import parse_fragment
from agentd.core.layers import Fragment
from agentd.core.leaves import NAME, NAME_FORM, quoted, shown, suggest
from agentd.core.use_profiles import UseProfile, description_of, selected_name
from agentd.errors import AgentdError, ConfigProblem

PROFILE_DIR = "profiles"
SELECTION_FILE = "profile"


class ProfileFiles:
    """`layers`: the directories of the configuration, lowest priority first."""

    def __init__(self, layers: Sequence[Path]) -> None:
        self._layers = tuple(layers)

    @property
    def selection_path(self) -> Path:
        """The file that a selection is written to."""
        return self._layers[-1] / SELECTION_FILE

    def paths(self, problems: list[ConfigProblem]) -> dict[str, Path]:
        """Name -> file, in the order of names. As in config.d, a higher layer's file replaces a lower one's."""
        found: dict[str, Path] = {}
        for layer in self._layers:
            directory = layer / PROFILE_DIR
            found |= {name.removesuffix(".toml"): directory / name for name in toml_names(directory, problems)}
        return {name: found[name] for name in sorted(found) if NAME.fullmatch(name)}

    def selected(self, problems: list[ConfigProblem]) -> str:
        """The name in the selection file of the highest layer that has one; "" for none."""
        for layer in reversed(self._layers):
            path = layer / SELECTION_FILE
            if lexists(path, problems):
                return self._name_in(path, problems)
        return ""

    def read(self, name: str, problems: list[ConfigProblem]) -> Fragment | None:
        """The profile's file; None with a problem where there is none, or it cannot be read."""
        paths = self.paths(problems)
        if name not in paths:
            problems.append(self._missing(name, list(paths)))
            return None
        before = len(problems)
        content = read(paths[name], problems)
        if not content:
            if len(problems) == before:
                problems.append(self._missing(name, [other for other in paths if other != name]))
            return None
        parsed = parse_fragment(str(paths[name]), content)
        if isinstance(parsed, Fragment):
            return parsed
        problems.append(parsed)
        return None

    def known(self) -> list[UseProfile]:
        """Every profile, with its description where it can be read. A masked one is none."""
        found = []
        for name, path in self.paths([]).items():
            problems: list[ConfigProblem] = []
            content = read(path, problems)
            if content or problems:
                parsed = parse_fragment(str(path), content)
                text = description_of(parsed) if isinstance(parsed, Fragment) else ""
                found.append(UseProfile(name, str(path), text))
        return found

    def check_name(self, name: str) -> None:
        """Raises AgentdError("profile-not-found")."""
        known = [profile.name for profile in self.known()]
        if name not in known:
            hint = f"profiles: {', '.join(known) or 'there is none'}"
            raise AgentdError("profile-not-found", f'there is no profile "{name}"{suggest(name, known)}', hint=hint)

    def _name_in(self, path: Path, problems: list[ConfigProblem]) -> str:
        content = read(path, problems).decode("utf-8", "replace")
        name = selected_name(content)
        if name is None:
            fix = "agentctl profile use NAME, or --none"
            message = f"does not name a profile of use; write it with: {fix}"
            problems.append(ConfigProblem(str(path), "", message, value=shown(content.strip()[:80]), allowed=NAME_FORM))
        return name or ""

    def _missing(self, name: str, known: list[str]) -> ConfigProblem:
        problems: list[ConfigProblem] = []
        where = next((layer / SELECTION_FILE for layer in reversed(self._layers)
                      if lexists(layer / SELECTION_FILE, problems)), self.selection_path)  # fmt: skip
        text = f'there is no profile of use "{name}"{suggest(name, known)}; choose with: agentctl profile use'
        return ConfigProblem(str(where), "", text, allowed=quoted(known) or "none (there is no profile)")
