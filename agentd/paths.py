"""Where agentd's files live. Standard library only; every function takes the environment, for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ETC = Path("/etc/agentd")
CONFIG_DIR_VARIABLE = "AGENTD_CONFIG_DIR"
SOCKET_NAME = "agentd.sock"
JOURNAL_NAME = "journal.sqlite"


def share_dir() -> Path:
    """The directory with `units/` and `etc/`: the checkout that holds the package, or the installed copy."""
    package = Path(__file__).resolve().parent
    if (package.parent / "pyproject.toml").is_file():
        return package.parent
    # A wheel's data lands below the prefix; with `pip install --user` that is not sys.prefix, but it is still
    # the directory four levels above the package.
    below_prefix = package.parents[3] / "share" / "agentd"
    return below_prefix if below_prefix.is_dir() else Path(sys.prefix) / "share" / "agentd"


def home(env: Mapping[str, str] = os.environ) -> Path:
    value = env.get("HOME", "")
    return Path(value) if value.startswith("/") else Path.home()


def config_home(env: Mapping[str, str] = os.environ) -> Path:
    return _xdg(env, "XDG_CONFIG_HOME", ".config")


def state_home(env: Mapping[str, str] = os.environ) -> Path:
    return _xdg(env, "XDG_STATE_HOME", ".local/state")


def config_override(directory: str | Path | None = None, env: Mapping[str, str] = os.environ) -> Path | None:
    """The directory that replaces /etc and the user's (`--config`, else AGENTD_CONFIG_DIR), made absolute."""
    chosen = str(directory or "") or env.get(CONFIG_DIR_VARIABLE, "")
    return Path(os.path.abspath(chosen)) if chosen else None  # noqa: PTH100  (no symlink is to be resolved)


def config_layers(directory: str | Path | None = None, env: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Directories with `agentd.toml` and `config.d/`, lowest priority first."""
    override = config_override(directory, env)
    packaged = share_dir() / "etc"
    return (packaged, override) if override else (packaged, ETC, config_home(env) / "agentd")


def config_dir(env: Mapping[str, str] = os.environ, *, system: bool = False) -> Path:
    """The directory with the highest priority: where agentd adds a fragment of its own."""
    return config_override(env=env) or (ETC if system else config_home(env) / "agentd")


def state_dir(env: Mapping[str, str] = os.environ, *, system: bool = False) -> Path:
    return Path("/var/lib/agentd") if system else state_home(env) / "agentd"


def journal_file(env: Mapping[str, str] = os.environ, *, system: bool = False) -> Path:
    return state_dir(env, system=system) / JOURNAL_NAME


def user_runtime_dir(env: Mapping[str, str] = os.environ) -> Path:
    """$XDG_RUNTIME_DIR, or the place where logind makes it."""
    value = env.get("XDG_RUNTIME_DIR", "")
    return Path(value) if value.startswith("/") else Path(f"/run/user/{os.getuid()}")


def runtime_dir(env: Mapping[str, str] = os.environ, *, system: bool = False) -> Path:
    return (Path("/run") if system else user_runtime_dir(env)) / "agentd"


def socket_path(env: Mapping[str, str] = os.environ, *, system: bool = False) -> Path:
    """The unix socket of the full API."""
    return runtime_dir(env, system=system) / SOCKET_NAME


def unit_dir(env: Mapping[str, str] = os.environ, *, system: bool = False) -> Path:
    """Where an administrator's units and drop-ins live: the highest-priority directory that survives a reboot."""
    return Path("/etc/systemd/system") if system else config_home(env) / "systemd" / "user"


def agentctl(env: Mapping[str, str] = os.environ) -> Path:
    """The path that drop-ins call: where the units look first, else beside the program that runs."""
    usual = home(env) / ".local/bin/agentctl"
    beside = Path(os.path.abspath(sys.argv[0])).with_name("agentctl")  # noqa: PTH100  (a link stays one)
    return next((p for p in (usual, beside, Path("/usr/bin/agentctl")) if os.access(p, os.X_OK)), usual)


def _xdg(env: Mapping[str, str], variable: str, fallback: str) -> Path:
    # The base directory specification: a relative path is invalid and to be ignored.
    value = env.get(variable, "")
    return Path(value) if value.startswith("/") else home(env) / fallback
