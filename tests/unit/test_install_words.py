"""What a person reads: differences of drop-ins, and why a service does not start under one."""

from __future__ import annotations

import re
import subprocess

import pytest

from agentd.core.exit_status import STATUS, diagnose
from agentd.core.unitdiff import Action, PlannedFile, changes, render, rivals
from agentd.core.unitfile import parse


def lines(*directives: str) -> str:
    return "[Service]\n" + "\n".join(directives) + "\n"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, lines("A=1"), ("+A=1",)),
        (lines("A=1"), None, ("-A=1",)),
        (lines("A=1", "B=2"), lines("B=2", "A=1"), ()),
        (lines("# one", "A=1"), lines("", "; two", "A = 1"), ()),
        (lines("A=1", "B=2"), lines("A=2", "C=3"), ("-A=1", "+A=2", "+C=3", "-B=2")),
        (lines("L=a", "L=b", "L=c"), lines("L=a", "L=c", "L=d"), ("-L=b", "+L=d")),
        (lines("L=a", "L=b"), lines("L=b", "L=a"), ("+L=b", "-L=b")),
        ("[Unit]\nAfter=x\n", lines("A=1"), ("+A=1", "-[Unit] After=x")),
        (None, None, ()),
    ],
)
def test_changes(old: str | None, new: str | None, expected: tuple[str, ...]) -> None:
    assert sorted(changes(old, new)) == sorted(expected)
    assert bool(changes(old, new)) == bool(expected)


def test_nothing_to_say() -> None:
    assert render([]) == ""
    assert render([PlannedFile("a.service", "/d/x.conf", Action.REMOVED, lines("A=1"), None, "old")]).splitlines() == [
        "a.service", "  removed  x.conf (old)", "    -A=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "theirs", "relation"),
    [
        ("security.conf", "ProtectHome=yes", "same"),
        ("security.conf", "ProtectHome=no", "wins"),
        ("50-x.conf", "ProtectHome=no", "loses"),
        ("security.conf", "ReadWritePaths=/b", "adds"),
        ("50-x.conf", "ReadWritePaths=/b", "adds"),
        ("security.conf", "ReadWritePaths=", "wins"),
        ("50-x.conf", "SystemCallFilter=@clock", "loses"),
        ("50-x.conf", "UMask=0077", None),
    ],
)
def test_rivals(name: str, theirs: str, relation: str | None) -> None:
    ours = {"/d/90-agentd-security.conf": lines("ProtectHome=yes", "ReadWritePaths=/a", "SystemCallFilter=",
                                                "SystemCallFilter=@system-service")}  # fmt: skip
    found = rivals("a.service", ours, {f"/d/{name}": lines(theirs)})
    assert [rival.relation.value for rival in found] == ([relation] if relation else [])
    assert all(f"/d/{name}:2" in str(rival) for rival in found)


GATEWAY = (
    *("NoNewPrivileges=yes", "ProtectSystem=strict", "ReadWritePaths=-/srv /missing %h/models", "PrivateDevices=yes"),
    *("InaccessiblePaths=-%t/bus /opt", "PrivateUsers=yes", "LimitNOFILE=99999999", "LimitMEMLOCK=infinity"),
    *("ProtectClock=no", "CPUSchedulingPolicy=fifo", "SystemCallFilter=@system-service", "MemoryMax=1G"),
    *("RestrictAddressFamilies=AF_UNIX", "TasksMax=4", "LoadCredential=x:/nowhere", "RuntimeDirectory=x"),
)
ROOT = "/run/systemd/unit-root"


@pytest.mark.parametrize(
    ("status", "journal", "named"),
    [
        (226, f"Failed to set up mount namespacing: {ROOT}/missing: No such file or directory", "ReadWritePaths"),
        (226, "Failed to set up mount namespacing: /home/u/models: No such file or directory", "ReadWritePaths"),
        (226, "Failed to set up mount namespacing: /run/systemd/mount-rootfs/opt: No such file", "InaccessiblePaths"),
        (218, "Failed to drop capabilities: Operation not permitted", "PrivateDevices"),
        (217, "Failed to set up user namespacing: Operation not permitted", "PrivateUsers"),
        (214, "Failed to set up CPU scheduling: Operation not permitted", "CPUSchedulingPolicy"),
        (205, "Failed to adjust resource limit RLIMIT_NOFILE: Operation not permitted", "LimitNOFILE"),
        (227, "Failed at step NO_NEW_PRIVILEGES spawning /bin/x: Operation not permitted", "NoNewPrivileges"),
        (243, "Failed to set up credentials: No such file or directory", "LoadCredential"),
        (233, "Failed to set up special execution directory in /run: Permission denied", "RuntimeDirectory"),
        (203, "Failed to execute /opt/bin/x: Permission denied", "InaccessiblePaths"),
        (203, "Failed at step EXEC spawning /opt/x: Permission denied", "InaccessiblePaths"),
    ],
)
def test_the_directive_is_named(status: int, journal: str, named: str) -> None:
    dropin = parse(lines(*GATEWAY), "/d/x.conf").directives
    found = diagnose(status, [f"a.service: {journal}"], dropin)
    assert [directive.key for directive in found.directives] == [named]
    assert found.exact
    assert found.name == f"{status}/{STATUS[status].name}"
    assert "the cause is" in str(found)
    assert ROOT not in str(found)
    assert "/d/x.conf:" in str(found)


def test_several_are_possible_and_what_is_off_is_none() -> None:
    found = diagnose(226, [], parse(lines(*GATEWAY)).directives)
    assert [d.key for d in found.directives] == [
        "ReadWritePaths",
        "InaccessiblePaths",
        "ProtectSystem",
        "PrivateDevices",
    ]
    assert "possible causes are" in str(found)
    assert diagnose(218, [], parse(lines("ProtectClock=no")).directives).directives == ()


def test_a_control_process_is_found_in_the_journal() -> None:
    said = ["a.service: Control process exited, code=exited, status=226/NAMESPACE", "a.service: Failed with result"]
    assert diagnose(0, said, parse(lines("ProtectSystem=strict")).directives).name == "226/NAMESPACE"


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("OSError: [Errno 30] Read-only file system: '/var/x'", "ProtectSystem"),
        ("socket.error: Address family not supported by protocol", "RestrictAddressFamilies"),
        ("RuntimeError: can't start new thread", "TasksMax"),
        ("PermissionError: [Errno 13] Permission denied", "InaccessiblePaths"),
        ("everything is fine", ""),
    ],
)
def test_what_a_program_says(said: str, named: str) -> None:
    found = diagnose(1, [said], parse(lines(*GATEWAY)).directives)
    assert (found.status, found.name) == (0, "")
    assert [d.key for d in found.directives][:1] == ([named] if named else [])


def test_signals_and_results() -> None:
    dropin = parse(lines(*GATEWAY)).directives
    assert [d.key for d in diagnose(0, [], dropin, signal=31).directives] == ["SystemCallFilter"]
    assert [d.key for d in diagnose(0, [], dropin, result="oom-kill").directives] == ["MemoryMax"]
    late = diagnose(0, ["x: Too many open files"], parse(lines("InaccessiblePaths=%t")).directives, result="timeout")
    assert [d.key for d in late.directives] == ["InaccessiblePaths"], "where a likelier one is not set"
    assert late.line == "x: Too many open files"
    assert diagnose(0, [], dropin, signal=9).directives == ()


def test_the_names_are_systemds() -> None:
    said = subprocess.run(["systemd-analyze", "exit-status"], capture_output=True, text=True, timeout=10, check=True)
    known = {int(number): name for name, number in re.findall(r"^(\w+)\s+(\d+) systemd$", said.stdout, re.MULTILINE)}
    known.pop(255)
    assert len(known) > 40
    assert {number: STATUS[number].name for number in known} == known
