"""What lies on the disk beside a Python interpreter: LiteLLM's version and what its router takes, without importing it,
which takes seconds."""

from __future__ import annotations

import ast
import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_OUTSIDE = frozenset(
    {
        *("self", "model_list", "search_tools", "assistants_config", "router_general_settings"),
        *("ignore_invalid_deployments", "fallback_access_check", "fallback_budget_check"),
        "auto_router_capability_limit",
    }
)
"""Parameters of the router that `router_settings` cannot set."""
_LIBRARIES = ("lib", "lib64", "local/lib")
_FOLDERS = ("site-packages", "dist-packages")
_LARGEST = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Package:
    """`folder`: what holds the package "litellm"."""

    version: str
    folder: Path
    router_keys: frozenset[str]
    prometheus: bool


def find_package(python: Path, home: Path) -> Package | None:
    """LiteLLM as this interpreter would import it; None when it has none. `python`: not resolved, since a venv's one is
    a link to the system's."""
    folders = list(_folders(python, home))
    for folder in folders:
        version = _version(folder)
        if version:
            prometheus = any((other / "prometheus_client").is_dir() for other in folders)
            return Package(version, folder, router_keys(folder / "litellm" / "router.py"), prometheus)
    return None


def _folders(python: Path, home: Path) -> Iterator[Path]:
    """Where the interpreter looks for packages, in about its order."""
    prefix = python.parent.parent
    settings = _settings(prefix / "pyvenv.cfg")
    if settings is not None:
        yield from _below(prefix)
        if settings.get("include-system-site-packages", "").lower() != "true":
            return
        prefix = Path(settings.get("home", "/usr/bin")).parent
    yield from _existing(home / ".local/lib")
    yield from _below(prefix)


def _settings(path: Path) -> dict[str, str] | None:
    """Of a virtual environment; None when this is none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition("=") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _below(prefix: Path) -> Iterator[Path]:
    for library in _LIBRARIES:
        yield from _existing(prefix / library)


def _existing(library: Path) -> Iterator[Path]:
    """Newest Python first; Debian's own folder has no minor version."""
    for folder in _FOLDERS:
        found = [*library.glob(f"python3*/{folder}")]
        yield from sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.name)], reverse=True)


def _version(folder: Path) -> str:
    """By its metadata; the newest where a broken upgrade left two. "" when it is not there."""
    found = []
    for info in folder.glob("litellm-*.dist-info"):
        try:
            text = (info / "METADATA").read_text(errors="replace")
            when = info.stat().st_mtime
        except OSError:
            continue
        version = re.search(r"^Version:\s*(\S+)", text, re.MULTILINE)
        if version is not None:
            found.append((when, version[1]))
    return max(found)[1] if found else ""


def router_keys(source: Path) -> frozenset[str]:
    """Parameters of `Router.__init__`; empty when the source is not where it is looked for, or not as expected."""
    try:
        status = source.stat()
    except OSError:
        return frozenset()
    return _router_keys(os.fspath(source), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _router_keys(source: str, _changed: int, size: int) -> frozenset[str]:
    if size > _LARGEST:
        return frozenset()
    try:
        text = Path(source).read_text(errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^class Router\b.*?^(    def __init__\(.*?^    \)[^\n]*:)\n", text, re.MULTILINE | re.DOTALL)
    if found is None:
        return frozenset()
    try:
        (definition,) = ast.parse(f"{textwrap.dedent(found[1])} pass").body
    except (SyntaxError, ValueError):
        return frozenset()
    if not isinstance(definition, ast.FunctionDef):
        return frozenset()
    arguments = definition.args
    return frozenset(a.arg for a in (*arguments.args, *arguments.kwonlyargs)) - _OUTSIDE
