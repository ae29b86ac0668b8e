"""Why a running process has not got what its unit declares: each cause, and when it is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.judge_rig import (
    CGROUP,
    DEAD,
    FRAGMENT,
    INSIDE,
    NNP,
    NOW,
    UNIT,
    Unit,
    bare,
    host,
    mounted,
    sandboxed,
    says,
    seen,
    status,
)

from agentd.evidence import Mount, ProcessEvidence
from agentd.findings import Verdict
from agentd.types import ActiveState


def test_a_unit_that_does_not_run() -> None:
    unit = Unit(["NoNewPrivileges=yes", "MemoryMax=1G", "IPAddressDeny=any"], processes=(), state=DEAD)
    says(unit.one("NoNewPrivileges"), Verdict.NOT_RUNNING, "the unit is inactive", "start")
    assert unit.one("MemoryMax").verdict is Verdict.NOT_RUNNING
    assert unit.one("IPAddressDeny").verdict is Verdict.NOT_ENFORCEABLE


@pytest.mark.parametrize(
    ("line", "code", "cause", "fix"),
    [
        ("PrivateDevices=yes", 218, "218/CAPABILITIES; a user manager can drop", "PrivateUsers=yes"),
        ("PrivateUsers=yes", 217, "217/USER; unprivileged user namespaces are denied (because)", "agentctl host-setup"),
        ("TemporaryFileSystem=/x", 226, "226/NAMESPACE; a user manager can mount only", "PrivateUsers=yes"),
        ("CPUSchedulingPolicy=fifo", 214, "214/SETSCHEDULER; only root", "leave it out"),
        ("LoadCredential=a:/b", 243, "243/CREDENTIALS; the source", "create it"),
        ("SystemCallFilter=read", 228, "228/SECCOMP", "systemctl --user status"),
    ],
)
def test_a_unit_that_does_not_start_because_of_a_directive(line: str, code: int, cause: str, fix: str) -> None:
    state = {"active_state": ActiveState.FAILED, "exec_code": 1, "exec_status": code, "main_pid": 0}
    denied = host(userns_allowed=False, userns_reason="because")
    unit = Unit([line, "Nice=5"], processes=(), state=state, host=denied)
    says(unit.one(line.partition("=")[0]), Verdict.NOT_EFFECTIVE, cause, fix)
    says(unit.one("Nice"), Verdict.NOT_RUNNING, f"the unit does not start: {code}/")
    other = replace(unit, state={**state, "exec_status": 1})
    assert other.one(line.partition("=")[0]).verdict is Verdict.NOT_RUNNING


def test_a_process_older_than_the_file_needs_a_restart() -> None:
    unit = Unit(["NoNewPrivileges=yes"], mtime=NOW + 10, loaded_at=NOW + 11)
    says(unit.one("NoNewPrivileges"), Verdict.NEEDS_RESTART, "started before", f"restart {UNIT}")
    kept_time = replace(unit, mtime=NOW - 500)
    says(kept_time.one("NoNewPrivileges"), Verdict.NEEDS_RESTART, "last read its unit files")
    effective = replace(unit, processes=(NNP,))
    assert effective.one("NoNewPrivileges").verdict is Verdict.EFFECTIVE


def test_what_cannot_be_seen_of_an_older_process_needs_a_restart_too() -> None:
    process = status(bare(), Seccomp="2")
    unit = Unit(["LockPersonality=yes", "KeyringMode=private"], processes=(process,), mtime=NOW + 10)
    says(unit.one("LockPersonality"), Verdict.NEEDS_RESTART, "cannot be seen")
    says(unit.one("KeyringMode"), Verdict.NEEDS_RESTART, "cannot be seen")
    same = replace(unit, mtime=NOW - 10)
    says(same.one("LockPersonality"), Verdict.NOT_PROVABLE, "not what they forbid", "agentctl dropins prove")


def test_a_limit_of_the_cgroup_needs_no_restart() -> None:
    unit = Unit(["MemoryMax=1G"], mtime=NOW + 10, cgroup={**CGROUP, "memory.max": str(1 << 30)})
    assert unit.one("MemoryMax").verdict is Verdict.EFFECTIVE


def test_user_manager_of_252_without_private_users() -> None:
    unit = Unit(["ProtectSystem=strict"], mtime=NOW + 10)
    found = unit.one("ProtectSystem")
    says(found, Verdict.NOT_EFFECTIVE, "systemd 252 skips directives that need mounts", "PrivateUsers=yes")
    assert "/usr" in found.effective
    assert "writable" in found.effective


def test_user_namespaces_are_denied() -> None:
    denied = host(systemd=257, userns_allowed=False, userns_reason="user.max_user_namespaces=0")
    found = Unit(["ProtectSystem=strict"], host=denied).one("ProtectSystem")
    says(found, Verdict.NOT_EFFECTIVE, "denied (user.max_user_namespaces=0)", "agentctl host-setup")


def test_no_user_namespace_although_it_is_loaded() -> None:
    unit = Unit(["PrivateUsers=yes", "ProtectSystem=strict"])
    says(unit.one("PrivateUsers"), Verdict.NOT_EFFECTIVE, "everything that is mounted is void")
    says(unit.one("ProtectSystem"), Verdict.NOT_EFFECTIVE, "although PrivateUsers=yes is loaded")
    older = replace(unit, mtime=NOW + 1)
    assert older.one("PrivateUsers").verdict is older.one("ProtectSystem").verdict is Verdict.NEEDS_RESTART


def test_newer_user_manager_without_a_user_namespace() -> None:
    found = Unit(["ProtectSystem=strict"], host=host(systemd=257)).one("ProtectSystem")
    says(found, Verdict.NOT_EFFECTIVE, "started the unit without the sandbox", "PrivateUsers=yes")


STRICT = ("/", "/usr", "/boot", "/etc", "/var", "/opt", "/home")


def test_what_other_directives_make_writable_is_no_fault() -> None:
    inside = seen(INSIDE, *(p for p in STRICT if p != "/var"), readonly=True)
    lines = ["PrivateUsers=yes", "ProtectSystem=strict"]
    says(Unit(lines, processes=(inside,)).one("ProtectSystem"), Verdict.NOT_EFFECTIVE, "for no reason that is known")
    exempted = Unit([*lines, "ReadWritePaths=-/var"], processes=(seen(inside, "/var"),))
    assert exempted.one("ProtectSystem").verdict is Verdict.EFFECTIVE
    everything = Unit([*lines, "ReadWritePaths=/"], processes=(INSIDE,)).one("ProtectSystem")
    assert everything.verdict is Verdict.NOT_PROVABLE


def test_a_command_with_plus_has_no_sandbox() -> None:
    unit = Unit(["NoNewPrivileges=yes"], base=["ExecStart=@+/usr/bin/web web"])
    says(unit.one("NoNewPrivileges"), Verdict.NOT_EFFECTIVE, f"{FRAGMENT}:2 starts a command with '+'", "take the '+'")
    helper = bare(8, "helper")
    before = Unit(["NoNewPrivileges=yes", "Nice=0"], base=["ExecStartPre=+/x", "ExecStart=/y"], processes=(NNP, helper))
    found = before.one("NoNewPrivileges")
    says(found, Verdict.NOT_EFFECTIVE, "process 8 (helper) runs outside of the sandbox")
    assert found.effective.startswith("process 8 (helper): ")
    assert before.one("Nice").verdict is Verdict.EFFECTIVE


def test_a_process_that_came_from_elsewhere() -> None:
    stranger = Unit(["NoNewPrivileges=yes"], processes=(NNP, bare(8, "sh", started=NOW + 5)))
    says(stranger.one("NoNewPrivileges"), Verdict.NOT_EFFECTIVE, "process 8 (sh) was moved into", "ps -fp 8")
    left = Unit(["NoNewPrivileges=yes"], processes=(NNP, bare(8, "old", started=NOW - 60)))
    says(left.one("NoNewPrivileges"), Verdict.NOT_EFFECTIVE, "process 8 (old) is left over from an earlier start")
    many = Unit(["NoNewPrivileges=yes"], processes=(NNP, bare(8), bare(9)))
    assert many.one("NoNewPrivileges").effective.endswith(", and 1 more")


def test_a_process_that_cannot_be_looked_at_proves_nothing() -> None:
    blind = ProcessEvidence(7, "web", NOW, problem="its root directory cannot be opened: EACCES")
    lines = ["PrivateUsers=yes", "ProtectSystem=full", "PrivateTmp=yes", "NoNewPrivileges=yes", "LimitNOFILE=5",
             "InaccessiblePaths=/srv/data", "PrivateNetwork=yes", "OOMScoreAdjust=5",
             "CapabilityBoundingSet="]  # fmt: skip
    found = Unit(lines, processes=(blind,)).findings()
    assert {f.verdict for f in found} == {Verdict.NOT_PROVABLE}
    assert all("7" in f.cause for f in found)
    beside = Unit(["NoNewPrivileges=yes"], processes=(NNP, replace(blind, pid=8)))
    says(beside.one("NoNewPrivileges"), Verdict.NOT_PROVABLE, "process 8 cannot be looked at")


def test_texts_of_the_kernel_that_make_no_sense_prove_nothing() -> None:
    odd = replace(status(bare(), CapBnd="x", Umask="?", Cpus_allowed_list="a"), limits={"Max open files": ("a", "b")})
    lines = ["CapabilityBoundingSet=", "UMask=0077", "CPUAffinity=0", "LimitNOFILE=5", "MemoryMax=1G"]
    found = Unit(lines, processes=(odd,), cgroup={**CGROUP, "memory.max": "?"}).findings()
    assert {f.verdict for f in found} == {Verdict.NOT_PROVABLE}


def test_a_network_namespace_is_lost_beside_another_command() -> None:
    inside = sandboxed(bare())
    unit = Unit(
        ["PrivateUsers=yes", "PrivateNetwork=yes"], base=["ExecStartPre=/x", "ExecStart=/y"], processes=(inside,)
    )
    says(unit.one("PrivateNetwork"), Verdict.NOT_EFFECTIVE, f"({FRAGMENT}:2) the main process stays in the host's")


def test_private_tmp_is_told_from_our_own() -> None:
    """Where it is us who have a private folder, every other process differs from us."""
    own = seen(INSIDE, "/tmp", "/var/tmp", inode=5)
    unit = Unit(["PrivateUsers=yes", "PrivateTmp=yes"], processes=(own,))
    assert unit.one("PrivateTmp").verdict is Verdict.NOT_EFFECTIVE
    unknown = mounted(own, *(Mount(p, "ext4", ("rw",), ("rw",)) for p in ("/tmp", "/var/tmp")))
    assert replace(unit, processes=(unknown,)).one("PrivateTmp").verdict is Verdict.NOT_PROVABLE
