"""Texts of procfs and cgroupfs as records, and what decides about the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentd.adapters import inspect_host
from agentd.adapters.inspect_cgroup import Cgroups
from agentd.adapters.inspect_host import cgroup_kind, denied_by, read_host, user_namespaces
from agentd.adapters.inspect_process import parse_limits, parse_mountinfo, parse_stat, parse_status
from agentd.adapters.unit_files import stems_of
from agentd.evidence import Mount
from agentd.types import Scope

STAT = "42 ({comm}) {state} 1 42 42 0 -1 {flags}" + " 0" * 8 + " 20 5 {threads} 0 314 1 1" + " 0" * 16 + " 3 0 0 0 0 0"
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max open files            1024                 524288               files     
Max nice priority         0                    0                    
Max realtime timeout      18446744073709551615 18446744073709551615 us        
"""  # noqa: W291 - as the kernel writes it
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
NONE_TAKEN = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t90\t1\n"
TAKEN = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\nmemory\t4\t90\t1\n"


@pytest.mark.parametrize("comm", ["sleep", "a b", "a) (b", ")", "", "new\nline"])
def test_stat_with_any_name(comm: str) -> None:
    stat = parse_stat(STAT.format(comm=comm, state="S", flags=0, threads=7))
    assert stat is not None
    assert (stat.comm, stat.nice, stat.threads, stat.start_ticks, stat.policy) == (comm, 5, 7, 314, 3)
    assert not stat.ending


@pytest.mark.parametrize(("state", "flags"), [("Z", 0), ("X", 0), ("R", 0x4), ("R", 0x400044)])
def test_stat_of_a_process_that_ends(state: str, flags: int) -> None:
    stat = parse_stat(STAT.format(comm="x", state=state, flags=flags, threads=1))
    assert stat is not None
    assert stat.ending


@pytest.mark.parametrize("text", ["", "42 (x", "42 (x) S 1 2"])
def test_stat_that_is_cut_off(text: str) -> None:
    assert parse_stat(text) is None


def test_limits() -> None:
    assert parse_limits(LIMITS) == {
        "Max cpu time": ("unlimited", "unlimited"),
        "Max open files": ("1024", "524288"),
        "Max nice priority": ("0", "0"),
        "Max realtime timeout": ("18446744073709551615", "18446744073709551615"),
    }
    assert parse_limits("") == {}


def test_status() -> None:
    text = "Name:\ta: b\nUid:\t1000\t1000\t1000\t1000\nGroups:\t \nCapBnd:\t0000000000000000\n"
    found = {"Name": "a: b", "Uid": "1000\t1000\t1000\t1000", "Groups": "", "CapBnd": "0" * 16}
    assert parse_status(text) == found


def test_mountinfo() -> None:
    text = (
        "36 35 98:0 /mnt1 /mnt/with\\040blank rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n"
        "37 35 98:1 / /proc ro - proc proc rw,hidepid=invisible\n"
        "broken\n"
        "38 35 98:1 / /cut - \n"
    )
    assert parse_mountinfo(text) == (
        Mount("/mnt/with blank", "ext3", ("rw", "noatime"), ("rw", "errors=continue"), "/mnt1"),
        Mount("/proc", "proc", ("ro",), ("rw", "hidepid=invisible"), "/"),
    )


@pytest.mark.parametrize(
    ("unified", "cgroups", "mountinfo", "kind"),
    [
        (True, NONE_TAKEN, V2, "v2"),
        (True, "", V2, "v2"),
        (True, TAKEN, V2, "hybrid"),
        (True, NONE_TAKEN, V2 + V1, "hybrid"),
        (False, TAKEN, V1, "v1"),
    ],
)
def test_kind_of_cgroups(unified: bool, cgroups: str, mountinfo: str, kind: str) -> None:
    assert cgroup_kind(unified, cgroups, mountinfo) == kind


def test_no_hierarchy_at_all() -> None:
    nothing = Cgroups("1 1 0:1 / / rw - ext4 /dev/root rw\n")
    assert nothing.find("/a.service") is None
    assert nothing.root() is None
    assert nothing.levels("/a.service") == ()
    assert nothing.pids("/a.service") == frozenset()
    assert nothing.words("", "cgroup.controllers") == ()


def test_a_mount_that_shows_a_part_of_the_hierarchy(tmp_path: Path) -> None:
    """As in a container without a cgroup namespace: systemd's names begin above what is mounted."""
    inside = tmp_path / "a.slice/b.service"
    inside.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a.slice", inside):
        (folder / "cgroup.procs").write_text("7\n" if folder == inside else "")
        (folder / "cgroup.events").write_text("populated 1\n")
        (folder / "cgroup.controllers").write_text("memory\n")
    shown = Cgroups(f"1 1 0:1 /docker/abc {tmp_path} rw - cgroup2 cgroup2 rw\n")
    group = "/docker/abc/a.slice/b.service"
    assert shown.pids(group) == {7}
    assert [level.path for level in shown.levels(group)] == [group, "/docker/abc/a.slice", "/docker/abc"]
    assert shown.find("/other/b.service") is None
    assert shown.words("", "cgroup.controllers") == ("memory",)


@pytest.mark.parametrize(
    ("uid", "settings", "reason"),
    [
        (1000, {}, ""),
        (1000, {"user.max_user_namespaces": "7", "kernel.unprivileged_userns_clone": "1"}, ""),
        (1000, {"user.max_user_namespaces": "0"}, "user.max_user_namespaces=0"),
        (0, {"user.max_user_namespaces": "0"}, "user.max_user_namespaces=0"),
        (1000, {"kernel.unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone=0"),
        (0, {"kernel.unprivileged_userns_clone": "0"}, ""),
        (
            1000,
            {"kernel.apparmor_restrict_unprivileged_userns": "1"},
            "kernel.apparmor_restrict_unprivileged_userns=1",
        ),
        (1000, {"kernel.apparmor_restrict_unprivileged_userns": "0"}, ""),
    ],
)
def test_settings_that_forbid_user_namespaces(uid: int, settings: dict[str, str], reason: str) -> None:
    assert denied_by(uid, settings) == reason


def test_user_namespaces_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program, whose last words are the reason; none to run is no answer."""
    monkeypatch.setattr(inspect_host, "file_text", lambda path: "Seccomp:\t0\n" if path.endswith("status") else "")
    uid = os.getuid()
    trials = {
        ("true",): (True, ""),
        ("sh", "-c", "echo one >&2; echo unshare failed: No >&2; exit 1"): (False, "unshare failed: No"),
        ("false",): (False, "unshare ended with status 1"),
    }
    for trial, answer in trials.items():
        monkeypatch.setattr(inspect_host, "_TRIAL", trial)
        assert user_namespaces(uid, {}) == answer
    monkeypatch.setattr(inspect_host, "_TRIAL", ("/no/such/program",))
    allowed, reason = user_namespaces(uid, {})
    assert allowed is None
    assert reason.startswith("cannot be tried: ")


def test_under_a_filter_of_our_own_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal would be the filter's; what the settings say is all there is."""
    monkeypatch.setattr(inspect_host, "file_text", lambda path: "Seccomp:\t2\n" if path.endswith("status") else "")
    monkeypatch.setattr(inspect_host, "_TRIAL", ("false",))
    uid = os.getuid()
    assert user_namespaces(uid, {}) == (True, "")
    assert user_namespaces(uid, {"user.max_user_namespaces": "0"}) == (False, "user.max_user_namespaces=0")


@pytest.mark.parametrize(
    ("text", "major"), [("252.39-1~deb12u2", 252), ("v257.13", 257), ("systemd 256~rc1", 256), ("", 0), ("devel", 0)]
)
def test_version(text: str, major: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_host, "user_namespaces", lambda uid, settings: (None, ""))
    assert read_host(Scope.SYSTEM, {"Version": text}).systemd == major


def test_a_host_of_which_little_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is there, no property was told: no exception, and nothing claimed."""
    monkeypatch.setattr(inspect_host, "file_text", lambda path: "")
    monkeypatch.setattr(inspect_host, "user_namespaces", lambda uid, settings: (None, ""))
    host = read_host(Scope.USER, {}, "nothing\n")
    assert (host.systemd, host.manager_pid, host.manager_started, host.memory_total) == (0, 0, 0.0, 0)
    assert (host.manager_nice, host.manager_oom_score_adj, host.hard_limits) == (None, None, {})
    assert (host.cgroup, host.unit_dirs, host.sysctls) == ("v1", (), {})


@pytest.mark.parametrize(
    ("unit", "stems"),
    [
        ("a.service", ["a.service"]),
        ("a-b.service", ["a-b.service", "a-.service"]),
        ("a-b-c.service", ["a-b-c.service", "a-b-.service", "a-.service"]),
        ("a-.service", ["a-.service"]),
        ("a--b.service", ["a--b.service", "a--.service", "a-.service"]),
        ("-a.service", ["-a.service"]),
        ("t@i.service", ["t@i.service", "t@.service"]),
        ("t@.service", ["t@.service"]),
        ("a-t@i-j.service", ["a-t@i-j.service", "a-t@.service", "a-.service", "a-@i-j.service", "a-@.service"]),
        ("a-b.slice", ["a-b.slice", "a-.slice"]),
        ("a.b-c.service", ["a.b-c.service", "a.b-.service"]),
    ],
)
def test_names_of_drop_in_directories(unit: str, stems: list[str]) -> None:
    assert list(stems_of(unit)) == stems
