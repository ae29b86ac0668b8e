"""`agentctl wait-ready` by hand, and as the gate that makes systemd itself wait."""

from __future__ import annotations

import time

import pytest
from integration.looks import NO_DEFAULT, becomes
from integration.probed import Web
from integration.stack import Stack, finished, until
from userunits import systemctl

PROBE = 'readiness = { http = { path = "/health" }, period = "100ms", failure_threshold = 2 }\n'
DEPENDENT = f"""\
[Unit]
Requires={Web.unit}
After={Web.unit}
[Service]
ExecStart=/bin/sleep 1000
"""


@pytest.fixture
def quiet(bare_stack: Stack) -> Stack:
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    return bare_stack


def gated(seconds: int) -> str:
    startup = f'startup = {{ http = {{ path = "/health" }}, period = "1s", failure_threshold = {seconds} }}\n'
    return "gate = true\n" + startup + PROBE


def test_with_agentd(quiet: Stack) -> None:
    web = Web(quiet, mood="503")
    quiet.write_config("90-test.toml", web.config(PROBE))
    quiet.start(resident=None)
    systemctl("start", web.unit)
    with quiet.ctl_aside("wait-ready", "web", "--timeout", "50s") as waiting:
        becomes(quiet, "web", "unready")
        assert waiting.poll() is None
        web.mood = "200"
        done = finished(waiting)
    assert done.code == 0, done.err
    assert done.out.startswith("web is ready (")
    quick = quiet.ctl("wait-ready", "web", "--json")
    assert quick.code == 0
    assert quick.json["ready"]


def test_a_timeout_says_why(quiet: Stack) -> None:
    web = Web(quiet, mood="503")
    quiet.write_config("90-test.toml", web.config(PROBE))
    quiet.start(resident=None)
    systemctl("start", web.unit)
    becomes(quiet, "web", "unready")
    begun = time.monotonic()
    done = quiet.ctl("wait-ready", "web", "--timeout", "1s")
    assert time.monotonic() - begun >= 1
    assert done.code == 1
    assert "web is not ready after 1" in done.err
    assert "answered 503" in done.err


def test_a_failed_service_is_not_waited_for(quiet: Stack) -> None:
    (quiet.units / "test-fail.service").write_text(
        "[Service]\nExecStart=/bin/sh -c 'echo \"OSError: no such device\" >&2; exit 4'\n"
    )
    systemctl("daemon-reload")
    quiet.write_config("90-test.toml", '[services.fail]\nunit = "test-fail.service"\n')
    quiet.start(resident=None)
    systemctl("start", "test-fail.service")
    becomes(quiet, "fail", "failed")
    begun = time.monotonic()
    done = quiet.ctl("wait-ready", "fail", "--timeout", "50s")
    assert time.monotonic() - begun < 25
    assert done.code == 1
    assert "OSError: no such device" in done.err


def test_without_agentd(quiet: Stack) -> None:
    """The service is asked directly, as the configuration on disk says."""
    web = Web(quiet, mood="503")
    quiet.write_config("90-test.toml", web.config(PROBE))
    systemctl("start", web.unit)
    done = quiet.ctl("wait-ready", "web", "--timeout", "1s")
    assert done.code == 1
    assert "503" in done.err or "refused" in done.err
    with quiet.ctl_aside("wait-ready", "web", "--timeout", "50s") as waiting:
        web.mood = "200"
        assert finished(waiting).code == 0
    systemctl("start", "vllm-qwen.service")
    assert quiet.ctl("wait-ready", "qwen", "--timeout", "50s").code == 0
    assert quiet.ctl("wait-ready", "nobody", "--timeout", "1s").code == 2


def test_by_url(quiet: Stack) -> None:
    web = Web(quiet, mood="401")
    systemctl("start", web.unit)
    done = quiet.ctl("wait-ready", "anything", "--url", f"{web.url}/x", "--timeout", "1s")
    assert done.code == 1
    done = quiet.ctl("wait-ready", "anything", "--url", f"{web.url}/x", "--expect", "200,401", "--timeout", "50s")
    assert done.code == 0, done.err


def test_a_gated_start_returns_when_it_answers_and_dependents_wait(quiet: Stack) -> None:
    web = Web(quiet, mood="503")
    (quiet.units / "test-dependent.service").write_text(DEPENDENT)
    quiet.write_config("90-test.toml", web.config(gated(50)))
    quiet.start(resident=None)
    systemctl("start", "--no-block", "test-dependent.service")
    until(lambda: quiet.show(web.unit, "SubState") == "start-post")
    seen = becomes(quiet, "web", "starting")
    assert seen["active_state"] == "activating"
    assert quiet.show("test-dependent.service", "ActiveState") == "inactive"
    web.mood = "200"
    until(lambda: quiet.show("test-dependent.service", "ActiveState") == "active")
    assert quiet.show(web.unit, "ActiveState") == "active"
    becomes(quiet, "web", "ready")
    systemctl("stop", web.unit)
    until(lambda: quiet.show("test-dependent.service", "ActiveState") == "inactive")
    systemctl("start", web.unit)
    assert quiet.show(web.unit, "ActiveState") == "active", "systemctl returns when it answers"


def test_the_gate_holds_without_agentd(quiet: Stack) -> None:
    web = Web(quiet, mood="503")
    quiet.write_config("90-test.toml", web.config(gated(50)))
    quiet.start(resident=None)
    quiet.stop_agentd()
    systemctl("start", "--no-block", web.unit)
    until(lambda: quiet.show(web.unit, "SubState") == "start-post")
    web.mood = "200"
    until(lambda: quiet.show(web.unit, "ActiveState") == "active")


def test_a_gate_that_is_never_passed_fails_the_unit_with_the_reason(quiet: Stack) -> None:
    web = Web(quiet, mood="503")
    (quiet.units / "test-dependent.service").write_text(DEPENDENT)
    quiet.write_config("90-test.toml", web.config(gated(2)))
    quiet.start(resident=None)
    with quiet.follow() as events:
        systemctl("start", "test-dependent.service", check=False)
        assert quiet.show(web.unit, "ActiveState") == "failed"
        assert quiet.show("test-dependent.service", "ActiveState") == "inactive"
        assert "not ready after 2" in quiet.journal(web.unit)
        assert "answers with status 503" in quiet.journal(web.unit)
        seen = becomes(quiet, "web", "failed")
        told = events.kind("service.failed")["message"]
    for text in (seen["cause"], told):
        assert "it answers with status 503" in text, "the gate's reason, not the SIGTERM that followed"


def test_a_main_process_that_dies_ends_the_gate_at_once(quiet: Stack) -> None:
    dies = "[Service]\nExecStart=/bin/sh -c 'sleep 0.3; echo \"RuntimeError: no GPU\" >&2; exit 5'\n"
    (quiet.units / "test-dies.service").write_text(dies)
    systemctl("daemon-reload")
    text = '[services.dies]\nunit = "test-dies.service"\nurl = "http://127.0.0.1:8109"\n'
    quiet.write_config("90-test.toml", text + gated(300))
    quiet.start(resident=None)
    begun = time.monotonic()
    systemctl("start", "test-dies.service", check=False)
    assert time.monotonic() - begun < 30
    assert quiet.show("test-dies.service", "ActiveState") == "failed"
    seen = becomes(quiet, "dies", "failed")
    assert "exited with status 5" in seen["cause"]
    assert "RuntimeError: no GPU" in seen["cause"]
