"""Reads the files of the configuration: what cannot be read is a problem with its reason, never an exception."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agentd.errors import ConfigProblem

MAX_SIZE = 1024 * 1024


def lexists(path: Path, problems: list[ConfigProblem]) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        problems.append(_unreadable(path, error))
        return False
    return True


def toml_names(directory: Path, problems: list[ConfigProblem]) -> list[str]:
    """Names ending in .toml, in lexical order; hidden files (editors leave them) do not count."""
    try:
        names = [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(_unreadable(directory, error))
        return []
    return sorted(name for name in names if name.endswith(".toml") and not name.startswith("."))


def read(path: Path, problems: list[ConfigProblem]) -> bytes:
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
