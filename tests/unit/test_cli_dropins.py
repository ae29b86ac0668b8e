"""agentctl dropins: what a person reads, what a script gets."""

from __future__ import annotations

from fakes.cli import Run
from fakes.hardening import HELD, UNIT, VOID
from fakes.serving import Served

from agentd.wire import DropinsRequest, PlannedFile, RollbackRequest


def test_verify_shows_what_is_wrong_with_cause_and_fix(server: Served, run: Run) -> None:
    result = run("dropins", "verify", "litellm")
    assert result.code == 1
    lines = result.out.splitlines()
    assert lines[0] == f"{UNIT}  1 not-effective, 1 effective"
    assert lines[1].split() == ["DIRECTIVE", "DECLARED", "LOADED", "EFFECTIVE", "VERDICT"]
    words = ["x", "ProtectSystem", "strict", "strict", "/usr", "is", "writable", "not-effective"]
    assert lines[2].split() == words
    assert lines[3].split(maxsplit=1) == ["why", VOID.cause]
    assert lines[4].split(maxsplit=1) == ["fix", VOID.fix]
    assert lines[5].split(maxsplit=1) == ["see", VOID.source]
    assert lines[6].split() == ["effective:", "NoNewPrivileges"]


def test_verify_all_shows_every_directive(server: Served, run: Run) -> None:
    result = run("dropins", "verify", "--all")
    assert "effective: " not in result.out
    assert "NoNewPrivs 1" in result.out


def test_verify_as_json_and_a_good_unit(server: Served, run: Run) -> None:
    assert [f["aspect"] for f in run("dropins", "verify", "--json").json] == [VOID.aspect, HELD.aspect]
    proven = run("dropins", "prove", "litellm")
    assert proven.code == 0
    assert proven.out.splitlines()[0] == f"{UNIT}  1 effective"


def test_prove_wants_a_unit(server: Served, run: Run) -> None:
    assert run("dropins", "prove").code == 2


def test_plan_is_a_diff(server: Served, run: Run) -> None:
    assert "everything is installed as declared" in run("dropins", "plan").out
    diff = "-ProtectHome=no\n+ProtectHome=read-only"
    planned = (PlannedFile(UNIT, f"{UNIT}.d/90-agentd-security.conf", "changed", diff),)
    server.call(lambda ops: setattr(ops.hardening, "planned", planned))
    result = run("dropins", "plan", "litellm", "--force")
    assert result.code == 0
    assert f"{UNIT}  changed  {UNIT}.d/90-agentd-security.conf\n    -ProtectHome=no\n" in result.out
    assert "! security.conf sets ProtectHome= too and sorts later" in result.out
    assert "1 file would change; install with: agentctl dropins apply" in result.out
    assert server.call(lambda ops: ops.hardening.asked[-1]) == ("litellm", True)


def test_apply_and_rollback_are_followed_to_their_end(server: Served, run: Run) -> None:
    result = run("dropins", "apply", "litellm", "--restart")
    assert (result.code, result.out) == (0, "installing drop-ins (change d1)\n2 files installed (0.00 s)\n")
    assert server.call(lambda ops: ops.hardening.asked[-1]) == DropinsRequest("litellm", restart=True)
    assert "\nset 7 is back" in run("dropins", "rollback", "7").out
    assert server.call(lambda ops: ops.hardening.asked[-1]) == RollbackRequest("7")
    assert "\nset previous is back" in run("dropins", "rollback").out
    missing = run("dropins", "rollback", "99")
    assert missing.code != 0
    assert "agentctl dropins show --sets" in missing.err


def test_show(server: Served, run: Run) -> None:
    result = run("dropins", "show", "litellm")
    assert result.out.startswith(f"# /units/{UNIT}.d/90-agentd-security.conf\n# why\n[Service]\nNoNewPrivileges=yes\n")
    assert run("dropins", "show", "--sets").out.splitlines()[1].split()[0] == "2"


def test_adopt(server: Served, run: Run) -> None:
    assert "has no drop-in that was edited" in run("dropins", "adopt", "litellm").out
    server.call(lambda ops: setattr(ops.hardening, "adopted", ["security.conf is now part of the configuration"]))
    assert run("dropins", "adopt", "litellm").out == "security.conf is now part of the configuration\n"
