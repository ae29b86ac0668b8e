"""What is clamped or never enforced, and limits that the cgroup holds or a cgroup above tightens."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from unit.judge_rig import (
    CGROUP,
    DIR,
    INSIDE,
    Unit,
    bare,
    host,
    mounted,
    says,
    status,
)

from agentd.core.judge import judge
from agentd.evidence import CgroupLevel, Mount, ProcessEvidence
from agentd.findings import Verdict
from agentd.types import Scope

CLAMPED = replace(bare(), limits={"Max open files": ("1048576", "1048576")})


@pytest.mark.parametrize(
    ("line", "process", "cause"),
    [
        ("OOMScoreAdjust=-500", replace(bare(), oom_score_adj=100), "the user manager itself has 100"),
        ("OOMScoreAdjust=50", replace(bare(), oom_score_adj=100), "clamped without a word"),
        ("Nice=-5", bare(), "only root may go below"),
        ("LimitMEMLOCK=infinity", bare(), "clamped to 8388608 by the hard limit of the manager"),
        ("LimitNOFILE=4194304", CLAMPED, "clamped to 1048576"),
        ("AmbientCapabilities=CAP_NET_BIND_SERVICE", status(INSIDE, CapAmb="400"), "is still refused"),
        ("ProtectProc=invisible", INSIDE, "cannot mount /proc"),
        ("DynamicUser=yes", bare(), "runs everything as its own user"),
        ("IPAddressDeny=any", bare(), "may not load BPF programs"),
        ("DeviceAllow=/dev/null rw", bare(), "may not load BPF programs"),
        ("PrivatePIDs=yes", bare(), "systemd 252 does not know PrivatePIDs="),
        ("PrivateTmp=disconnected", bare(), "does not know PrivateTmp=disconnected"),
    ],
)  # fmt: skip
def test_not_enforceable_in_a_user_manager(line: str, process: ProcessEvidence, cause: str) -> None:
    found = Unit([line], processes=(process,), properties={"PrivateTmp": False}).one(line.partition("=")[0])
    says(found, Verdict.NOT_ENFORCEABLE, cause)
    assert found.fix


def test_the_system_manager_of_252_has_no_bpf_framework() -> None:
    system = host(Scope.SYSTEM)
    unit = Unit(["SocketBindDeny=any", "IPAddressDeny=any"], host=system)
    says(unit.one("SocketBindDeny"), Verdict.NOT_ENFORCEABLE, "without BPF_FRAMEWORK")
    says(unit.one("IPAddressDeny"), Verdict.NOT_PROVABLE, "only root can see", "bpftool")


def test_the_kernels_own_ceiling_for_open_files() -> None:
    process = replace(bare(), limits={"Max open files": ("1048576", "1048576")})
    found = Unit(["LimitNOFILE=4194304"], host=host(Scope.SYSTEM), processes=(process,)).one("LimitNOFILE")
    says(found, Verdict.NOT_ENFORCEABLE, "fs.nr_open = 1048576", "sysctl")


def test_what_a_program_may_change_itself_is_not_held_against_the_unit() -> None:
    process = replace(bare(), limits={"Max open files": ("65536", "65536")})
    says(Unit(["LimitNOFILE=1024:65536"], processes=(process,)).one("LimitNOFILE"), Verdict.NOT_PROVABLE, "soft limit")
    says(Unit(["UMask=0077"]).one("UMask"), Verdict.NOT_PROVABLE, "may set its own umask")
    narrower = status(bare(), Cpus_allowed_list="1")
    assert Unit(["CPUAffinity=0-1"], processes=(narrower,)).one("CPUAffinity").verdict is Verdict.EFFECTIVE


def test_seccomp_that_is_not_there_is_not_effective_but_mdwe_of_257_is_no_filter() -> None:
    assert Unit(["MemoryDenyWriteExecute=yes"]).one("MemoryDenyWriteExecute").verdict is Verdict.NOT_EFFECTIVE
    newer = Unit(["MemoryDenyWriteExecute=yes"], host=host(systemd=257)).one("MemoryDenyWriteExecute")
    assert newer.verdict is Verdict.NOT_PROVABLE


def test_what_is_switched_off_asks_for_nothing() -> None:
    found = Unit(["PrivateDevices=no", "ProtectProc=default"]).findings()
    assert {(f.verdict, f.effective) for f in found} == {(Verdict.EFFECTIVE, "asks for nothing")}


SLICE = "/user.slice/user-1000.slice"


def above(**files: str) -> tuple[CgroupLevel, ...]:
    named = {name.replace("__", "."): text for name, text in files.items()}
    return (CgroupLevel(f"{SLICE}/user@1000.service", {}), CgroupLevel(SLICE, named), CgroupLevel("/user.slice", {}))


@pytest.mark.parametrize(
    ("line", "own", "upper", "text"),
    [
        ("MemoryMax=2G", {"memory.max": str(2 << 30)}, {"memory__max": str(80 << 20)}, "memory.max 80M"),
        ("MemoryHigh=2G", {"memory.high": str(2 << 30)}, {"memory__high": str(1 << 30)}, "memory.high 1G"),
        ("TasksMax=100", {"pids.max": "100"}, {"pids__max": "60"}, "pids.max 60"),
        ("CPUQuota=200%", {"cpu.max": "200000 100000"}, {"cpu__max": "50000 50000"}, "cpu.max 50000 50000"),
    ],
)
def test_a_slice_above_is_tighter(line: str, own: dict[str, str], upper: dict[str, str], text: str) -> None:
    unit = Unit([line], cgroup={**CGROUP, **own}, above=above(**upper))
    found = unit.one(line.partition("=")[0])
    says(found, Verdict.OVERRIDDEN, f"{SLICE}, which is above the unit, allows only")
    assert found.effective == f"{text}, from {SLICE}"
    assert found.source.startswith(f"/sys/fs/cgroup{SLICE}/")
    wide = replace(unit, above=above(**{name: "max" if "cpu" not in name else "max 100000" for name in upper}))
    assert wide.one(line.partition("=")[0]).verdict is Verdict.EFFECTIVE


def test_memory_is_protected_only_as_far_as_above() -> None:
    unit = Unit(["MemoryLow=1G"], cgroup={**CGROUP, "memory.low": str(1 << 30)}, above=above(memory__low="0"))
    says(unit.one("MemoryLow"), Verdict.NOT_EFFECTIVE, f"{SLICE} has 0", "set MemoryLow= for user-1000.slice")
    enough = replace(unit, above=above(memory__low=str(2 << 30)))
    assert enough.one("MemoryLow").verdict is Verdict.EFFECTIVE


def test_a_file_that_is_missing_is_a_controller_that_is_missing() -> None:
    unit = Unit(["IOWeight=50", "AllowedCPUs=0"])
    found = unit.one("IOWeight")
    says(found, Verdict.NOT_EFFECTIVE, "the io controller is not delegated", "agentctl host-setup")
    assert found.effective == "no io.weight in the cgroup"
    hybrid = replace(unit, host=host(available=(), cgroup="hybrid"))
    says(hybrid.one("IOWeight"), Verdict.NOT_EFFECTIVE, "cgroup is hybrid", "unified_cgroup_hierarchy")
    delegated = replace(unit, host=host(delegated=("io", "cpuset")))
    says(delegated.one("AllowedCPUs"), Verdict.NOT_EFFECTIVE, "not enabled for the unit's cgroup", "daemon-reload")
    odd = Unit(["IOWeight=50"], cgroup={**CGROUP, "cgroup.controllers": "io memory", "io.max": ""})
    says(odd.one("IOWeight"), Verdict.NOT_ENFORCEABLE, "this kernel does not offer io.weight")


def test_a_cgroup_file_that_somebody_else_wrote() -> None:
    unit = Unit(["MemoryMax=1G"], cgroup={**CGROUP, "memory.max": "max"})
    says(unit.one("MemoryMax"), Verdict.NOT_EFFECTIVE, "changed after systemd had written it")
    rounded = replace(unit, lines=["MemoryMax=1000000"], cgroup={**CGROUP, "memory.max": "999424"})
    assert rounded.one("MemoryMax").verdict is Verdict.EFFECTIVE


def test_a_percentage_is_compared_by_what_systemd_made_of_it() -> None:
    unit = Unit(["MemoryMax=10%"], cgroup={**CGROUP, "memory.max": "4096"}, properties={"MemoryMax": 4096})
    assert unit.one("MemoryMax").verdict is Verdict.EFFECTIVE
    assert replace(unit, properties={}).one("MemoryMax").verdict is Verdict.NOT_PROVABLE


def test_weights_and_flags() -> None:
    idle = Unit(["CPUWeight=idle"], cgroup={**CGROUP, "cpu.idle": "1"}, properties={"CPUWeight": 0})
    assert idle.one("CPUWeight").verdict is Verdict.EFFECTIVE
    assert replace(idle, cgroup=CGROUP).one("CPUWeight").verdict is Verdict.NOT_EFFECTIVE
    assert Unit(["OOMPolicy=kill"]).one("OOMPolicy").verdict is Verdict.NOT_EFFECTIVE
    assert Unit(["OOMPolicy=stop"]).one("OOMPolicy").verdict is Verdict.EFFECTIVE
    assert Unit(["MemoryAccounting=yes"]).one("MemoryAccounting").verdict is Verdict.EFFECTIVE


PROFILE = """PrivateUsers=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths=-%h/a -%h/b
InaccessiblePaths=-%t/bus -%t/x
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
PrivateNetwork=yes
PrivateIPC=yes
SystemCallFilter=@system-service
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX
CapabilityBoundingSet=
KeyringMode=private
UMask=0077
MemoryMax=1G
MemoryHigh=1G
MemorySwapMax=0
CPUQuota=50%
CPUWeight=5
TasksMax=9
IOWeight=5
Nice=1
LimitNOFILE=5
LimitCORE=0
OOMScoreAdjust=300
OOMPolicy=stop
Delegate=no"""


def test_it_costs_little() -> None:
    """CPU time, not wall time: the best of several runs, so that a busy machine cannot make it fail."""
    lines = PROFILE.splitlines()
    inside = mounted(INSIDE, *(Mount(f"/m{n}", "ext4", ("ro",), ("rw",), "/") for n in range(60)))
    unit = Unit(lines, processes=(inside, replace(inside, pid=8), replace(inside, pid=9)), expected=True)
    view, evidence, ours = unit.view(), unit.evidence(), [unit.dropin]
    best = 1.0
    for _ in range(7):
        start = time.process_time()
        found = judge(view, evidence, unit.host, ours, DIR)
        best = min(best, time.process_time() - start)
    assert len(found) >= len(lines)
    assert best < 0.02


def test_amounts_for_devices_are_counted() -> None:
    line = "8:0 rbps=10000000 wbps=max riops=max wiops=max"
    unit = Unit(["IOReadBandwidthMax=/ 10M"], cgroup={**CGROUP, "io.max": line})
    assert unit.one("IOReadBandwidthMax").verdict is Verdict.EFFECTIVE
    two = replace(unit, lines=["IOReadBandwidthMax=/ 10M", "IOReadBandwidthMax=/srv 10M"])
    says(two.one("IOReadBandwidthMax"), Verdict.NOT_EFFECTIVE, "")


@pytest.mark.parametrize(("weight", "bfq"), [("50", "50"), ("200", "109"), ("10000", "1000")])
def test_io_weight_as_bfq_counts_it(weight: str, bfq: str) -> None:
    unit = Unit([f"IOWeight={weight}"], cgroup={**CGROUP, "io.bfq.weight": f"default {bfq}"})
    assert unit.one("IOWeight").verdict is Verdict.EFFECTIVE
    assert replace(unit, cgroup={**CGROUP, "io.bfq.weight": "7"}).one("IOWeight").verdict is Verdict.NOT_EFFECTIVE
