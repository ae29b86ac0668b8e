"""What root is asked to do for a host, and what not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes.hosts import HOST, USER_LEVEL, dropin

from agentd.core import dropin as dropins
from agentd.core.hostfiles import DELEGATE, FILES, LIMITS, PAM, SYSCTL, Present, entries, is_foreign, undoing
from agentd.core.hostsetup import LOAD_SYSCTL, RELOAD, HostStep, restart_pending, steps
from agentd.evidence import HostEvidence
from agentd.types import Scope

UNIT = "user@1000.service"
DENIED: dict[str, Any] = {
    "userns_allowed": False,
    "userns_reason": "kernel.unprivileged_userns_clone=0",
    "sysctls": {"kernel.unprivileged_userns_clone": "0", "user.max_user_namespaces": "0", "fs.nr_open": "1048576"},
}


def todo(host: HostEvidence, *lines: str, present: Present | None = None) -> tuple[HostStep, ...]:
    return steps(host, [dropin(*lines)], "ai", present)


def only(found: tuple[HostStep, ...]) -> HostStep:
    assert len(found) == 1, found
    return found[0]


def written(*found: HostStep, changed: float = 2000.0) -> Present:
    """The host after these steps."""
    return Present({path: text for step in found for path, text in step.files.items()}, changed)


def test_nothing_to_do() -> None:
    assert todo(HOST, "MemoryMax=1G", "CPUQuota=100%", "TasksMax=5", "PrivateUsers=yes", "LimitNOFILE=65536") == ()
    assert todo(replace(HOST, userns_allowed=False), "MemoryMax=1G") == ()


def test_delegation() -> None:
    step = only(todo(HOST, "IOWeight=200"))
    assert step.title == "delegate the controller io to users' managers"
    assert (step.commands, step.restarts, step.blocked) == ((RELOAD,), (UNIT,), "")
    assert step.undo == (f"rm {DELEGATE}", RELOAD)
    assert step.files.keys() == {DELEGATE}
    assert "\n[Service]\nDelegate=cpu cpuset io memory pids\n" in step.files[DELEGATE]
    assert dropins.is_ours(step.files[DELEGATE])
    assert not dropins.edited(step.files[DELEGATE])


def test_what_the_kernel_has_not_cannot_be_delegated() -> None:
    assert todo(replace(HOST, available=("cpu", "memory", "pids")), "IOWeight=200", "AllowedCPUs=0") == ()
    assert todo(replace(HOST, available=(), delegated=(), ancestors=(), cgroup="hybrid"), "MemoryMax=1G") == ()


def test_an_unknown_configuration_gets_every_controller() -> None:
    assert "cpuset io" in only(steps(HOST, None, "ai")).title
    assert steps(replace(HOST, **DENIED), None, "ai")[0].files.keys() == {SYSCTL}


def test_without_a_running_manager_nothing_has_to_be_restarted() -> None:
    host = replace(HOST, manager_pid=0, manager_started=0.0, delegated=(), ancestors=())
    step = only(todo(host, "IOWeight=200", "MemoryMax=1G"))
    assert step.title == "delegate the controller io to users' managers", "the others it gets unasked"
    assert (step.commands, step.restarts) == ((RELOAD,), ())
    assert todo(host, "IOWeight=200", present=written(step)) == ()


def test_a_second_run_only_asks_for_the_restart() -> None:
    first = todo(HOST, "IOWeight=200", "LimitMEMLOCK=infinity")
    assert [list(step.files) for step in first] == [[DELEGATE], [LIMITS, PAM]]
    present = written(*first)
    assert restart_pending(HOST, present)
    second = only(todo(HOST, "IOWeight=200", "LimitMEMLOCK=infinity", present=present))
    assert (second.title, second.files, second.commands, second.restarts) == (f"restart {UNIT}", {}, (RELOAD,), (UNIT,))
    level = replace(USER_LEVEL, files={"cgroup.controllers": "cpu cpuset io memory pids"})
    limits = {**HOST.hard_limits, "Max locked memory": "unlimited"}
    restarted = replace(HOST, manager_started=3000.0, ancestors=(level,), hard_limits=limits)
    assert todo(restarted, "IOWeight=200", "LimitMEMLOCK=infinity", present=present) == ()


def test_daemon_reload_alone_is_not_taken_for_a_restart() -> None:
    """systemd 252 hands new controllers to the cgroup at once, and the running manager does not use them."""
    present = written(only(todo(HOST, "IOWeight=200")))
    offered = replace(HOST, ancestors=(replace(USER_LEVEL, files={"cgroup.controllers": "cpu cpuset io memory pids"}),))
    assert only(todo(offered, "IOWeight=200", present=present)).restarts == (UNIT,)


def test_a_file_that_did_not_help_is_not_written_again() -> None:
    present = written(only(todo(HOST, "IOWeight=200")))
    step = only(todo(replace(HOST, manager_started=3000.0), "IOWeight=200", present=present))
    assert "did not help" in step.blocked
    assert (step.files, step.commands, step.restarts) == ({}, (), ())


@pytest.mark.parametrize("text", ["[Service]\nDelegate=yes\n", "edited"])
def test_what_is_not_ours_is_kept(text: str) -> None:
    ours = only(todo(HOST, "IOWeight=200")).files[DELEGATE]
    present = Present({DELEGATE: ours + "# mine\n" if text == "edited" else text}, 500.0)
    assert is_foreign(present.texts[DELEGATE])
    step = only(todo(HOST, "IOWeight=200", present=present))
    assert "is kept" in step.blocked
    assert step.files == {}


def test_limits() -> None:
    step = only(todo(HOST, "LimitMEMLOCK=infinity", "LimitNICE=-5", "LimitNOFILE=65536"))
    assert entries(step.files[LIMITS]) == {"LimitMEMLOCK": "infinity", "LimitNICE": "25"}
    assert step.restarts == (UNIT,)
    assert [row for row in step.files[PAM].splitlines() if row[0] == "*"] == ["* hard memlock unlimited", "* - nice -5"]
    more = only(todo(HOST, "LimitMEMLOCK=3G", present=Present(step.files, 500.0)))
    assert "did not help" in more.blocked, "it has infinity already, and the manager is younger"
    few = replace(HOST, hard_limits={"Max open files": "524288"})
    assert entries(only(todo(few, "LimitNOFILE=900000")).files[LIMITS]) == {"LimitNOFILE": "1024:900000"}
    assert entries(only(todo(few, "LimitNOFILE=infinity")).files[LIMITS]) == {"LimitNOFILE": "1024:1048576"}
    assert "* hard nofile 900000\n" in only(todo(few, "LimitNOFILE=900000")).files[PAM]
    memory = replace(HOST, hard_limits={"Max locked memory": "8388608"})
    assert "* hard memlock 16385\n" in only(todo(memory, "LimitMEMLOCK=16777217")).files[PAM], "in KiB, rounded up"
    both = only(todo(few, "LimitNOFILE=900000", present=Present(step.files, 500.0)))
    assert entries(both.files[LIMITS]) == {"LimitMEMLOCK": "infinity", "LimitNICE": "25", "LimitNOFILE": "1024:900000"}


def test_more_files_than_the_kernel_allows_take_a_sysctl_first() -> None:
    first, second = todo(HOST, "LimitNOFILE=4194304")
    assert entries(first.files[SYSCTL]) == {"fs.nr_open": "4194304"}
    assert first.commands == (LOAD_SYSCTL,)
    assert entries(second.files[LIMITS]) == {"LimitNOFILE": "1024:4194304"}


def test_user_namespaces() -> None:
    step = only(todo(replace(HOST, **DENIED), "ProtectSystem=strict"))
    wanted = {"kernel.unprivileged_userns_clone": "1", "user.max_user_namespaces": "16384"}
    assert entries(step.files[SYSCTL]) == wanted
    assert (step.commands, step.restarts) == ((LOAD_SYSCTL,), ())
    again = only(todo(replace(HOST, **DENIED), "ProtectSystem=strict", present=written(step, changed=0.0)))
    assert (again.files, again.commands) == ({}, (LOAD_SYSCTL,)), "a run that was cut off before the command"
    unexplained = replace(HOST, userns_allowed=False, userns_reason="unshare: Operation not permitted")
    assert only(todo(unexplained, "ProtectSystem=strict")).blocked == "no setting is known"
    foreign = Present({SYSCTL: "fs.file-max = 1\n"})
    assert "is kept" in only(todo(replace(HOST, **DENIED), "PrivateUsers=yes", present=foreign)).blocked


@pytest.mark.parametrize("linger", [False, None])
def test_lingering(linger: bool | None) -> None:
    step = only(todo(replace(HOST, linger=linger)))
    assert step.commands == ("loginctl enable-linger ai",)
    assert (step.files, step.restarts, step.undo) == ({}, (), ("loginctl disable-linger ai",))


def test_root_and_the_system_need_less() -> None:
    assert todo(replace(HOST, uid=0), "LimitMEMLOCK=infinity") == ()
    system = replace(HOST, scope=Scope.SYSTEM, linger=None, delegated=(), ancestors=())
    assert todo(system, "IOWeight=200", "LimitMEMLOCK=infinity") == ()


def test_undo_takes_ours_and_leaves_the_rest() -> None:
    ours = only(todo(HOST, "IOWeight=200")).files[DELEGATE]
    present = Present({DELEGATE: ours, PAM: ours + "#\n", SYSCTL: "x = 1\n"})
    assert undoing(present) == ((DELEGATE,), (PAM,))
    assert undoing(Present(dict.fromkeys(FILES))) == ((), ())
