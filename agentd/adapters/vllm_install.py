"""What is installed for vLLM on this machine, found by looking at files: nothing of it is run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from agentd.core.model_files import is_weights

LOADERS = (("fastsafetensors", "fastsafetensors"), ("runai_model_streamer", "runai_streamer"))
"""Module -> load format, the quicker one first."""
PLACE = "models--"
"""What the name of a repository's directory in Hugging Face's cache begins with."""


def program(named: str, home: Path) -> str:
    """The path of the vllm program: the named one, else of ~/.local/bin, else of PATH; "" when there is none."""
    if named:
        found = shutil.which(os.path.expanduser(named))  # noqa: PTH111 - names of PATH stay names
        return os.path.abspath(found) if found else ""  # noqa: PTH100 - a link stays one
    usual = home / ".local/bin/vllm"
    return str(usual) if os.access(usual, os.X_OK) else shutil.which("vllm") or ""


def loader(vllm: str) -> str:
    """The quickest load format whose module is installed for this program; "" for vLLM's own."""
    for packages in _site_packages(Path(vllm)):
        for module, name in LOADERS:
            if (packages / module).is_dir():
                return name
    return ""


def _site_packages(vllm: Path) -> list[Path]:
    """Of the environment that the program lies in, and of the one whose Python its first line names."""
    places = [vllm.resolve().parent]
    try:
        with vllm.open("rb") as file:
            first = file.readline(512).decode(errors="replace")
    except OSError:
        first = ""
    if first.startswith("#!/"):
        places.append(Path(first[2:].split()[0]).parent)
    return [found for place in places for found in sorted(place.parent.glob("lib/python3*/site-packages"))]


def cached_repo(repo: str, home: Path, env: Mapping[str, str]) -> str:
    """The directory of a repository in Hugging Face's cache; "" when its weights are not there."""
    root = hub(home, env) / (PLACE + repo.replace("/", "--"))
    try:
        there = any(
            is_weights(entry.name) for snapshot in (root / "snapshots").iterdir() for entry in snapshot.iterdir()
        )
    except OSError:
        return ""
    return str(root) if there else ""


def repo_of(path: str) -> str:
    """The repository whose place in the cache a directory is, by its name; "" for another directory."""
    name = Path(path).name
    return name.removeprefix(PLACE).replace("--", "/") if name.startswith(PLACE) else ""


def hub(home: Path, env: Mapping[str, str]) -> Path:
    """Where Hugging Face's cache has its repositories."""
    told = dict(cache_variables(env))
    base = Path(told["HF_HOME"]) if "HF_HOME" in told else home / ".cache/huggingface"
    return Path(told["HF_HUB_CACHE"]) if "HF_HUB_CACHE" in told else base / "hub"


def cache_variables(env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those that say where Hugging Face's cache is, as far as they are set. Absolute: a unit has another directory."""
    found = ((name, env.get(name, "")) for name in ("HF_HOME", "HF_HUB_CACHE"))
    return tuple((name, os.path.abspath(os.path.expanduser(text))) for name, text in found if text)  # noqa: PTH100, PTH111
