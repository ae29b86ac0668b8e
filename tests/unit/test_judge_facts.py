"""Measured facts, directive by directive: what was seen to be effective, and where. The judge may never say more.

`data/hardening_expected.json`: for each directive and place true, false, null (not proved), "unknown" (this systemd
does not know it) or "exit N" (the unit does not start).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from unit.judge_rig import CGROUP, OWN_PATHS, Unit, bare, host, mounted, namespaced, sandboxed, seen, status

from agentd.core.directives import Check, lookup
from agentd.evidence import Mount, ProcessEvidence
from agentd.findings import Finding, Verdict
from agentd.types import ActiveState, Scope

FACTS = json.loads((Path(__file__).parent / "data/hardening_expected.json").read_text())
PLACES = ("user252", "user252 PrivateUsers", "user257", "user257 PrivateUsers", "system252", "system257")
BLIND = (Check.SECCOMP, Check.WRITE_EXECUTE, Check.UNSEEN, Check.BPF)
"""Of what is effective here, nothing is to be seen."""

Change = Callable[[ProcessEvidence], ProcessEvidence]
PRIVATE = "/tmp/systemd-private-1-web.service-x/tmp"


def _tmp(process: ProcessEvidence) -> ProcessEvidence:
    process = seen(process, "/tmp", "/var/tmp", inode=900)
    return mounted(process, *(Mount(p, "ext4", ("rw",), ("rw",), PRIVATE) for p in ("/tmp", "/var/tmp")))


def _mount(point: str, fstype: str, *options: str, super_options: tuple[str, ...] = ("rw",)) -> Change:
    return lambda process: mounted(process, Mount(point, fstype, options, super_options, "/"))


def _limit(name: str, *values: str) -> Change:
    return lambda process: replace(process, limits={**process.limits, name: (values[0], values[-1])})


def _ro(*paths: str) -> Change:
    return lambda process: seen(process, *paths, readonly=True)


def _hidden(*paths: str) -> Change:
    return lambda process: seen(process, *paths, mode=0, inode=901)


def _no_caps(process: ProcessEvidence) -> ProcessEvidence:
    return status(process, CapBnd="0000000000000000")


def _filtered(process: ProcessEvidence) -> ProcessEvidence:
    return status(process, Seccomp="2", Seccomp_filters="3")


APPLIED: Mapping[str, Change] = {
    "NoNewPrivileges=yes": lambda p: status(p, NoNewPrivs="1"),
    "ProtectSystem=strict": _ro("/", "/usr", "/boot", "/etc", "/var", "/opt", "/home"),
    "ProtectSystem=full": _ro("/usr", "/boot", "/etc"),
    "ProtectHome=read-only": _ro("/home", "/root", "/run/user"),
    "ProtectHome=yes": _hidden("/home", "/root", "/run/user"),
    "ProtectHome=tmpfs": lambda p: mounted(
        p, *(Mount(path, "tmpfs", ("ro",), ("ro",), "/") for path in ("/home", "/root", "/run/user"))
    ),
    "ReadWritePaths=/srv/data": lambda p: p,
    "ReadOnlyPaths=/srv/data": _ro("/srv/data"),
    "InaccessiblePaths=/srv/data": _hidden("/srv/data"),
    "BindReadOnlyPaths=/srv/from:/srv/data": lambda p: seen(
        _mount("/srv/data", "ext4", "ro")(p), "/srv/data", inode=OWN_PATHS["/srv/from"].inode
    ),
    "TemporaryFileSystem=/srv/data": _mount("/srv/data", "tmpfs", "rw"),
    "PrivateTmp=yes": _tmp,
    "PrivateTmp=disconnected": lambda p: mounted(
        seen(p, "/tmp", "/var/tmp", device=5), *(Mount(x, "tmpfs", ("rw",), ("rw",), "/") for x in ("/tmp", "/var/tmp"))
    ),
    "PrivateDevices=yes": lambda p: _no_caps(seen(p, "/dev", device=5)),
    "PrivateUsers=yes": lambda p: sandboxed(p),
    "PrivateNetwork=yes": lambda p: namespaced(p, "net"),
    "PrivateIPC=yes": lambda p: namespaced(p, "ipc"),
    "PrivatePIDs=yes": lambda p: namespaced(p, "pid"),
    "ProtectKernelTunables=yes": _ro("/proc/sys"),
    "ProtectKernelModules=yes": lambda p: _no_caps(_hidden("/usr/lib/modules")(p)),
    "ProtectKernelLogs=yes": lambda p: _no_caps(_hidden("/proc/kmsg")(p)),
    "ProtectControlGroups=yes": _ro("/sys/fs/cgroup"),
    "ProtectControlGroups=strict": lambda p: namespaced(_ro("/sys/fs/cgroup")(p), "cgroup"),
    "ProtectClock=yes": _no_caps,
    "ProtectHostname=yes": lambda p: namespaced(p, "uts"),
    "ProtectProc=invisible": _mount("/proc", "proc", "rw", super_options=("rw", "hidepid=invisible")),
    "ProcSubset=pid": _mount("/proc", "proc", "rw", super_options=("rw", "subset=pid")),
    "CapabilityBoundingSet=": _no_caps,
    "AmbientCapabilities=CAP_NET_BIND_SERVICE": lambda p: status(p, CapAmb="0000000000000400"),
    "UMask=0077": lambda p: status(p, Umask="0077"),
    "CPUAffinity=0": lambda p: status(p, Cpus_allowed_list="0"),
    "LimitNOFILE=256": _limit("Max open files", "256"),
    "LimitNOFILE=4194304": _limit("Max open files", "4194304"),
    "LimitMEMLOCK=infinity": _limit("Max locked memory", "unlimited"),
    "OOMScoreAdjust=-500": lambda p: replace(p, oom_score_adj=-500),
    "OOMScoreAdjust=500": lambda p: replace(p, oom_score_adj=500),
    "Nice=-5": lambda p: replace(p, nice=-5),
    "Nice=5": lambda p: replace(p, nice=5),
    "CPUSchedulingPolicy=fifo": lambda p: replace(p, scheduler=1),
    "LoadCredential=token:/etc/hostname": lambda p: seen(p, *(f"{r}/credentials/web.service/token"
                                                             for r in ("/run/user/1000", "/run"))),
    "NoExecPaths=/srv/data": _mount("/srv/data", "ext4", "noexec"),
}  # fmt: skip
FILES: Mapping[str, Mapping[str, str]] = {
    "MemoryMax=80M": {"memory.max": str(80 << 20)},
    "MemoryHigh=80M": {"memory.high": str(80 << 20)},
    "CPUQuota=20%": {"cpu.max": "20000 100000"},
    "CPUWeight=50": {"cpu.weight": "50"},
    "AllowedCPUs=0": {"cpuset.cpus": "0", "cpuset.cpus.effective": "0"},
    "TasksMax=20": {"pids.max": "20"},
    "IOWeight=50": {"io.weight": "default 50"},
    "IOReadBandwidthMax=/ 10M": {"io.max": "8:0 rbps=10000000 wbps=max riops=max wiops=max"},
    "OOMPolicy=kill": {"memory.oom.group": "1"},
    "Delegate=yes": {"cgroup.controllers": "cpu memory pids"},
}
XATTRS: Mapping[str, Mapping[str, str]] = {
    "Delegate=yes": {"user.delegate": "1"},
    "ManagedOOMPreference=avoid": {"user.oomd_avoid": "1"},
}


def unit(text: str, place: str, applied: bool) -> Unit:
    """The unit with that one directive, in that place, as it is where the directive was applied or was not."""
    scope = Scope.USER if place.startswith("user") else Scope.SYSTEM
    version = int(place.removeprefix("user").removeprefix("system")[:3])
    private = "PrivateUsers" in place or text.startswith("PrivateUsers")
    process = bare()
    spec = lookup(text.partition("=")[0])
    if applied and spec is not None and spec.mounts:
        process = sandboxed(process, userns=scope is Scope.USER)
    elif private and applied:
        process = sandboxed(process)
    if applied:
        process = APPLIED.get(text, _filtered)(process)
    lines = [text, *(["PrivateUsers=yes"] if private and not text.startswith("PrivateUsers") else [])]
    return Unit(
        lines,
        host=host(scope, version),
        processes=(process,),
        cgroup={**CGROUP, **(FILES.get(text, {}) if applied else {})},
        xattrs=XATTRS.get(text, {}) if applied else {},
    )


def finding(subject: Unit, text: str) -> Finding:
    return subject.one(text.partition("=")[0])


@pytest.mark.parametrize("text", list(FACTS))
def test_the_verdict_agrees_with_the_measurement(text: str) -> None:
    for place in FACTS[text]:
        _check(text, place, FACTS[text][place])


def _check(text: str, place: str, fact: object) -> None:
    spec = lookup(text.partition("=")[0])
    if isinstance(fact, str) and fact.startswith("exit"):
        code = int(fact.removeprefix("exit "))
        dead = {"active_state": ActiveState.FAILED, "exec_code": 1, "exec_status": code, "main_pid": 0}
        found = finding(replace(unit(text, place, applied=False), processes=(), state=dead), text)
        assert found.verdict is Verdict.NOT_EFFECTIVE, place
        assert f"does not start: {code}/" in found.cause
        return
    found = finding(unit(text, place, applied=fact is True), text)
    allowed = {
        "unknown": (Verdict.NOT_LOADED, Verdict.NOT_ENFORCEABLE),
        False: (Verdict.NOT_EFFECTIVE, Verdict.NOT_ENFORCEABLE),
        None: tuple(verdict for verdict in Verdict if verdict is not Verdict.EFFECTIVE),
        True: (Verdict.NOT_PROVABLE if spec is not None and spec.check in BLIND else Verdict.EFFECTIVE,),
    }[fact]
    assert found.verdict in allowed, (place, found)
    assert (found.verdict is Verdict.EFFECTIVE) == (not found.cause), (place, found)


@pytest.mark.parametrize("text", list(FACTS))
def test_without_evidence_nothing_is_ever_effective(text: str) -> None:
    for place in PLACES:
        assert finding(unit(text, place, applied=False), text).verdict is not Verdict.EFFECTIVE, place


NICER = ("OOMScoreAdjust=-500", "Nice=-5")
"""Another process may be nicer than the main one."""


@pytest.mark.parametrize("text", list(APPLIED))
def test_a_second_process_without_it_is_named(text: str) -> None:
    judged = 0
    for place in PLACES:
        subject = unit(text, place, applied=True)
        if finding(subject, text).verdict is not Verdict.EFFECTIVE:
            continue
        judged += 1
        other = bare(8, "helper", started=2_000_000.0)
        found = finding(replace(subject, processes=(*subject.processes, other)), text)
        assert (found.verdict is Verdict.EFFECTIVE) == (text in NICER), (place, found)
        if found.verdict is Verdict.NOT_EFFECTIVE:
            assert "8 (helper)" in found.cause, place
    assert judged
