"""The files that come with agentd: units, examples and configuration, in a checkout or an installed copy."""

from __future__ import annotations

from pathlib import Path

from agentd import paths


def directory(name: str) -> Path:
    """`units`, `etc` or `dropins` of this installation."""
    return paths.share_dir() / name


def unit_files() -> tuple[Path, ...]:
    """The shipped units, by name."""
    return tuple(sorted(p for p in directory("units").iterdir() if p.suffix in (".service", ".socket")))


def profile_texts() -> dict[str, str]:
    """The packaged hardening profiles by file name ("gateway.security.conf"). Raises OSError."""
    return {p.name: p.read_text() for p in sorted(directory("dropins").glob("*.conf"))}


def example(name: str) -> Path:
    return directory("etc") / "examples" / name


def template(name: str) -> Path:
    """A file with places to be filled in."""
    return directory("etc") / "templates" / name
