"""agentctl host-setup: what it shows, asks and refuses. What it finds and does is put in its place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.cli import Run
from fakes.hosts import HOST, dropin

from agentd import hostsetup
from agentd.adapters.user_manager import Account
from agentd.cli import host_setup
from agentd.core.hostcheck import host_findings
from agentd.core.hostfiles import DELEGATE
from agentd.core.hostsetup import RELOAD, HostStep, steps
from agentd.errors import AgentdError
from agentd.types import ExitCode

AI = Account("ai", 1000, 1000, "/home/ai")
DECLARED = [dropin("IOWeight=200")]
TODO = steps(HOST, DECLARED, "ai")


class Host:
    """`left`: what further looks find, one after the other; the last one stays."""

    def __init__(self, *left: Sequence[HostStep]) -> None:
        self.left = [tuple(found) for found in left]
        self.calls: list[str] = []

    def account(self, name: str) -> Account:
        if name not in ("ai", "1000"):
            raise AgentdError("user-not-found", f'no user "{name}" on this host')
        return AI

    def survey(self, who: Account, directory: str | None) -> hostsetup.Survey:
        self.calls.append(f"survey {who.name} {directory}")
        found = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return hostsetup.Survey(who, HOST, found, host_findings(HOST, DECLARED), ("a note\x1b[2J",))

    def recover(self) -> None:
        self.calls.append("recover")

    def apply(self, todo: Sequence[HostStep], *, restart: bool) -> hostsetup.Applied:
        self.calls.append(f"apply {len(todo)} restart={restart}")
        return hostsetup.Applied(written=(DELEGATE,), ran=(RELOAD,), restarts=() if restart else ("user@1000.service",))

    def undo(self) -> hostsetup.Applied:
        self.calls.append("undo")
        return hostsetup.Applied(removed=(DELEGATE,), kept=("/etc/x",), ran=(RELOAD,))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(TODO)
    for name in ("account", "survey", "recover", "apply", "undo"):
        monkeypatch.setattr(hostsetup, name, getattr(found, name))
    as_user(monkeypatch, 0)
    monkeypatch.setattr("sys.argv", ["agentctl"])
    monkeypatch.delenv("SUDO_USER", raising=False)
    return found


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_it_shows_what_would_be_done(host: Host, run: Run) -> None:
    result = run("host-setup", "--user", "ai", "--config", "/c")
    assert result.code == 0
    assert "1. delegate the controller io to users' managers\n" in result.out
    assert f"   write    {DELEGATE}\n" in result.out
    assert "              Delegate=cpu cpuset io memory pids\n" in result.out
    assert "   run      systemctl daemon-reload\n" in result.out
    assert "   restart  user@1000.service  (ends every service of ai)\n" in result.out
    assert result.out.endswith("To do it: sudo agentctl host-setup --apply --user ai\n")
    assert host.calls == ["survey ai /c"]


def test_json_has_steps_and_findings(host: Host, run: Run) -> None:
    found = run("host-setup", "--user", "ai", "--json").json
    assert found["steps"][0]["files"].keys() == {DELEGATE}
    assert "controller io" in {finding["aspect"] for finding in found["findings"]}
    assert (found["user"], found["uid"], found["applied"]) == ("ai", 1000, None)


def test_nothing_to_do(host: Host, run: Run) -> None:
    host.left = [()]
    assert "nothing to do for ai (uid 1000)\n" in run("host-setup", "--user", "ai").out
    assert run("host-setup", "--apply", "--user", "ai").code == 0
    assert host.calls == ["survey ai None", "recover", "survey ai None"], "nothing was asked and nothing done"


def test_apply_tells_what_is_left(host: Host, run: Run) -> None:
    restart = replace(TODO[0], files={})
    host.left = [TODO, (restart,)]
    result = run("host-setup", "--apply", "--user", "ai", "--yes")
    assert result.code == 0
    assert f"wrote {DELEGATE}\nran {RELOAD}\nstill to do: systemctl restart user@1000.service" in result.out
    assert host.calls == ["recover", "survey ai None", "apply 1 restart=False", "survey ai None"]
    host.left = [TODO, ()]
    assert run("host-setup", "--apply", "--user", "ai", "--yes", "--restart").out.endswith("everything is in effect\n")
    assert "apply 1 restart=True" in host.calls
    host.left = [TODO, (restart,)]
    assert run("host-setup", "--apply", "--user", "ai", "--yes", "--json").json["applied"]["written"] == [DELEGATE]


def test_what_did_not_help_is_a_failure(host: Host, run: Run) -> None:
    host.left = [TODO, (HostStep("allow it", "it is denied", blocked="no setting is known"),)]
    result = run("host-setup", "--apply", "--user", "ai", "--yes")
    assert result.code == ExitCode.FAILED
    assert "! not in effect: allow it\n  no setting is known\n" in result.out


def test_undo(host: Host, run: Run) -> None:
    result = run("host-setup", "--undo", "--yes")
    assert result.code == 0
    assert f"removed {DELEGATE}\nran {RELOAD}\nkept /etc/x: somebody changed it\n" in result.out
    assert run("host-setup", "--undo", "--yes", "--json").json["applied"]["kept"] == ["/etc/x"]
    assert host.calls == ["undo", "undo"]


@pytest.mark.parametrize("options", [["--apply", "--user", "ai"], ["--undo"]])
def test_nothing_is_done_without_a_yes(
    host: Host, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    answers = tmp_path / "answers"
    answers.write_text("no\ny\n")
    with answers.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        result = run("host-setup", *options)
        assert (result.code, "add --yes" in result.err) == (ExitCode.USAGE, True), "there is no terminal"
        monkeypatch.setattr("agentd.cli.host_setup.sys.stdin", Terminal(stream))
        assert run("host-setup", *options).err == "agentctl: nothing was changed: no yes was given\n"
        assert not {"undo", "apply 1 restart=False"} & set(host.calls)
        run("host-setup", *options)
        assert {"undo", "apply 1 restart=False"} & set(host.calls)


class Terminal:
    """A file that says that it is a terminal."""

    def __init__(self, stream: Any) -> None:
        self.readline = stream.readline

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["--apply"], "sudo agentctl host-setup --apply --user ai"),
        (["--apply", "--restart"], "sudo agentctl host-setup --apply --user ai --restart"),
        (["--undo"], "sudo agentctl host-setup --undo"),
    ],
)
def test_a_user_is_told_the_command_for_root(
    host: Host, run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str], command: str
) -> None:
    as_user(monkeypatch, 1000)
    result = run("host-setup", *argv)
    assert result.code == ExitCode.FAILED
    assert result.err.endswith(f"needs root\n  {command}\n")
    assert host.calls == []
    monkeypatch.setattr("sys.argv", ["/home/ai/.local/bin/agentctl"])
    assert f"  {command.replace('agentctl', '/home/ai/.local/bin/agentctl')}\n" in run("host-setup", *argv).err


def test_a_user_may_look_at_the_own_manager_only(host: Host, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, 1000)
    assert run("host-setup").code == 0
    as_user(monkeypatch, 1001)
    assert "sudo agentctl host-setup --user ai" in run("host-setup", "--user", "ai").err


def test_whose_manager(host: Host, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "host-setup --user NAME" in run("host-setup").err
    monkeypatch.setenv("SUDO_USER", "ai")
    assert run("host-setup").code == 0
    assert run("host-setup", "--user", "bob").err == 'agentctl: no user "bob" on this host\n'
    monkeypatch.setenv("SUDO_USER", "root")
    assert run("host-setup").code == ExitCode.USAGE


@pytest.mark.parametrize("argv", [["--apply", "--undo"], ["--restart"], ["--restart", "--undo"]])
def test_options_that_do_not_go_together(host: Host, run: Run, argv: list[str]) -> None:
    assert run("host-setup", *argv).code == ExitCode.USAGE
    assert host.calls == []


def test_a_terminal_below_the_manager_is_warned(host: Host, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_setup, "_inside", lambda uid: uid == 1000)
    assert "(ends every service of ai, this terminal too)" in run("host-setup", "--user", "ai").out
