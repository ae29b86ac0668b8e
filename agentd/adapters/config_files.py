"""Finds and reads the configuration's files, and puts the layers together."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from agentd.core.fragments import parse_fragment
from agentd.core.layers import Fragment, merge
from agentd.core.settings import LoadedConfig, check, digest
from agentd.errors import ConfigError, ConfigProblem

MAIN_FILE = "agentd.toml"
FRAGMENT_DIR = "config.d"
MAX_SIZE = 1024 * 1024


def load(layers: Sequence[Path], *, required: Path | None = None, home: str = "") -> LoadedConfig:
    """Read `agentd.toml` and `config.d/*.toml` of every layer, lowest priority first; the later one wins.

    A file in `config.d` replaces one with the same name in a lower layer; an empty one, or a link to /dev/null, only
    takes it away. `required` is a layer that must exist (one that the user named). Raises ConfigError with every
    problem of every file, in the order of files and lines.
    """
    problems = _missing(required)
    contents: list[tuple[str, bytes]] = []
    for path in find(layers, problems):
        content = _read(path, problems)
        if content:
            contents.append((str(path), content))
    fragments = []
    for file, content in contents:
        parsed = parse_fragment(file, content)
        if isinstance(parsed, Fragment):
            fragments.append(parsed)
        else:
            problems.append(parsed)
    merged = merge(fragments)
    # What only an unreadable file would make right is not reported.
    settings, found = check(merged.data, merged.provenance, home=home, whole=not problems)
    if problems or found:
        raise ConfigError(_ordered([*problems, *found], [file for file, _ in contents]))
    return LoadedConfig(settings, merged.provenance, tuple(fragment.file for fragment in fragments), digest(settings))


def find(layers: Iterable[Path], problems: list[ConfigProblem]) -> list[Path]:
    """The files to read, in order. A directory that cannot be listed is added to `problems`."""
    chosen: list[Path] = []
    for layer in layers:
        main = layer / MAIN_FILE
        if _lexists(main, problems):
            chosen.append(main)
        names = _fragment_names(layer / FRAGMENT_DIR, problems)
        chosen = [path for path in chosen if path.name not in names or path.parent.name != FRAGMENT_DIR]
        chosen += [layer / FRAGMENT_DIR / name for name in names]
    return chosen


def _missing(required: Path | None) -> list[ConfigProblem]:
    if required is None or required.is_dir():
        return []
    reason = "is not a directory" if required.exists() else "no such directory"
    return [ConfigProblem(str(required), "", f"cannot read the configuration: {reason}")]


def _lexists(path: Path, problems: list[ConfigProblem]) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        problems.append(_unreadable(path, error))
        return False
    return True


def _fragment_names(directory: Path, problems: list[ConfigProblem]) -> list[str]:
    """Names ending in .toml, in lexical order; hidden files (editors leave them) do not count."""
    try:
        names = [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(_unreadable(directory, error))
        return []
    return sorted(name for name in names if name.endswith(".toml") and not name.startswith("."))


def _read(path: Path, problems: list[ConfigProblem]) -> bytes:
    """The content; b"" for a masked file (a link to /dev/null) and for one that is reported."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
                return b""
            if not stat.S_ISREG(status.st_mode):
                problems.append(ConfigProblem(str(path), "", "cannot read it: not a regular file"))
                return b""
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        problems.append(_unreadable(path, error))
        return b""
    if len(content) > MAX_SIZE:
        problems.append(ConfigProblem(str(path), "", "cannot read it: larger than 1M"))
        return b""
    return content


def _open_at_once(path: str, flags: int) -> int:
    # A fifo without a writer would hold us for ever.
    return os.open(path, flags | os.O_NONBLOCK)


def _unreadable(path: Path, error: OSError) -> ConfigProblem:
    reason = (error.strerror or str(error)).lower()
    return ConfigProblem(str(path), "", f"cannot read it: {reason}")


def _ordered(problems: Sequence[ConfigProblem], files: Sequence[str]) -> list[ConfigProblem]:
    position = {file: number for number, file in enumerate(files)}
    return sorted(problems, key=lambda problem: (position.get(problem.file, -1), problem.line))
