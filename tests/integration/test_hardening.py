"""Hardening by the running daemon: planned, installed, verified as things change, proved, rolled back, adopted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from integration.looks import NO_DEFAULT, becomes, tcp
from integration.probed import Web
from integration.stack import Stack, kill_and_wait, until
from userunits import systemctl

SECURITY, RESOURCES = "90-agentd-security.conf", "90-agentd-resources.conf"


class Hardened:
    """agentd with the service `web` alone, profile generic; nothing is installed yet."""

    def __init__(self, stack: Stack, more: str = "") -> None:
        self.stack = stack
        self.web = Web(stack, unit="Restart=no")
        config = '[services.web]\nunit = "test-web.service"\nurl = "http://127.0.0.1:8101"\n'
        config += 'readiness = { http = {path = "/"}, period = "200ms" }\n'
        self.fragment = stack.write_config("90-test.toml", NO_DEFAULT + config + more)
        stack.start(resident=None)
        systemctl("start", self.web.unit)
        becomes(stack, "web", "ready")

    @property
    def folder(self) -> Path:
        return self.stack.units / f"{self.web.unit}.d"

    def apply(self, *options: str) -> None:
        done = self.stack.ctl("dropins", "apply", "web", *options)
        assert done.code == 0, done.err

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """What agentd holds to be true, without asking it to look."""
        found = self.stack.client.get("/v1/findings")["findings"]
        return {f["aspect"]: f for f in found if f["subject"] == self.web.unit}

    def becomes(self, aspect: str, verdict: str) -> dict[str, Any]:
        until(lambda: self.snapshot().get(aspect, {}).get("verdict") == verdict, what=lambda: str(self.snapshot()))
        return self.snapshot()[aspect]

    def verified(self) -> dict[str, dict[str, Any]]:
        findings = self.stack.ctl("dropins", "verify", "web", "--json").json
        return {f["aspect"]: f for f in findings}


@pytest.fixture
def hardened(bare_stack: Stack) -> Hardened:
    return Hardened(bare_stack)


def test_from_plan_to_proof(hardened: Hardened) -> None:
    stack = hardened.stack
    plan = stack.ctl("dropins", "plan", "web")
    assert plan.code == 0
    assert "+PrivateUsers=yes" in plan.out
    assert not hardened.folder.exists(), "a plan changes nothing"
    assert {f["verdict"] for f in hardened.snapshot().values()} <= {"not-installed", "effective"}

    hardened.apply("--restart")
    assert {p.name for p in hardened.folder.iterdir()} == {SECURITY, RESOURCES}
    verdicts = {aspect: f["verdict"] for aspect, f in hardened.verified().items()}
    effective = ("PrivateUsers", "NoNewPrivileges", "ProtectSystem", "PrivateTmp", "CapabilityBoundingSet")
    assert {aspect: verdicts[aspect] for aspect in effective} == dict.fromkeys(effective, "effective")
    assert verdicts["RestrictNamespaces"] == "effective", "it was tried after the restart"

    proved = {f["aspect"]: f for f in stack.ctl("dropins", "prove", "web", "--json").json}
    assert proved["RestrictNamespaces"]["verdict"] == "effective"
    assert proved["escape"]["verdict"] == "effective"
    hardened.becomes("RestrictNamespaces", "effective")
    assert 'agentd_directive_effective{directive="ProtectSystem",unit="test-web.service"} 1.0' in tcp("/metrics").text

    again = stack.ctl("dropins", "apply", "web", "--json").json
    assert again["outcome"] == "already"


def test_what_was_proved_counts_for_that_run_of_the_unit_alone(hardened: Hardened) -> None:
    hardened.apply()
    systemctl("restart", hardened.web.unit)
    hardened.becomes("RestrictNamespaces", "not-provable")
    assert hardened.stack.ctl("dropins", "prove", "web").code in (0, 1)
    hardened.becomes("RestrictNamespaces", "effective")
    systemctl("restart", hardened.web.unit)
    hardened.becomes("RestrictNamespaces", "not-provable")


def test_a_changed_file_is_noticed_without_being_asked(hardened: Hardened) -> None:
    hardened.apply("--restart")
    hardened.becomes("ProtectSystem", "effective")
    after = hardened.stack.last_event()
    (hardened.folder / "99-mine.conf").write_text("[Service]\nProtectSystem=no\n")
    hardened.becomes("ProtectSystem", "not-loaded")
    systemctl("daemon-reload")
    found = hardened.becomes("ProtectSystem", "overridden")
    assert "99-mine.conf" in found["cause"] + found["source"]
    lost = [e for e in hardened.stack.events(after) if e["kind"] == "hardening.lost"]
    assert [e["data"]["directives"] for e in lost] == ["ProtectSystem"]
    (hardened.folder / "99-mine.conf").unlink()
    systemctl("daemon-reload")
    hardened.becomes("ProtectSystem", "effective")


def test_a_process_without_the_sandbox_is_noticed_when_it_starts(hardened: Hardened) -> None:
    hardened.apply()
    hardened.becomes("NoNewPrivileges", "needs-restart")
    systemctl("restart", hardened.web.unit)
    hardened.becomes("NoNewPrivileges", "effective")


def test_rollback_brings_the_earlier_set_back(hardened: Hardened) -> None:
    hardened.apply()
    before = (hardened.folder / SECURITY).read_text()
    hardened.fragment.write_text(hardened.fragment.read_text() + '[services.web.hardening]\nunset = ["KeyringMode"]\n')
    assert hardened.stack.ctl("reload").code == 0
    hardened.apply()
    assert "KeyringMode=" not in (hardened.folder / SECURITY).read_text()
    sets = hardened.stack.ctl("dropins", "show", "--sets", "--json").json
    assert len(sets) == 2
    assert hardened.stack.ctl("dropins", "rollback").code == 0
    assert (hardened.folder / SECURITY).read_text() == before
    assert hardened.stack.ctl("dropins", "rollback", "0").code == 0
    assert not hardened.folder.exists()
    unknown = hardened.stack.ctl("dropins", "rollback", "4711")
    assert unknown.code != 0
    assert "4711" in unknown.err


def test_a_service_that_does_not_start_gets_its_old_state_back(bare_stack: Stack) -> None:
    broken = '[services.web.hardening.set]\nBindReadOnlyPaths = "/no/such/source:/srv"\n'
    it = Hardened(bare_stack, broken)
    done = it.stack.ctl("dropins", "apply", "web", "--restart")
    assert done.code == 5
    assert "226" in done.err
    assert "BindReadOnlyPaths" in done.err
    becomes(it.stack, "web", "ready")
    assert not (it.folder / SECURITY).exists()
    assert systemctl("is-active", it.web.unit) == "active"


def test_an_edited_file_is_kept_and_can_be_adopted(hardened: Hardened) -> None:
    hardened.apply("--restart")
    file = hardened.folder / SECURITY
    file.write_text(file.read_text().replace("KeyringMode=private", "KeyringMode=shared"))
    systemctl("daemon-reload")
    hardened.becomes(str(file), "drift")
    plan = hardened.stack.ctl("dropins", "plan", "web")
    assert "kept" in plan.out
    adopted = hardened.stack.ctl("dropins", "adopt", "web")
    assert adopted.code == 0, adopted.err
    assert "everything is installed" in hardened.stack.ctl("dropins", "plan", "web").out
    assert "KeyringMode=shared" in file.read_text()


def test_readiness_degrades_where_the_policy_says_so(bare_stack: Stack) -> None:
    config = '[services.web.hardening]\nunset = ["MemoryMax", "TasksMax"]\n'
    it = Hardened(bare_stack, config + '[hardening]\nreadiness = "degrade"\n')
    it.apply("--restart")
    it.becomes("NoNewPrivileges", "effective")
    assert tcp("/readyz").status == 200
    (it.folder / "95-mine.conf").write_text('[Service]\nExecStartPre=+/bin/sh -c "setsid sleep 1000 & exit 0"\n')
    systemctl("daemon-reload")
    systemctl("restart", it.web.unit)
    it.becomes("NoNewPrivileges", "not-effective")
    answer = tcp("/readyz")
    assert answer.status == 503
    assert "[-]hardening failed" in answer.text
    assert "NoNewPrivileges" in answer.text


def test_an_installation_that_is_killed_is_all_old_or_all_new(hardened: Hardened) -> None:
    """The daemon dies at some moment of the installation; the files do not end as a mix."""
    for _ in range(3):
        hardened.stack.post("/v1/dropins/apply", unit="web")
        kill_and_wait(hardened.stack.pid("agentd.service"))
        until(lambda: hardened.stack.ctl("status").code == 0)
        until(lambda: hardened.stack.open_changes() == [])
        names = {p.name for p in hardened.folder.iterdir()} if hardened.folder.exists() else set()
        assert names in (set(), {SECURITY, RESOURCES})


def test_verification_works_while_the_daemon_is_down(hardened: Hardened) -> None:
    hardened.apply("--restart")
    hardened.stack.stop_agentd()
    done = hardened.stack.ctl("dropins", "verify", "web", "--json")
    assert {f["aspect"]: f["verdict"] for f in done.json}["ProtectSystem"] == "effective"
    proved = hardened.stack.ctl("dropins", "prove", "web", "--json")
    assert {f["aspect"]: f["verdict"] for f in proved.json}["RestrictNamespaces"] == "effective"


@pytest.mark.parametrize("down", [False, True], ids=["daemon", "no-daemon"])
def test_a_unit_that_does_not_exist_is_named(hardened: Hardened, down: bool) -> None:
    words = ("verify", "prove") if down else ("verify", "prove", "plan", "apply", "adopt", "show")
    if down:
        hardened.stack.stop_agentd()
    for word in words:
        done = hardened.stack.ctl("dropins", word, "no-such.service")
        assert done.code == 2, (word, done)
        assert "no-such.service" in done.err, (word, done)
