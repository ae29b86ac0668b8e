"""Where files live, from the environment alone."""

from __future__ import annotations

import os
from pathlib import Path

from agentd import paths

ENV = {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}


def test_layers_are_packaged_then_etc_then_the_users() -> None:
    packaged, etc, user = paths.config_layers(env=ENV)
    assert (packaged / "agentd.toml").is_file()
    assert etc == Path("/etc/agentd")
    assert user == Path("/home/u/.config/agentd")
    assert paths.config_layers(env=ENV | {"XDG_CONFIG_HOME": "/c"})[-1] == Path("/c/agentd")


def test_an_override_replaces_all_but_the_packaged() -> None:
    packaged = paths.share_dir() / "etc"
    env = ENV | {"AGENTD_CONFIG_DIR": "/from/env"}
    assert paths.config_layers(env=env) == (packaged, Path("/from/env"))
    assert paths.config_layers("/from/option", env) == (packaged, Path("/from/option"))
    assert paths.config_override(None, ENV) is None
    assert paths.config_override("rel/../ative", ENV) == Path.cwd() / "ative"


def test_relative_xdg_values_are_ignored() -> None:
    env = {"HOME": "/home/u", "XDG_CONFIG_HOME": "conf", "XDG_STATE_HOME": "", "XDG_RUNTIME_DIR": "run"}
    assert paths.config_home(env) == Path("/home/u/.config")
    assert paths.journal_file(env) == Path("/home/u/.local/state/agentd/journal.sqlite")
    assert paths.user_runtime_dir(env) == Path(f"/run/user/{os.getuid()}")


def test_sockets_and_units() -> None:
    assert paths.socket_path(ENV) == Path("/run/user/7/agentd/agentd.sock")
    assert paths.socket_path(ENV, system=True) == Path("/run/agentd/agentd.sock")
    assert paths.unit_dir(ENV) == Path("/home/u/.config/systemd/user")
    assert paths.unit_dir(ENV, system=True) == Path("/etc/systemd/system")
    assert paths.state_dir(ENV, system=True) == Path("/var/lib/agentd")


def test_home_without_a_variable_is_the_password_files() -> None:
    assert paths.home({}).is_absolute()
    assert paths.home({"HOME": "relative"}).is_absolute()
