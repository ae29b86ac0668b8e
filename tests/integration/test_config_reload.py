"""A changed configuration under a running agentd: applied, or refused and told everywhere; and the offline checks."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from integration.looks import AGENTD, NO_DEFAULT, complaints, supervised, tcp
from integration.stack import Done, Stack, until
from userunits import systemctl

EXTRA_UNIT = "[Service]\nExecStart=/bin/sleep 1000\n"
EXTRA = '[services.extra]\nunit = "test-extra.service"\n'
BAD = '[daemon]\nresync = "soon"\n'


@pytest.fixture
def quiet(bare_stack: Stack) -> Stack:
    """agentd runs, the slot is empty, and there is one more unit to supervise."""
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    (bare_stack.units / "test-extra.service").write_text(EXTRA_UNIT)
    systemctl("daemon-reload")
    bare_stack.start(resident=None)
    return bare_stack


def hangup(stack: Stack) -> None:
    os.kill(stack.pid(AGENTD), signal.SIGHUP)


def test_a_new_service_is_supervised_and_a_removed_one_forgotten(quiet: Stack) -> None:
    path = quiet.write_config("90-extra.toml", EXTRA)
    done = quiet.ctl("reload")
    assert done.code == 0, done.err
    assert str(path) in done.out
    assert supervised(quiet, "extra"), "the answer comes when the configuration is in force"
    systemctl("start", "test-extra.service")
    until(lambda: quiet.client.get("/v1/services/extra")["health"] == "ready")
    path.unlink()
    with quiet.follow() as events:
        hangup(quiet)
        events.kind("config.applied")
        until(lambda: not supervised(quiet, "extra"))
        systemctl("stop", "test-extra.service")
        assert quiet.ctl("reload").code == 0
        events.kind("config.applied")
        assert not [e for e in events.seen if e["subject"] == "extra"], "its units are nothing to us any more"
    assert not re.search(r'service="extra"', tcp("/metrics").text)


def test_a_changed_port_moves_and_a_taken_one_is_refused(quiet: Stack) -> None:
    quiet.write_config("81-test.toml", '[daemon]\nlisten = "127.0.0.1:9776"\n')
    assert quiet.ctl("reload").code == 0
    assert tcp("/livez", port=9776).status == 200
    # systemd's own socket stays open, whatever we want; that is told.
    assert "agentd.socket" in complaints(quiet)
    quiet.write_config("81-test.toml", '[daemon]\nlisten = "127.0.0.1:9777"\n')
    with socket.create_server(("127.0.0.1", 9777)):
        done = quiet.ctl("reload")
        assert done.code == 1
        assert "cannot listen on 127.0.0.1:9777: address already in use" in done.err
        assert tcp("/livez", port=9776).status == 200, "the old door stays open"
        assert not quiet.client.get("/v1/status")["config"]["valid"]
    assert quiet.ctl("reload").code == 0
    assert tcp("/livez", port=9777).status == 200
    with pytest.raises(ConnectionRefusedError):
        tcp("/livez", port=9776)
    quiet.write_config("81-test.toml", "")
    assert quiet.ctl("reload").code == 0
    assert tcp("/livez").status == 200


def test_without_socket_activation_the_port_moves_too(bare_stack: Stack) -> None:
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    (bare_stack.units / "agentd.socket").unlink()
    systemctl("daemon-reload")
    bare_stack.start(resident=None)
    assert tcp("/livez").status == 200
    bare_stack.write_config("81-test.toml", '[daemon]\nlisten = "127.0.0.1:9776"\n')
    assert bare_stack.ctl("reload").code == 0
    assert tcp("/livez", port=9776).status == 200
    with pytest.raises(ConnectionRefusedError):
        tcp("/livez")
    bare_stack.write_config("81-test.toml", '[daemon]\nlisten = ""\n')
    assert bare_stack.ctl("reload").code == 0
    with pytest.raises(ConnectionRefusedError):
        tcp("/livez", port=9776)
    assert complaints(bare_stack) == ""


def test_the_log_level_changes(quiet: Stack) -> None:
    quiet.write_config("81-test.toml", '[daemon]\nlog_level = "error"\n')
    assert quiet.ctl("reload").code == 0
    quiet.write_config("90-extra.toml", EXTRA)
    assert quiet.ctl("reload").code == 0
    until(lambda: supervised(quiet, "extra"))
    quiet.write_config("81-test.toml", '[daemon]\nlog_level = "info"\n')
    assert quiet.ctl("reload").code == 0
    with quiet.follow(after=0) as events:
        for _ in range(3):
            events.kind("config.applied")
    quiet.write_config("81-test.toml", "")
    assert quiet.ctl("reload").code == 0
    # The first was said before the level rose, the next two came while it was up.
    until(lambda: quiet.journal(AGENTD).count("config.applied") == 2)


def test_what_only_a_restart_can_change_is_said(quiet: Stack) -> None:
    quiet.write_config("81-test.toml", '[daemon]\nbus_timeout = "9s"\n')
    with quiet.follow() as events:
        assert quiet.ctl("reload").code == 0
        assert "daemon.bus_timeout will count from the next start" in events.kind("config.applied")["message"]
    quiet.write_config("81-test.toml", '[daemon]\nscope = "system"\n')
    done = quiet.ctl("reload")
    assert done.code == 1
    assert "daemon.scope" in done.err


def told_as_invalid(stack: Stack, path: Path) -> None:
    """Status, readiness, metrics, log and STATUS= say that the configuration on disk is not in force."""
    where = f"{path}:2: daemon.resync"
    config = stack.client.get("/v1/status")["config"]
    assert not config["valid"]
    assert [p for p in config["problems"] if p.startswith(where)], config["problems"]
    assert "not valid" in (text := stack.ctl("status").out) or where in text
    ready = tcp("/readyz")
    assert ready.status == 503
    assert "[-]config failed" in ready.text
    assert re.search(r"^agentd_config_valid 0(\.0)?$", tcp("/metrics").text, re.MULTILINE)
    assert where in complaints(stack, "err")
    assert "invalid" in stack.show(AGENTD, "StatusText")


def told_as_valid(stack: Stack) -> None:
    assert stack.client.get("/v1/status")["config"]["valid"]
    assert tcp("/readyz").status == 200
    assert re.search(r"^agentd_config_valid 1(\.0)?$", tcp("/metrics").text, re.MULTILINE)
    until(lambda: "invalid" not in stack.show(AGENTD, "StatusText"))


@pytest.mark.parametrize("way", ["agentctl", "systemctl", "SIGHUP"])
def test_an_invalid_file_keeps_the_running_configuration(quiet: Stack, way: str) -> None:
    extra = quiet.write_config("90-extra.toml", EXTRA)
    assert quiet.ctl("reload").code == 0
    extra.unlink()
    path = quiet.write_config("99-bad.toml", BAD)
    with quiet.follow() as events:
        if way == "agentctl":
            done = quiet.ctl("reload")
            assert done.code == 1
            assert f"{path}:2: daemon.resync" in done.err
            assert "Traceback" not in done.err
        elif way == "systemctl":
            with pytest.raises(AssertionError, match=r"reload agentd.service"):
                systemctl("reload", AGENTD)
        else:
            hangup(quiet)
        assert f"{path}:2" in events.kind("config.invalid")["message"]
        told_as_invalid(quiet, path)
        assert supervised(quiet, "extra"), "the configuration from before goes on"
        assert quiet.show(AGENTD, "ActiveState") == "active"
        path.write_text('[daemon]\nresync = "50s"\n')
        if way == "systemctl":
            systemctl("reload", AGENTD)
        elif way == "agentctl":
            assert quiet.ctl("reload").code == 0
        else:
            hangup(quiet)
        events.kind("config.applied")
        told_as_valid(quiet)
        until(lambda: not supervised(quiet, "extra"))


def test_reloads_at_once_do_not_mix(quiet: Stack) -> None:
    """Each is applied as a whole; the last file wins."""
    quiet.write_config("90-extra.toml", EXTRA)
    started = []
    for _ in range(5):
        argv = [str(quiet.home / ".local/bin/agentctl"), "reload"]
        started.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        hangup(quiet)
    for process in started:
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
    until(lambda: supervised(quiet, "extra"))
    told_as_valid(quiet)
    assert complaints(quiet) == ""


def agentd(stack: Stack, *arguments: str) -> Done:
    argv = [str(stack.home / ".local/bin/agentd"), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_offline_checks_of_a_good_configuration(bare_stack: Stack) -> None:
    done = agentd(bare_stack, "--check")
    assert (done.code, done.err) == (0, "")
    assert "5 services, 1 slot" in done.out
    assert "70-test.toml" in done.out
    done = bare_stack.ctl("config", "check")
    assert (done.code, done.err) == (0, "")
    assert bare_stack.ctl("config", "check", "--json").json == {"valid": True, "problems": []}
    shown = bare_stack.ctl("config", "show", "--provenance")
    assert shown.code == 0
    line = next(text for text in shown.out.splitlines() if "vram_stable" in text)
    assert "70-test.toml" in line, "where a value comes from"
    line = next(text for text in shown.out.splitlines() if "gate" in text)
    assert "agentd.toml" in line


def test_offline_checks_of_a_bad_configuration(bare_stack: Stack) -> None:
    path = bare_stack.write_config("99-bad.toml", BAD + 'listne = "127.0.0.1:1"\n')
    for done in (agentd(bare_stack, "--check"), bare_stack.ctl("config", "check")):
        assert done.code == 1
        assert f"{path}:2: daemon.resync: " in done.err
        assert f"{path}:3: daemon.listne: " in done.err
        assert "listen" in done.err.split("listne", 1)[1], "a suggestion"
        assert "Traceback" not in done.err
    found = bare_stack.ctl("config", "check", "--json")
    assert found.code == 1
    assert not found.json["valid"]
    assert len(found.json["problems"]) == 2
    shown = bare_stack.ctl("config", "show")
    assert shown.code == 1
    assert f"{path}:2" in shown.err
