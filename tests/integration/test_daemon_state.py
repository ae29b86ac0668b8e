"""The state directory in trouble: a damaged journal, a full disk, one that cannot be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.looks import AGENTD, NO_DEFAULT, agentd_active, complaints
from integration.stack import Stack, until
from userunits import systemctl

SIZE = 2 * 1024 * 1024


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=30)


@pytest.fixture
def small_state(bare_stack: Stack) -> Iterator[Stack]:
    """The state directory is a small file system of its own."""
    bare_stack.state.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(bare_stack.state))
    try:
        yield bare_stack
    finally:
        bare_stack.stop_agentd()
        subprocess.run(["umount", "-l", bare_stack.state], check=True, timeout=30)


def fill(folder: Path) -> Path:
    """Not one byte is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return path


def test_a_damaged_journal_is_kept_aside_and_told(bare_stack: Stack) -> None:
    bare_stack.start()
    bare_stack.stop_agentd()
    journal = bare_stack.state / "journal.sqlite"
    garbage = b"SQLite format 3\0" + os.urandom(8192)
    journal.write_bytes(garbage)
    for suffix in ("-wal", "-shm"):
        Path(f"{journal}{suffix}").unlink(missing_ok=True)
    bare_stack.start_agentd()
    with bare_stack.follow(after=0) as events:
        told = events.kind("journal.damaged")
    kept = Path(told["data"]["kept"])
    assert kept.parent == bare_stack.state
    assert kept.read_bytes() == garbage, "the damaged file is kept as it was"
    assert str(kept) in told["message"]
    assert "damaged" in complaints(bare_stack, "err")
    # What runs was adopted, and a switch is journaled again.
    assert bare_stack.settled("qwen")["state"] == "active"
    assert bare_stack.switch("dolphin")[0] == 0
    bare_stack.restart_agentd()
    assert bare_stack.client.get("/v1/changes")["changes"][0]["target"] == "dolphin"
    assert bare_stack.open_changes() == []


def test_a_full_disk_refuses_a_switch_and_loses_nothing(small_state: Stack) -> None:
    stack = small_state
    stack.start()
    done = stack.switch("dolphin")[1]
    assert stack.switch("qwen")[0] == 0
    model = stack.pid("vllm-qwen.service")
    filler = fill(stack.state)
    done_full = stack.ctl("switch-model", "dolphin")
    assert done_full.code == 3, done_full
    assert "the disk is full" in done_full.err + done_full.out
    assert "Traceback" not in done_full.err
    # Refused before anything was touched, and agentd goes on.
    assert stack.settled("qwen")["state"] == "active"
    assert stack.pid("vllm-qwen.service") == model
    assert stack.ctl("status").code == 0
    refused = stack.client.get("/v1/changes")["changes"][0]
    assert (refused["outcome"], refused["exit_code"]) == ("refused", 3)
    # A restart on the full disk must not lose the history either; it may only be refused.
    filler.unlink()
    code, change = stack.switch("dolphin")
    assert code == 0, change["message"]
    stack.restart_agentd()
    stack.settled("dolphin")
    kept = {c["id"] for c in stack.client.get("/v1/changes")["changes"]}
    assert {done["id"], change["id"]} <= kept
    kinds = [e["kind"] for e in stack.events()]
    assert "switch.refused" in kinds, "events that could not be saved while the disk was full were saved later"
    assert "Traceback" not in stack.journal(AGENTD, 1000)


def test_a_start_on_a_full_disk_says_so_and_goes_well_once_there_is_room(small_state: Stack) -> None:
    stack = small_state
    stack.start()
    model = stack.pid("vllm-qwen.service")
    stack.stop_agentd()
    filler = fill(stack.state)
    systemctl("start", AGENTD, check=False)
    until(lambda: stack.show(AGENTD, "ExecMainStatus") == "1")
    said = stack.journal(AGENTD)
    assert "cannot open the journal" in said
    assert "the disk is full" in said
    assert f"free some space below {stack.state}" in said
    assert "Traceback" not in said
    filler.unlink()
    # Nobody has to do anything more: systemd tries again every second.
    until(agentd_active)
    assert stack.settled("qwen")["state"] == "active"
    assert stack.pid("vllm-qwen.service") == model


def test_a_read_only_state_directory_is_refused_in_words(small_state: Stack) -> None:
    stack = small_state
    stack.write_config("80-test.toml", NO_DEFAULT)
    mount("-o", "remount,ro", str(stack.state))
    systemctl("start", AGENTD, check=False)
    until(lambda: stack.show(AGENTD, "ExecMainStatus") == "1")
    said = stack.journal(AGENTD)
    assert "cannot open the journal" in said
    assert "read-only file system" in said
    assert "Traceback" not in said
    systemctl("stop", AGENTD, "agentd.socket")
    mount("-o", "remount,rw", str(stack.state))
    systemctl("start", AGENTD)
    assert stack.ctl("status").code == 0
