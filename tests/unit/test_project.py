"""What the repository promises about itself: version, packaging, texts."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import agentd

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROGRAMS = ("packaging/setup", "packaging/try", "packaging/install", "tests/run", "tests/bare/run", ".ci/run")

FORBIDDEN = tuple(
    "".join(parts)
    for parts in (
        ("py", "pi.", "org"),
        ("files.python", "hosted"),
        ("deb.", "debian", ".org"),
        ("download.py", "torch"),
        ("hugging", "face.co"),
        ("/wo", "rk/"),
        ("/opt/", "wheels"),
        ("sub", "agent"),
    )
)
"""Hosts of package registries (the machine's own configuration names them) and places of one machine alone."""


def tracked() -> list[Path]:
    """The files of the repository: tracked, and new ones that git does not ignore."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in out.split("\0") if name and (ROOT / name).is_file()]


def test_the_changelog_knows_this_version() -> None:
    headings = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())
    assert headings
    assert headings[0] == agentd.__version__


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_every_dependency_has_a_lower_bound() -> None:
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    assert [d for group in groups for d in group if not re.search(r"[=>]=", d)] == []


def test_the_nvml_module_comes_from_its_official_distribution() -> None:
    names = {re.split(r"[\[<>=~ ]", d)[0] for d in PROJECT["project"]["dependencies"]}
    assert "nvidia-ml-py" in names
    assert "pynvml" not in names


def test_entry_points_exist() -> None:
    for name, target in PROJECT["project"]["scripts"].items():
        module, _, function = target.partition(":")
        path = ROOT / (module.replace(".", "/") + ".py")
        assert path.exists(), f"{name} points to {module}, which is missing"
        assert re.search(rf"(?m)^def {function}\(", path.read_text()), f"{name}: no {function}() in {module}"


def test_texts_name_no_registry_and_no_machine() -> None:
    found = []
    for path in tracked():
        text = path.read_bytes().decode(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert found == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_executable_and_parse(name: str) -> None:
    path = ROOT / name
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].removeprefix("#!")
    assert subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False).stderr == ""


def test_the_readme_names_programs_that_exist() -> None:
    named = set(re.findall(r"(?:packaging|tests)/[a-z]+(?:/run)?\b", (ROOT / "README.md").read_text()))
    assert {"packaging/try", "tests/run"} <= named
    assert [n for n in sorted(named) if not (ROOT / n).exists()] == []


def test_documents_link_to_files_that_exist() -> None:
    broken = []
    for path in tracked():
        if path.suffix == ".md":
            links = re.findall(r"\]\(([^)#:\s]+)\)", path.read_text())
            broken += [f"{path.relative_to(ROOT)}: {link}" for link in links if not (path.parent / link).exists()]
    assert broken == []
