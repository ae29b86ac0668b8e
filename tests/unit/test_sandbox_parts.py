"""The pure parts of the sandbox and its stand-ins."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from agentd.sandbox import cgroup, command, requirements
from agentd.sandbox.standins import vllm

PARSER = argparse.ArgumentParser()
command.add_arguments(PARSER)


def test_the_last_visible_cgroup_mount_counts(tmp_path: Path) -> None:
    for name in ("old", "with space"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").touch()
    lines = [
        f"41 31 0:38 / {tmp_path}/old rw shared:1 - cgroup2 cgroup2 rw",
        f"42 31 0:38 / {tmp_path}/with\\040space rw - cgroup2 none rw",
        f"43 31 0:38 / {tmp_path}/hidden rw - cgroup2 none rw",
        "44 31 0:39 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
    ]
    mounts = tmp_path / "mountinfo"
    mounts.write_text("\n".join(lines))
    assert cgroup.mount_point(str(mounts)) == tmp_path / "with space"
    mounts.write_text(lines[-1])
    assert cgroup.mount_point(str(mounts)) is None


def test_sweep_takes_only_what_nobody_owns(tmp_path: Path) -> None:
    own = cgroup.create(tmp_path)
    stale = tmp_path / f"{cgroup.PREFIX}{os.getpid()}-1"
    stale.mkdir()
    other = tmp_path / "user.slice"
    other.mkdir()
    assert cgroup.sweep(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == sorted([own, other])


def test_a_machine_without_programs_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "MANAGERS", (Path("/nonexistent"),))
    monkeypatch.setattr(requirements, "BUS_UNITS", (Path("/nonexistent"),))
    monkeypatch.setattr(requirements, "find_tool", lambda _: None)
    remedies = [lack.remedy for lack in requirements.check()]
    assert remedies == ["apt install systemd", "apt install dbus-user-session", "apt install util-linux"]


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ({"user/max_user_namespaces": "0"}, "user.max_user_namespaces"),
        ({"kernel/unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone=1"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, "apparmor_restrict_unprivileged_userns=0"),
        ({}, "sudo"),
    ],
)
def test_forbidden_namespaces_name_the_setting(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str], remedy: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(requirements, "find_tool", lambda _: "/bin/false")
    monkeypatch.setattr(requirements, "_sysctl", lambda name: setting.get(name, ""))
    (lack,) = requirements.namespaces()
    assert "cannot make a user namespace" in lack.what
    assert remedy in lack.remedy


def test_no_redis_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_tool", lambda _: None)
    assert any("redis" in note for note in requirements.notes(bare=False))
    assert not any("redis" in note for note in requirements.notes(bare=True))


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ([], "guide"),
        (["--once"], "once"),
        (["--no-guide"], "stay"),
        (["--", "agentctl", "status", "--json"], "command"),
    ],
)
def test_what_runs_inside(words: list[str], mode: str) -> None:
    argv = command.inner_argv(PARSER.parse_args(words))
    assert argv[3:5] == ("agentd.sandbox.guide", mode)
    assert argv[5:] == tuple(words[1:] if mode == "command" else [])


def test_bare_runs_the_command_itself() -> None:
    assert command.inner_argv(PARSER.parse_args(["--bare", "--", "pytest", "-x"])) == ("pytest", "-x")


def test_vllm_arguments() -> None:
    flags = ["--port", "8001", "--enable-sleep-mode", "--api-key=k", "--unknown", "v", "--kv-cache-dtype", "auto"]
    arguments = vllm.parse(["serve", "m", *flags, "--tensor", "-1"])
    assert arguments.model == "m"
    assert arguments.flags == {
        "--port": "8001", "--enable-sleep-mode": "", "--api-key": "k", "--unknown": "v", "--kv-cache-dtype": "auto",
        "--tensor": "-1",
    }  # fmt: skip
    assert arguments.served_name == "m"
    with pytest.raises(SystemExit):
        vllm.parse(["chat"])
