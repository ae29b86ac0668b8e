"""`host-setup` in a root directory of its own: applied, repeated, cut off, refused, undone. Commands are recorded."""

from __future__ import annotations

import os
import pwd
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.hosts import HOST, dropin

from agentd import hostsetup
from agentd.core.hostfiles import DELEGATE, FILES, LIMITS, PAM, SYSCTL
from agentd.core.hostsetup import LOAD_SYSCTL, RELOAD, HostStep, steps
from agentd.errors import AgentdError

UNIT = "user@1000.service"
BARE = replace(
    HOST,
    linger=False,
    userns_allowed=False,
    userns_reason="user.max_user_namespaces=0",
    sysctls={"user.max_user_namespaces": "0"},
)
DECLARED = [dropin("IOWeight=200", "LimitMEMLOCK=infinity", "PrivateUsers=yes")]
COMMANDS = (LOAD_SYSCTL, "loginctl enable-linger ai", RELOAD)


class Commands:
    """What would have been run as root; `failing` names a program that fails."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failing = ""

    def __call__(self, argv: Sequence[str]) -> None:
        self.ran.append(shlex.join(argv))
        if argv[0] == self.failing:
            raise AgentdError("command-failed", f"`{shlex.join(argv)}` failed: no")


@pytest.fixture
def run() -> Commands:
    return Commands()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("etc/systemd/system", "etc/security/limits.d", "etc/sysctl.d"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def todo(root: Path) -> tuple[HostStep, ...]:
    return steps(BARE, DECLARED, "ai", hostsetup.present(root))


def files(root: Path) -> set[str]:
    """Everything below /etc that is not a directory."""
    return {"/" + str(p.relative_to(root)) for p in (root / "etc").rglob("*") if not p.is_dir()}


def test_everything_is_written_and_run_once(root: Path, run: Commands) -> None:
    done = hostsetup.apply(todo(root), root=root, run=run)
    assert done.written == (SYSCTL, DELEGATE, LIMITS, PAM)
    assert (done.ran, tuple(run.ran)) == (COMMANDS, COMMANDS)
    assert done.restarts == (UNIT,), "said, not done"
    assert files(root) == set(FILES)
    for path in FILES:
        assert (root / path[1:]).stat().st_mode & 0o777 == 0o644


def test_a_second_run_writes_nothing(root: Path, run: Commands) -> None:
    hostsetup.apply(todo(root), root=root, run=run)
    before = {path: (root / path[1:]).stat().st_mtime_ns for path in FILES}
    again = todo(root)
    assert [step.files for step in again] == [{}] * len(again)
    assert hostsetup.apply(again, root=root, run=run).written == ()
    assert {path: (root / path[1:]).stat().st_mtime_ns for path in FILES} == before
    changed = hostsetup.present(root).changed
    ready = replace(HOST, manager_started=changed + 60, hard_limits={}, delegated=("cpu", "io", "memory", "pids"))
    assert steps(ready, DECLARED, "ai", hostsetup.present(root)) == ()


def test_the_restart_is_done_when_asked_for(root: Path, run: Commands) -> None:
    done = hostsetup.apply(todo(root), restart=True, root=root, run=run)
    assert run.ran == [*COMMANDS, f"systemctl restart {UNIT}"]
    assert done.restarts == ()


def test_undo(root: Path, run: Commands) -> None:
    other = root / "etc/sysctl.d/99-mine.conf"
    other.write_text("x = 1\n")
    hostsetup.apply(todo(root), root=root, run=run)
    with (root / LIMITS[1:]).open("a") as stream:
        stream.write("LimitCORE=0\n")
    run.ran.clear()
    done = hostsetup.undo(root=root, run=run)
    assert (done.removed, done.kept, run.ran) == ((DELEGATE, PAM, SYSCTL), (LIMITS,), [RELOAD])
    assert files(root) == {LIMITS, "/etc/sysctl.d/99-mine.conf"}
    run.ran.clear()
    assert hostsetup.undo(root=root, run=run) == hostsetup.Applied(kept=(LIMITS,))
    assert run.ran == []


def test_undo_leaves_no_empty_directory_and_only_the_directories_that_were_there(root: Path, run: Commands) -> None:
    hostsetup.apply(todo(root), root=root, run=run)
    hostsetup.undo(root=root, run=run)
    assert files(root) == set()
    assert list((root / "etc/systemd/system").iterdir()) == []
    assert (root / "etc/sysctl.d").is_dir()


def test_a_failing_command_is_told_and_the_next_run_goes_on(root: Path, run: Commands) -> None:
    run.failing = "loginctl"
    with pytest.raises(AgentdError, match="loginctl enable-linger ai"):
        hostsetup.apply(todo(root), root=root, run=run)
    assert files(root) == set(FILES)
    run.failing, run.ran = "", []
    hostsetup.apply(todo(root), root=root, run=run)
    assert set(run.ran) == set(COMMANDS)


def test_what_cannot_be_written_leaves_nothing_behind(root: Path, run: Commands) -> None:
    (root / "etc/sysctl.d").rmdir()
    (root / "etc/sysctl.d").write_text("in the way")
    with pytest.raises(AgentdError, match=r"sysctl\.d"):
        hostsetup.apply(todo(root), root=root, run=run)
    assert files(root) == {"/etc/sysctl.d"}
    assert run.ran == []


def test_a_link_of_our_name_is_refused(root: Path, run: Commands) -> None:
    (root / DELEGATE[1:]).parent.mkdir()
    (root / DELEGATE[1:]).symlink_to("/dev/null")
    with pytest.raises(AgentdError, match="symbolic link"):
        todo(root)


CUT_OFF = """
import os, signal, sys
from pathlib import Path
from agentd import hostsetup
from agentd.adapters import fileset
sys.path.insert(0, "tests")
from contract.test_host_setup import Commands, todo
root, count = Path(sys.argv[1]), int(sys.argv[2])
whole, seen = fileset.commit, []
def commit(step):
    if len(seen) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    seen.append(step)
    whole(step)
fileset.commit = commit
def run(argv):
    os.kill(os.getpid(), signal.SIGKILL)
hostsetup.apply(todo(root), root=root, run=run)
"""


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_a_killed_run_is_completed_by_the_next(root: Path, run: Commands, count: int) -> None:
    """Before each file, and (4) between the files and the commands."""
    done = subprocess.run([sys.executable, "-c", CUT_OFF, str(root), str(count)], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    hostsetup.recover(root=root)
    hostsetup.apply(todo(root), root=root, run=run)
    assert files(root) == set(FILES), "no staged file is left either"
    assert set(run.ran) == set(COMMANDS)
    hostsetup.undo(root=root, run=run)
    assert files(root) == set()


def test_commands_are_run_without_a_shell_and_their_failure_is_one_sentence(tmp_path: Path) -> None:
    hostsetup.run_command(["touch", str(tmp_path / "$(id) x")])
    assert [p.name for p in tmp_path.iterdir()] == ["$(id) x"]
    with pytest.raises(AgentdError, match="`false` failed: exit status 1") as failed:
        hostsetup.run_command(["false"])
    assert "run host-setup again" in failed.value.hint
    with pytest.raises(AgentdError, match="cannot run `no-such-program-here`: no such file"):
        hostsetup.run_command(["no-such-program-here"])


def test_accounts() -> None:
    me = pwd.getpwuid(os.getuid())
    assert hostsetup.account(me.pw_name) == hostsetup.account(str(me.pw_uid))
    assert hostsetup.account(me.pw_name).home == me.pw_dir
    for name in ("no-such-user", "4294967294999", ""):
        with pytest.raises(AgentdError, match="no user") as unknown:
            hostsetup.account(name)
        assert unknown.value.kind == "user-not-found"


def test_a_survey_of_a_user_whose_manager_does_not_run(tmp_path: Path) -> None:
    """On any machine: of an account that never has one."""
    config = tmp_path / "config"
    config.mkdir(mode=0o755)
    (config / "agentd.toml").write_text('[services.a]\nunit = "a.service"\nrole = "nonsense"\n')
    who = replace(hostsetup.account(str(os.getuid())), uid=64999, name="agentd-nobody", home=str(tmp_path))
    if os.getuid() != 0:
        who = replace(who, gid=os.getgid())
    found = hostsetup.survey(who, str(config), root=tmp_path)
    assert found.host.manager_pid == 0
    assert found.host.uid == 64999
    assert found.host.linger is False
    assert found.steps[-1].files.keys() <= {DELEGATE}
    assert len(found.notes) == 2, found.notes
    assert "the configuration of agentd-nobody cannot be used" in found.notes[0]
    assert "the manager of agentd-nobody does not run" in found.notes[1]
    assert hostsetup.as_json(found)["applied"] is None
