"""Parsers of procfs and cgroupfs texts."""

from __future__ import annotations

import pytest

from agentd.core import procfs
from agentd.core.procfs import CgroupMount

UNIFIED = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:8 - tmpfs tmpfs ro,mode=755\n"
    "33 31 0:31 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0
   1: 00000000:1F42 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100 0 0 10 0
   2: 0100007F:1F43 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0 100 0 0 10 0
   3: 0101A8C0:1F44 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4714 1 0 100 0 0 10 0
"""
TCP6 = """  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:1F45 00000000000000000000000000000000:0000 0A 0:0 00:0 0 1000 0 4715 1 0
   1: 00000000000000000000000001000000:1F46 00000000000000000000000000000000:0000 0A 0:0 00:0 0 1000 0 4716 1 0
   2: 0000000000000000FFFF00000100007F:1F47 00000000000000000000000000000000:0000 0A 0:0 00:0 0 1000 0 4717 1 0
   3: B80D0120000000000000000001000000:1F48 00000000000000000000000000000000:0000 0A 0:0 00:0 0 1000 0 4718 1 0
"""


def test_mounts() -> None:
    assert procfs.cgroup_mounts(UNIFIED) == (CgroupMount("/sys/fs/cgroup", "/", True),)
    assert procfs.cgroup_mounts(HYBRID) == (
        CgroupMount("/sys/fs/cgroup/unified", "/", True),
        CgroupMount("/sys/fs/cgroup/systemd", "/", False),
    )
    assert procfs.cgroup_mounts("") == ()
    assert procfs.cgroup_mounts("1 2 0:3 / /a\\040b rw - cgroup2 none rw\n")[0].path == "/a b"


@pytest.mark.parametrize(
    ("root", "group", "directory"),
    [
        ("/", "/user.slice/x.service", "/cg/user.slice/x.service"),
        ("/docker/1", "/docker/1/x.service", "/cg/x.service"),
        ("/docker/1", "/docker/1", "/cg/"),
        ("/docker/1", "/docker/11/x.service", ""),
        ("/..", "/x.service", "/cg/x.service"),
    ],
)
def test_directory_of_a_control_group(root: str, group: str, directory: str) -> None:
    assert procfs.cgroup_directory(CgroupMount("/cg", root, True), group) == directory


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/user.slice/x.service\n", "/user.slice/x.service"),
        ("9:name=systemd:/a.service\n8:pids:/\n0::/b.service\n", "/b.service"),
        ("9:name=systemd:/a.service\n8:pids:/\n0::/\n", "/a.service"),
        ("9:name=systemd:/a.service\n", "/a.service"),
        ("0::/\n", "/"),
        ("0::/with:colon.service\n", "/with:colon.service"),
        ("", ""),
    ],
)
def test_path_of_a_process(text: str, path: str) -> None:
    assert procfs.cgroup_path(text) == path


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/vllm-qwen.service", "vllm-qwen.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/vllm.service/payload/x.service", "vllm.service"),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", "init.scope"),
        ("/user.slice/user-1000.slice/user@1000.service", "user@1000.service"),
        ("/system.slice/ssh.service", "ssh.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/agentd-12/m/app.slice/a.service", "a.service"),
        ("/app.slice/_cgroup.service", "cgroup.service"),
        ("/user.slice", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_unit_of_a_cgroup(path: str, unit: str) -> None:
    assert procfs.unit_of_cgroup(path) == unit


def test_pids() -> None:
    assert procfs.pids("12\n7\n0\n") == {7, 12}
    assert procfs.pids("") == frozenset()


@pytest.mark.parametrize(
    ("port", "inodes"),
    [
        (8001, {4711}),
        (8002, {4712}),
        (8003, set()),
        (8004, set()),
        (8005, {4715}),
        (8006, {4716}),
        (8007, {4717}),
        (8008, set()),
        (9, set()),
    ],
    ids=["loopback", "any", "established", "elsewhere", "any6", "loopback6", "mapped", "elsewhere6", "free"],
)
def test_listeners(port: int, inodes: set[int]) -> None:
    assert procfs.listening_inodes((TCP, TCP6), port) == inodes


def test_memory() -> None:
    assert procfs.mem_available("MemTotal: 10 kB\nMemAvailable:    2048 kB\n") == 2 << 20
    assert procfs.mem_available("MemTotal: 10 kB\n") == 0
