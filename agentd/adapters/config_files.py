"""Finds and reads the configuration's files, and puts the layers together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from agentd.adapters.config_reading import lexists, read, toml_names
from agentd.adapters.profile_files import ProfileFiles
from agentd.core.fragments import parse_fragment
from agentd.core.layers import Fragment, merge
from agentd.core.settings import LoadedConfig, check, digest
from agentd.core.use_profiles import lay_over
from agentd.errors import ConfigError, ConfigProblem

MAIN_FILE = "agentd.toml"
FRAGMENT_DIR = "config.d"


def load(
    layers: Sequence[Path], *, required: Path | None = None, home: str = "", profile: str | None = None
) -> LoadedConfig:
    """Read `agentd.toml` and `config.d/*.toml` of every layer, lowest priority first; the later one wins. The profile
    of use comes last: `profile` ("" for none), or for None the one that is selected.

    A file in `config.d` replaces one with the same name in a lower layer; an empty one, or a link to /dev/null, only
    takes it away. `required` is a layer that must exist (one that the user named). Raises ConfigError with every
    problem of every file, in the order of files and lines.
    """
    problems = _missing(required)
    contents: list[tuple[str, bytes]] = []
    for path in find(layers, problems):
        content = read(path, problems)
        if content:
            contents.append((str(path), content))
    fragments = []
    for file, content in contents:
        parsed = parse_fragment(file, content)
        if isinstance(parsed, Fragment):
            fragments.append(parsed)
        else:
            problems.append(parsed)
    merged, files = merge(fragments), ProfileFiles(layers)
    name = files.selected(problems) if profile is None else profile
    overlay = files.read(name, problems) if name else None
    used: list[ConfigProblem] = []
    if overlay is not None:
        merged, used = lay_over(merged, overlay)
    # What only an unreadable file would make right is not reported.
    settings, found = check(merged.data, merged.provenance, home=home, whole=not problems)
    read_last = [overlay.file] if overlay is not None else []
    if problems or used or found:
        raise ConfigError(_ordered([*problems, *used, *found], [*(file for file, _ in contents), *read_last]))
    read_files = (*(fragment.file for fragment in fragments), *read_last)
    return LoadedConfig(settings, merged.provenance, read_files, digest(settings), name)


def find(layers: Iterable[Path], problems: list[ConfigProblem]) -> list[Path]:
    """The files to read, in order. A directory that cannot be listed is added to `problems`."""
    chosen: list[Path] = []
    for layer in layers:
        main = layer / MAIN_FILE
        if lexists(main, problems):
            chosen.append(main)
        names = toml_names(layer / FRAGMENT_DIR, problems)
        chosen = [path for path in chosen if path.name not in names or path.parent.name != FRAGMENT_DIR]
        chosen += [layer / FRAGMENT_DIR / name for name in names]
    return chosen


def _missing(required: Path | None) -> list[ConfigProblem]:
    if required is None or required.is_dir():
        return []
    reason = "is not a directory" if required.exists() else "no such directory"
    return [ConfigProblem(str(required), "", f"cannot read the configuration: {reason}")]


def _ordered(problems: Sequence[ConfigProblem], files: Sequence[str]) -> list[ConfigProblem]:
    position = {file: number for number, file in enumerate(files)}
    return sorted(problems, key=lambda problem: (position.get(problem.file, -1), problem.line))
