"""The drop-ins as systemd sees them: installed, loaded, left alone, taken away."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from integration.looks import AGENTD, NO_DEFAULT, becomes, complaints, gating, tcp
from integration.stack import PORTS, Stack, unit_of, until
from userunits import systemctl

UNITS = tuple(unit_of(name) for name in PORTS)


@pytest.fixture
def quiet(bare_stack: Stack) -> Stack:
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    bare_stack.start(resident=None)
    return bare_stack


def path_of(stack: Stack, unit: str, purpose: str) -> Path:
    return stack.units / f"{unit}.d" / f"90-agentd-{purpose}.conf"


def ours(stack: Stack) -> dict[Path, tuple[int, int]]:
    """Every drop-in of agentd's, with what tells a rewritten file from an untouched one."""
    found = stack.units.glob("*.d/90-agentd-*.conf")
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}


def messages(stack: Stack) -> list[str]:
    """Everything in the journal since the installation, the manager's own lines among it."""
    argv = ["journalctl", "--no-pager", "-o", "json", "--output-fields=MESSAGE", f"--since=@{stack.since:.3f}"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
    return [str(json.loads(line)["MESSAGE"]) for line in said.splitlines()]


class Reloads:
    """Counts daemon-reloads by what the manager writes; how many lines one leaves depends on its version."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        before = self._lines()
        systemctl("daemon-reload")
        until(lambda: self._lines() > before)
        until(self._settled)
        self._each = self._lines() - before
        self._start = self._lines()

    def since_then(self) -> int:
        """One more is made, so that its lines prove that all earlier ones have been seen."""
        systemctl("daemon-reload")
        until(lambda: self._lines() > self._start and self._settled())
        return (self._lines() - self._start) // self._each - 1

    def _lines(self) -> int:
        return sum(text.startswith("Reload") for text in messages(self._stack))

    def _settled(self) -> bool:
        subprocess.run(["journalctl", "--sync"], capture_output=True, timeout=30, check=False)
        return True


def findings(stack: Stack) -> list[dict[str, Any]]:
    return gating(stack.client.get("/v1/findings")["findings"])


def test_installed_and_loaded(quiet: Stack) -> None:
    for unit, other in (UNITS, UNITS[::-1]):
        loaded = quiet.show(unit, "DropInPaths").split()
        for purpose in ("exclusive", "readiness"):
            assert str(path_of(quiet, unit, purpose)) in loaded
        assert other in quiet.show(unit, "Conflicts").split()
        assert quiet.show(unit, "NeedDaemonReload") == "no"
        assert "wait-ready" in quiet.show(unit, "ExecStartPost")
    # One direction only: both would be a cycle when the two stop at once.
    after = [other in quiet.show(unit, "After").split() for unit, other in (UNITS, UNITS[::-1])]
    assert sorted(after) == [False, True]
    for unit in ("ollama.service", "litellm.service"):
        assert str(path_of(quiet, unit, "readiness")) in quiet.show(unit, "DropInPaths").split()
        assert not path_of(quiet, unit, "exclusive").exists()
    assert findings(quiet) == []
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *(str(quiet.units / unit) for unit in UNITS)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_start_changes_nothing(quiet: Stack) -> None:
    before, reloads = ours(quiet), Reloads(quiet)
    assert len(before) == 6
    quiet.restart_agentd()
    assert quiet.ctl("reload").code == 0
    assert ours(quiet) == before
    assert reloads.since_then() == 0, "no daemon-reload where nothing changed"


def test_an_edited_file_is_kept_and_shown(quiet: Stack) -> None:
    path = path_of(quiet, UNITS[0], "readiness")
    edited = path.read_text().replace("TimeoutStartSec=", "TimeoutStartSec=1")
    path.write_text(edited)
    systemctl("daemon-reload")
    until(lambda: bool(findings(quiet)))
    (finding,) = findings(quiet)
    assert (finding["subject"], finding["verdict"]) == (UNITS[0], "drift")
    assert path.name in finding["aspect"]
    quiet.restart_agentd()
    assert quiet.ctl("reload").code == 0
    assert path.read_text() == edited
    assert [f["verdict"] for f in findings(quiet)] == ["drift"]
    assert "dropins.finding" in complaints(quiet)
    path.unlink()
    assert quiet.ctl("reload").code == 0
    assert path.exists()
    assert findings(quiet) == []


def test_a_link_in_place_of_a_file_is_kept_and_shown(quiet: Stack) -> None:
    """How a user switches a drop-in off for good."""
    path = path_of(quiet, UNITS[0], "readiness")
    path.unlink()
    path.symlink_to("/dev/null")
    assert quiet.ctl("reload").code == 0
    quiet.restart_agentd()
    assert path.is_symlink()
    assert [f["verdict"] for f in findings(quiet)] == ["drift"]
    assert len(ours(quiet)) == 6, "the others are looked after as before"


def test_foreign_files_are_not_touched(bare_stack: Stack) -> None:
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    theirs = {
        bare_stack.dropin(UNITS[0], "90-agentd-custom.conf", "[Service]\nEnvironment=A=1\n"),
        bare_stack.dropin(UNITS[0], "90-agentd-security.conf", "[Service]\nEnvironment=B=1\n"),
        bare_stack.dropin(UNITS[0], "override.conf", "[Service]\nEnvironment=C=1\n"),
        bare_stack.dropin("other.service", "90-agentd-exclusive.conf", "[Unit]\nDescription=not agentd's\n"),
    }
    before = {path: (path.read_text(), path.stat().st_mtime_ns) for path in theirs}
    systemctl("daemon-reload")
    bare_stack.start(resident=None)
    bare_stack.write_config("81-test.toml", "[slots.gpu0]\nexclusive = false\n")
    assert bare_stack.ctl("reload").code == 0
    assert {path: (path.read_text(), path.stat().st_mtime_ns) for path in theirs} == before


def test_removed_when_not_wanted_any_more(quiet: Stack) -> None:
    quiet.write_config("81-test.toml", "[slots.gpu0]\nexclusive = false\n[services.ollama]\ngate = false\n")
    reloads = Reloads(quiet)
    assert quiet.ctl("reload").code == 0
    assert reloads.since_then() == 1, "one for the whole set"
    assert not list(quiet.units.glob("*.d/*-exclusive.conf"))
    assert not path_of(quiet, "ollama.service", "readiness").exists()
    assert not (quiet.units / "ollama.service.d").exists(), "an empty directory goes too"
    for unit, other in (UNITS, UNITS[::-1]):
        assert other not in quiet.show(unit, "Conflicts").split()
        assert path_of(quiet, unit, "readiness").exists()
    assert findings(quiet) == []
    # Wanted again, and then the whole slot is gone.
    quiet.write_config("81-test.toml", "")
    assert quiet.ctl("reload").code == 0
    assert len(ours(quiet)) == 6
    (quiet.config / "agentd.toml").write_text('[services.qwen]\nunit = "vllm-qwen.service"\n')
    for fragment in (quiet.config / "config.d").iterdir():
        fragment.unlink()
    assert quiet.ctl("reload").code == 0
    assert ours(quiet) == {}


def test_files_that_were_never_loaded_are_loaded_at_the_start(quiet: Stack) -> None:
    """agentd was killed between writing and the daemon-reload."""
    before = ours(quiet)
    quiet.stop_agentd()
    texts = {path: path.read_text() for path in before}
    for path in texts:
        path.unlink()
    systemctl("daemon-reload")
    systemctl("start", UNITS[0])
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert "vllm-dolphin.service" not in quiet.show(UNITS[0], "Conflicts").split()
    quiet.start_agentd()
    assert "vllm-dolphin.service" in quiet.show(UNITS[0], "Conflicts").split()
    assert findings(quiet) == []


def test_a_unit_directory_that_cannot_be_written(bare_stack: Stack) -> None:
    """agentd supervises and switches all the same, and says what it could not install."""
    stack = bare_stack
    subprocess.run(["mount", "--bind", stack.units, stack.units], check=True, timeout=30)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", stack.units], check=True, timeout=30)
        stack.start()
        found = findings(stack)
        missing = [f for f in found if f["verdict"] == "not-installed"]
        assert len(missing) == 6
        assert "read-only file system" in missing[0]["cause"]
        assert "read-only file system" in complaints(stack)
        assert stack.switch("dolphin")[0] == 0
        assert stack.switch("qwen")[0] == 0
        assert stack.ctl("reload").code == 0, "the configuration itself is in force"
    finally:
        stack.stop_agentd()
        subprocess.run(["umount", "-l", stack.units], check=True, timeout=30)
    stack.start()
    assert findings(stack) == []
    assert len(ours(stack)) == 6


def test_no_ordering_cycle_when_everything_stops_at_once(stack: Stack) -> None:
    for unit in ("ollama.service", "agentd-redis.service", "litellm.service"):
        systemctl("start", unit)
    others = ("ollama.service", "agentd-redis.service", "litellm.service")
    # With its socket: a connection to that would start the gateway again, and with it the store. So would a question
    # of agentd that waits there for a gateway that is starting.
    becomes(stack, "litellm", "ready")
    systemctl("stop", *UNITS, *others, "litellm.socket", AGENTD, "agentd.socket")
    systemctl("start", UNITS[0])
    systemctl("start", UNITS[1])
    systemctl("stop", *UNITS)
    assert any("vLLM, model dolphin" in text for text in messages(stack)), "the manager's own lines are in this journal"
    assert not [text for text in messages(stack) if "ordering cycle" in text.lower()]
    assert not [text for text in messages(stack) if "Unknown key" in text or "Unknown section" in text]


def test_the_findings_are_on_the_page_s_door_too(quiet: Stack) -> None:
    assert gating(tcp("/v1/findings").json["findings"]) == []
