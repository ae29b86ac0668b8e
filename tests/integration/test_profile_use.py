"""A profile of use under the real systemd: services and models as it says, back when it fails, whole after a kill."""

from __future__ import annotations

import pytest
from integration.looks import AGENTD
from integration.stack import LONG, Stack, until
from userunits import systemctl

EXTRA = '[services.extra]\nunit = "test-extra.service"\nenabled = false\n'
NO_FILES = "".join(f'[services.{name}.model]\ncheck_files = "none"\n' for name in ("qwen", "dolphin"))
UNIT = "[Service]\nType=exec\nExecStart={command}\n"
TRIAL = """[use]
description = "Nothing on the GPU, something else instead"
roles = { model = false }
services = { extra = true }

[daemon]
log_level = "debug"
"""


@pytest.fixture
def profiled(bare_stack: Stack) -> Stack:
    """qwen serves; the profile `trial` would take it away and start another service."""
    (bare_stack.units / "test-extra.service").write_text(UNIT.format(command="/bin/sleep 1000"))
    bare_stack.write_config("90-extra.toml", EXTRA + NO_FILES)
    (bare_stack.config / "profiles").mkdir()
    (bare_stack.config / "profiles/trial.toml").write_text(TRIAL)
    systemctl("daemon-reload")
    bare_stack.start()
    return bare_stack


def up(unit: str) -> bool:
    return systemctl("is-active", unit, check=False).strip() == "active"


def in_force(stack: Stack) -> str:
    return str(stack.client.get("/v1/status")["config"]["profile"])


def test_there_and_back(profiled: Stack) -> None:
    plan = profiled.ctl("profile", "use", "trial", "--dry-run", "--json").json
    assert (plan["unload"], plan["start"], plan["stop"]) == (["qwen"], ["extra"], [])
    assert in_force(profiled) == ""

    done = profiled.ctl("profile", "use", "trial")
    assert done.code == 0, done.err
    assert "profile trial is in force; unloaded: qwen; started: extra" in done.out
    assert (in_force(profiled), up("test-extra.service"), profiled.models_up()) == ("trial", True, {})
    refused, change = profiled.switch("dolphin")
    assert (refused, "dolphin is switched off by profile trial" in change["message"]) == (3, True)
    off = profiled.ctl("start", "dolphin")
    assert off.code == 3, off.err
    assert "switched off by profile trial" in off.err
    assert "profile trial" in profiled.ctl("status").out
    assert "trial.toml:4" in profiled.ctl("config", "show", "--provenance").out
    profiled.restart_agentd()
    assert (in_force(profiled), profiled.models_up()) == ("trial", {}), "it survives a restart"

    back = profiled.ctl("profile", "use", "--none")
    assert back.code == 0, back.err
    profiled.settled("qwen")
    assert (in_force(profiled), up("test-extra.service")) == ("", False)


def test_a_service_that_does_not_start_brings_everything_back(profiled: Stack) -> None:
    (profiled.units / "test-extra.service").write_text(UNIT.format(command="/nowhere/program"))
    systemctl("daemon-reload")
    done = profiled.ctl("profile", "use", "trial")
    assert done.code == 5, done.out + done.err
    assert "profile none is in force again; with profile trial: cannot start test-extra.service" in done.err
    profiled.settled("qwen")
    assert in_force(profiled) == ""
    assert not (profiled.config / "profile").exists(), "there was none before"


def test_a_profile_that_is_wrong_names_every_line(profiled: Stack) -> None:
    (profiled.config / "profiles/trial.toml").write_text(TRIAL + 'resync = "soon"\nwhat = 1\n')
    done = profiled.ctl("profile", "use", "trial")
    assert done.code == 1
    assert "profiles/trial.toml:8: daemon.resync" in done.err
    assert "profiles/trial.toml:9: daemon.what: unknown key" in done.err
    assert profiled.serving() == ["qwen"]
    assert profiled.ctl("reload").code == 0, "it was not selected"


@pytest.mark.parametrize("phase", ["reload", "models", "start"])
def test_killed_half_way_it_is_finished(profiled: Stack, phase: str) -> None:
    change = profiled.post("/v1/profile/use", name="trial")
    profiled.phase(change, phase)
    profiled.kill_agentd()
    systemctl("start", AGENTD)
    until(lambda: profiled.client.get(f"/v1/changes/{change['id']}")["finished"] is not None, LONG)
    ended = profiled.client.get(f"/v1/changes/{change['id']}")
    assert ended["outcome"] in ("recovered", "done"), ended
    until(lambda: in_force(profiled) == "trial" and up("test-extra.service") and not profiled.models_up(), LONG)
    assert profiled.open_changes() == []


def test_selected_while_agentd_does_not_run(profiled: Stack) -> None:
    profiled.stop_agentd()
    done = profiled.ctl("profile", "use", "trial")
    assert (done.code, done.out) == (0, "profile trial is selected, and in force from the next start of agentd\n")
    assert profiled.serving() == ["qwen"]
    profiled.start_agentd()
    until(lambda: in_force(profiled) == "trial" and up("test-extra.service") and not profiled.models_up(), LONG)
    profiled.ctl("profile", "use", "--none")
    profiled.settled("qwen")


LIMITS = '[services.ollama.hardening]\nmemory_max = "3G"\n[services.redis.hardening]\nmemory_max = "1G"\n'


def test_limits_reach_the_drop_ins_that_are_installed(profiled: Stack) -> None:
    (profiled.config / "profiles/limits.toml").write_text(LIMITS)
    installed = profiled.ctl("dropins", "apply", "ollama")
    assert installed.code == 0, installed.err
    resources = profiled.units / "ollama.service.d/90-agentd-resources.conf"
    before = resources.read_text() if resources.exists() else ""
    assert "MemoryMax=3G" not in before

    done = profiled.ctl("profile", "use", "limits")
    assert done.code == 0, done.err
    assert "MemoryMax=3G" in resources.read_text()
    assert systemctl("show", "-P", "MemoryMax", "ollama.service") == str(3 * 1024**3)
    assert "not installed: drop-ins of agentd-redis.service" in done.out
    assert not list((profiled.units / "agentd-redis.service.d").glob("90-agentd-resources.conf"))

    back = profiled.ctl("profile", "use", "--none")
    assert back.code == 0, back.err
    assert (resources.read_text() if resources.exists() else "") == before
