"""What of a host keeps declared directives from taking effect, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from fakes.hosts import GIB, HOST, USER_LEVEL, dropin, level

from agentd.core.dropin import Purpose
from agentd.core.hostcheck import host_findings
from agentd.evidence import HostEvidence
from agentd.findings import Finding, Severity
from agentd.types import Scope

DENIED: dict[str, Any] = {"userns_allowed": False, "userns_reason": "kernel.unprivileged_userns_clone=0"}
PAIR = ("MemoryHigh=4G", "MemoryMax=5G")
FEW_FILES = {"Max open files": "524288"}
SLICE = "/user.slice/user-1000.slice"


def found(host: HostEvidence, *lines: str) -> Mapping[str, Finding]:
    """By aspect."""
    findings = host_findings(host, [dropin(*lines)])
    assert all(f.subject == "host" for f in findings)
    assert len({f.aspect for f in findings}) == len(findings)
    for finding in findings:
        assert (finding.severity is Severity.OK) == (not finding.cause), finding
    return {f.aspect: f for f in findings}


def test_a_host_that_has_everything() -> None:
    findings = found(HOST, "MemoryMax=1G", "CPUQuota=150%", "TasksMax=20", "PrivateUsers=yes", "LimitNOFILE=4096")
    assert {f.severity for f in findings.values()} == {Severity.OK}
    assert {"cgroup", "controller memory", "controller cpu", "user namespaces", "lingering"} <= findings.keys()


def test_what_nobody_asks_for_is_not_missing() -> None:
    bare = replace(HOST, delegated=(), userns_allowed=False, userns_reason="x=0", manager_oom_score_adj=500)
    assert found(bare, "TimeoutStartSec=5").keys() == {"cgroup", "lingering"}


def case(aspect: str, lines: str, verdict: str, cause: str, fix: str, **changes: Any) -> Any:
    """`lines` of the drop-in, joined by ";"; `verdict` and severity; `changes` of the host."""
    return pytest.param(aspect, lines, verdict, cause, fix, changes, id=f"{aspect}-{lines}")


NO_IO, NO_CPU = "controller io", "controller cpu"
SYSTEM = Scope.SYSTEM
CONTROLLERS = [
    case(NO_IO, "IOWeight=200", "not-effective error", "not delegated to the user's", "restart user@1000.service"),
    case("controller cpuset", "AllowedCPUs=0-3", "not-effective error", "not delegated", "--apply --user 1000"),
    case(NO_CPU, "CPUQuota=5%", "not-effective error", "not delegated", "sudo", delegated=(), ancestors=()),
    case(NO_CPU, "CPUQuota=5%", "not-provable info", "a unit that asks", "sudo systemctl restart", delegated=("pids",)),
    case(NO_IO, "IOWeight=1", "not-effective error", "hierarchy has none", "/proc/cgroups", available=("cpu",)),
    case(NO_IO, "IOWeight=1", "not-running info", "does not run", "systemctl start user@1000.service", manager_pid=0),
    case(NO_IO, "IOWeight=1", "not-provable info", "no unit uses", "", scope=SYSTEM, delegated=()),
    case("cgroup", "MemoryMax=1G", "not-effective error", "is enforced", "grub", cgroup="hybrid", delegated=()),
    case(NO_CPU, "CPUQuota=5%", "not-effective error", "not delegated", "reboot", cgroup="hybrid", delegated=()),
    case("cgroup", "", "not-effective warning", "cgroup v1", "reboot", cgroup="v1", delegated=()),
    case("cgroup", "", "not-provable warning", "v2 are read", "reboot", cgroup="v1", scope=SYSTEM),
]
NAMESPACES = [
    case(
        "user namespaces", "PrivateUsers=yes", "not-effective error", "will not start (217/USER", "host-setup", **DENIED
    ),
    case(
        *("user namespaces", "ProtectSystem=strict", "not-effective error"),
        "(kernel.unprivileged_userns_clone=0): a.service without PrivateUsers=yes will start outside of its sandbox, "
        "without a word in the journal",
        *("host-setup",),
        **DENIED,
    ),
    case("user namespaces", "PrivateTmp=yes", "not-effective error", "with one line", "restart", systemd=257, **DENIED),
    case("user namespaces", "CapabilityBoundingSet=", "not-effective error", "denied", "host-setup", **DENIED),
    case("user namespaces", "PrivateTmp=yes", "not-provable info", "not be tried", "unshare", userns_allowed=None),
    case(
        *("user namespaces", "PrivateUsers=yes", "not-effective error", "user.max_user_namespaces=0", "host-setup"),
        **{**DENIED, "scope": SYSTEM, "userns_reason": "user.max_user_namespaces=0"},
    ),
    case("lingering", "", "not-effective warning", "with the last logout, and none", "enable-linger", linger=False),
    case("lingering", "", "not-provable info", "could not be read", "loginctl show-user 1000", linger=None),
]
LIMITS = [
    case("limit MEMLOCK", "LimitMEMLOCK=infinity", "not-effective error", "2084827136", "restart user@1000.service"),
    case("limit MEMLOCK", "LimitMEMLOCK=1M:3G", "not-effective error", "get no more", "host-setup"),
    case("limit NOFILE", "LimitNOFILE=524289", "not-effective error", "524288", "sudo", hard_limits=FEW_FILES),
    case("limit NOFILE", "LimitNOFILE=infinity", "not-effective error", "524288", "sudo", hard_limits=FEW_FILES),
    case("limit NOFILE", "LimitNOFILE=4194304", "not-effective error", "fs.nr_open=1048576", "host-setup"),
    case("limit NOFILE", "LimitNOFILE=4194304", "not-effective error", "fs.nr_open", "sysctl -w", scope=SYSTEM),
    case("OOM score", "OOMScoreAdjust=-500", "not-effective error", "oom_score_adj 100", "use 100 or more"),
    case("nice level", "Nice=-5", "not-effective error", "below 0", "LimitNICE=-5"),
    case("nice level", "Nice=-5", "not-effective error", "below -2", "-5", hard_limits={"Max nice priority": "22"}),
    case("realtime", "CPUSchedulingPolicy=fifo", "not-enforceable error", "214/SETSCHEDULER", "LimitRTPRIO"),
]
MEMORY = [
    case("swap", "MemoryHigh=4G", "effective warning", "slowed down", "99% of MemoryMax="),
    case("swap", "MemoryHigh=4G;MemoryMax=5G", "effective info", "not killed before", "remove MemoryHigh="),
    case(
        "swap", "MemoryHigh=4G;MemoryMax=5G;MemorySwapMax=0", "effective info", "slowed", "no MemorySw", swap_total=GIB
    ),
    case("swap limit", "MemorySwapMax=1G", "effective info", "no swap", "add swap"),
    case("memory", "MemoryMax=100G", "effective warning", "above the host's", "below the host's"),
    case(
        *("memory.max of user-1000.slice", "MemoryMax=80%", "not-effective warning", "memory.max 1073741824"),
        "sudo systemctl set-property user-1000.slice MemoryMax=80%",
        ancestors=(USER_LEVEL, level(SLICE, memory_max=str(GIB))),
    ),
    case(
        *("cpu.max of user@1000.service", "CPUQuota=200%", "not-effective warning", "150000 100000", "CPUQuota=200%"),
        ancestors=(level(f"{SLICE}/user@1000.service", cpu_max="150000 100000"),),
    ),
    case(
        *("pids.max of user-1000.slice", "TasksMax=20000", "not-effective warning", "less than what", "TasksMax=20000"),
        ancestors=(level(SLICE, pids_max="10000"),),
    ),
    case(
        *("cpuset.cpus.effective of u", "AllowedCPUs=1 2", "not-effective warning", "0-1", "AllowedCPUs=1 2"),
        ancestors=(level("/u", cpuset_cpus_effective="0-1"),),
    ),
]
VERSIONS = [
    case("systemd", "", "not-provable warning", "older than 252", "upgrade", systemd=249),
    case("kernel", "", "not-enforceable error", "pidfd_open", "newer kernel", kernel="5.2.0"),
    case("seccomp", "SystemCallFilter=@a", "not-enforceable error", "ignores", "package", features="-SECCOMP"),
    case("BPF framework", "SocketBindDeny=any", "not-enforceable warning", "-BPF_F", "Debian 13", scope=SYSTEM),
]


@pytest.mark.parametrize(
    ("aspect", "lines", "verdict", "cause", "fix", "changes"),
    [*CONTROLLERS, *NAMESPACES, *LIMITS, *MEMORY, *VERSIONS],
)
def test_cause_and_fix(aspect: str, lines: str, verdict: str, cause: str, fix: str, changes: dict[str, Any]) -> None:
    finding = found(replace(HOST, **changes), *lines.split(";"))[aspect]
    assert f"{finding.verdict} {finding.severity}" == verdict
    assert cause in finding.cause
    assert fix in finding.fix
    assert not lines or lines.partition("=")[0] in finding.declared


@pytest.mark.parametrize(
    ("changes", "lines", "aspect"),
    [
        ({}, ("MemoryMax=infinity", "TasksMax=infinity"), "controller io"),
        ({}, ("IOWeight=200", "IOWeight="), "controller io"),
        (DENIED, ("ProtectHome=no", "PrivateTmp=false"), "user namespaces"),
        ({**DENIED, "scope": Scope.SYSTEM}, ("PrivateUsers=yes",), "user namespaces"),
        ({}, ("LimitNOFILE=1048576",), "limit NOFILE"),
        ({}, ("LimitNOFILE=infinity",), "limit NOFILE"),
        ({"uid": 0}, ("LimitMEMLOCK=infinity",), "limit MEMLOCK"),
        ({"hard_limits": {}}, ("LimitMEMLOCK=infinity",), "limit MEMLOCK"),
        ({"scope": Scope.SYSTEM}, ("OOMScoreAdjust=-500",), "OOM score"),
        ({}, ("OOMScoreAdjust=100",), "OOM score"),
        ({"uid": 0}, ("Nice=-5",), "nice level"),
        ({"hard_limits": {"Max nice priority": "25"}}, ("Nice=-5",), "nice level"),
        ({"hard_limits": {"Max realtime priority": "1"}}, ("CPUSchedulingPolicy=rr",), "realtime"),
        ({"swap_total": GIB}, PAIR, "swap"),
        ({}, ("MemoryHigh=99%", "MemoryMax=100%"), "swap"),
        ({}, ("MemoryHigh=20G",), "swap"),
        ({}, ("MemorySwapMax=0",), "swap limit"),
        ({"memory_total": 0}, ("MemoryMax=100G",), "memory"),
        ({"ancestors": (level("/u", memory_max=str(GIB)),)}, ("MemoryMax=1G",), "memory.max of u"),
        ({"ancestors": (level("/u", memory_max="max", cpu_max="max 100000"),)}, ("MemoryMax=1T",), "memory.max of u"),
        ({"ancestors": (level("/u", cpu_max="max 100000"),)}, ("CPUQuota=900%",), "cpu.max of u"),
        ({}, ("SystemCallFilter=@system-service",), "seccomp"),
        ({}, ("SocketBindDeny=any",), "BPF framework"),
        ({"scope": Scope.SYSTEM, "linger": False}, (), "lingering"),
        ({"systemd": 0, "kernel": "odd"}, (), "systemd"),
    ],
)
def test_no_false_alarm(changes: dict[str, Any], lines: tuple[str, ...], aspect: str) -> None:
    assert aspect not in found(replace(HOST, **changes), *lines)


def test_a_hybrid_host_that_delegates_what_is_needed_is_fine() -> None:
    hybrid = replace(HOST, cgroup="hybrid")
    assert found(hybrid, "MemoryMax=1G")["cgroup"].severity is Severity.OK
    assert found(hybrid, "MemoryMax=1G", "IOWeight=5")["cgroup"].declared == "IOWeight=5 (a.service)"


def test_both_kinds_of_units_are_named_when_namespaces_are_denied() -> None:
    declared = [
        dropin("PrivateUsers=yes", "ProtectSystem=strict", unit="one.service", purpose=Purpose.SECURITY),
        dropin("PrivateUsers=no", "ProtectSystem=full", unit="two.service", purpose=Purpose.SECURITY),
    ]
    host = replace(HOST, **DENIED)
    (finding,) = [f for f in host_findings(host, declared) if f.aspect == "user namespaces"]
    assert "one.service will not start" in finding.cause
    assert "two.service without PrivateUsers=yes will start outside" in finding.cause
