"""agentctl profile: list, show and use, with a daemon and without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.cli import Run
from fakes.profiles import FakeProfiles
from fakes.serving import Served
from unit.test_use_profiles import BASE, FAST

from agentd.core.use_plan import ProfileRequest
from agentd.errors import ConfigError, ConfigProblem, ConflictError
from agentd.types import Change


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of configuration that replaces the usual ones."""
    directory = tmp_path / "config"
    (directory / "profiles").mkdir(parents=True)
    (directory / "agentd.toml").write_text(BASE)
    (directory / "profiles/fast.toml").write_text(FAST)
    (directory / "profiles/off.toml").write_text("[use.services]\nqwen = false\n")
    monkeypatch.setenv("AGENTD_CONFIG_DIR", str(directory))
    return directory


def test_list(home: Path, run: Run) -> None:
    rows = {row["name"]: row for row in run("profile", "list", "--json").json}
    assert {"fast", "off", "production", "testing"} <= rows.keys()
    assert rows["fast"] == {
        "name": "fast",
        "selected": False,
        "description": "All that the GPU has",
        "file": str(home / "profiles/fast.toml"),
        "problems": [],
    }
    assert rows["off"]["problems"] == [
        f'{home}/agentd.toml:3: slots.gpu0.default: is switched off: services.qwen.enabled is false (got "qwen"); '
        'allowed: "dolphin", or ""'
    ]
    run("profile", "use", "fast")
    listed = run("profile", "list")
    assert listed.code == 0
    assert any(line.split()[:2] == ["*", "fast"] for line in listed.out.splitlines())
    assert any(line.startswith("! ") and "is switched off" in line for line in listed.out.splitlines())


def test_show(home: Path, run: Run) -> None:
    shown = run("profile", "show", "fast")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[:3] == ["fast: All that the GPU has", f"file: {home}/profiles/fast.toml", "does not run: dolphin"]
    assert ["services.qwen.model.utilization", "0.7", "0.95"] in [line.split() for line in lines]
    assert run("profile", "show", "fast", "--json").json["off"] == ["dolphin"]
    wrong = run("profile", "show", "fats")
    assert (wrong.code, wrong.err.splitlines()[0]) == (
        2, 'agentctl: there is no profile "fats", did you mean "fast"?',
    )  # fmt: skip
    assert run("profile", "show", "off").code == 1


def test_use_without_a_daemon_counts_from_the_next_start(home: Path, run: Run) -> None:
    dry = run("profile", "use", "fast", "--dry-run")
    assert (dry.code, (home / "profile").exists()) == (0, False)
    assert "would be in force from the next start" in dry.out
    done = run("profile", "use", "fast")
    assert (done.code, done.out) == (0, "profile fast is selected, and in force from the next start of agentd\n")
    assert "profile of use: fast" in run("config", "check").out
    assert "profiles/fast.toml:3" in run("config", "show", "--provenance").out
    refused = run("profile", "use", "off")
    assert refused.code == 1
    assert "slots.gpu0.default: is switched off" in refused.err
    assert "profile of use: fast" in run("config", "check").out, "what is wrong is not selected"
    assert run("profile", "use", "--none").code == 0
    assert "profile of use" not in run("config", "check").out


def test_a_selection_of_nothing_is_mended_by_none(home: Path, run: Run) -> None:
    (home / "profile").write_text("gone\n")
    checked = run("config", "check")
    assert checked.code == 1
    assert f'{home}/profile: there is no profile of use "gone"' in checked.err
    assert run("profile", "use", "--none").code == 0
    assert run("config", "check").code == 0


@pytest.mark.parametrize("argv", [(), ("fast", "--none")])
def test_a_name_or_none(home: Path, run: Run, argv: tuple[str, ...]) -> None:
    result = run("profile", "use", *argv)
    assert result.code == 2
    assert "give the name of a profile, or --none" in result.err


def test_use_is_a_change_of_the_daemon(server: Served, run: Run) -> None:
    done = run("profile", "use", "testing", "--no-wait")
    assert done.code == 0
    assert "change p1 has begun" in done.out
    run("profile", "use", "--none", "--no-wait")
    assert server.ops.profiles.calls == [("use", ProfileRequest("testing")), ("use", ProfileRequest(""))]


def test_a_dry_run_shows_every_act(server: Served, run: Run) -> None:
    shown = run("profile", "use", "testing", "--dry-run")
    assert shown.code == 0
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["ollama", "is", "stopped"] in lines
    assert ["qwen", "is", "unloaded"] in lines
    assert ["mock", "is", "started"] in lines
    assert ["daemon.log_level", '"info"', '"debug"'] in lines
    assert shown.out.splitlines()[-1] == "nothing is done; do it with: agentctl profile use testing"
    assert run("profile", "use", "testing", "--dry-run", "--json").json["unload"] == ["qwen"]
    assert [verb for verb, _ in server.ops.profiles.calls] == ["plan", "plan"]


def _fail(server: Served, error: ConfigError | ConflictError) -> None:
    server.call(lambda ops: setattr(ops.profiles, "fail", error))


def test_what_the_daemon_refuses(server: Served, run: Run) -> None:
    _fail(server, ConflictError("change p0 is at work on the profile", "p0"))
    busy = run("profile", "use", "testing")
    assert busy.code == 8
    assert "p0" in busy.err
    _fail(server, ConfigError([ConfigProblem("/etc/x.toml", "a.b", "unknown key", line=3)]))
    wrong = run("profile", "use", "testing")
    assert wrong.code == 1
    assert "/etc/x.toml:3: a.b: unknown key" in wrong.err


async def test_the_fake_begins_what_the_daemon_would() -> None:
    change = await FakeProfiles().use(ProfileRequest(""))
    assert isinstance(change, Change)
    assert (change.kind, change.target) == ("profile", "none")
