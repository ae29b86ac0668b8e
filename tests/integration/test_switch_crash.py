"""agentd is killed with SIGKILL before and after every write of its journal, in a good switch and in one that fails.

`agentctl switch-model` keeps waiting meanwhile: its next question makes systemd start agentd again by its socket.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from integration.stack import Stack, unit_of, until
from integration.watcher import Watcher
from userunits import systemctl

FAULTY = Path(__file__).with_name("faulty_agentd.py")
EXITS = {"done": 0, "recovered": 0, "rolled-back": 5, "cancelled": 9}
WRITES = {"good": 9, "bad": 12}
"""Writes of a switch: one per phase entered, and the end."""
CASES = [
    pytest.param(kind, side, number, id=f"{kind}-{side}-{number}")
    for kind, count in WRITES.items()
    for side in ("before", "after")
    for number in range(1, count + 2)
]


@pytest.fixture(scope="module")
def faulty(shared_stack: Stack) -> Stack:
    """agentd runs from the test's entry point and is not started again by systemd itself."""
    stack = shared_stack
    stack.dropin(
        "agentd.service", "96-faulty.conf", f"[Service]\nRestart=no\nExecStart=\nExecStart={sys.executable} {FAULTY}\n"
    )
    systemctl("daemon-reload")
    stack.start()
    return stack


def fault_file(stack: Stack) -> Path:
    return stack.home / ".agentd-fault"


def fired(stack: Stack) -> str:
    path = stack.home / ".agentd-fault-fired"
    return path.read_text().strip() if path.exists() else ""


def prepare(stack: Stack, plan: str) -> int:
    """qwen serves, dolphin's failures are forgotten, and an agentd that will kill itself runs; its pid."""
    (stack.home / ".agentd-fault-fired").unlink(missing_ok=True)
    stack.behaviour("dolphin")
    stack.behaviour("qwen")
    if stack.slot()["resident"] != "qwen":
        assert stack.switch("qwen", "--force")[0] == 0
    fault_file(stack).write_text(plan)
    stack.restart_agentd()
    assert not fault_file(stack).exists()
    stack.settled("qwen")
    return stack.pid("agentd.service")


def switch_through_the_kill(stack: Stack, agentd: int) -> dict[str, Any] | None:
    """The change as it ended, which is how agentctl ended; None when it was cut off before it was journaled at all.

    agentctl may lose its connection before it knows the change's id; then agentd is started as a person would.
    """
    known = {c["id"] for c in stack.client.get("/v1/changes?limit=100")["changes"]}
    done = stack.ctl("switch-model", "dolphin", "--json")
    if done.code == 1:
        assert "connection to agentd was lost" in done.err, done
        # A start that comes before systemd has seen the death finds the unit active, and does nothing.
        until(lambda: stack.pid("agentd.service") != agentd)
        stack.start_agentd()
    if fired(stack):
        until(lambda: stack.pid("agentd.service") not in (0, agentd))
    until(lambda: stack.slot()["change"] is None)
    fresh = [c for c in stack.client.get("/v1/changes?limit=100")["changes"] if c["id"] not in known]
    change = next((c for c in fresh if c["target"] == "dolphin"), None)
    assert done.code == 1 or (change is not None and done.code == change["exit_code"]), (done, change)
    return change


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kind", "side", "number"), CASES)
def test_after_a_kill_exactly_one_model_serves(faulty: Stack, kind: str, side: str, number: int) -> None:
    stack = faulty
    agentd = prepare(stack, f"dolphin {side} {number}")
    if kind == "bad":
        stack.behaviour("dolphin", fail="canary-500")
    before = stack.show(unit_of("qwen"), "InvocationID")
    with Watcher(stack) as seen:
        change = switch_through_the_kill(stack, agentd)
        slot = stack.slot()
        at = fired(stack)
        (resident,) = stack.models_up()
        assert slot["resident"] == resident
        assert slot["state"] == "active"
        stack.settled(resident)
    seen.check()
    assert stack.open_changes() == []
    assert set(stack.claims()) <= stack.models_up()[resident]
    if number > WRITES[kind]:
        assert not at, f"the switch writes more often than this test thinks: it was killed in {at}"
    else:
        assert at, "the switch writes less often than this test thinks"
    if change is None:
        assert (side, number, resident) == ("before", 1, "qwen")
        return
    assert change["exit_code"] == EXITS[change["outcome"]]
    assert (change["exit_code"] == 0) == (resident == "dolphin"), "success is told only where the target serves"
    if kind == "bad":
        assert resident == "qwen"
    if at.startswith(("precheck", "drain")):
        # The write of the drain is not waited for: that of the release may be on the disk by the time of the kill.
        allowed = {"cancelled"} if at.startswith("precheck") else {"cancelled", "rolled-back"}
        assert resident == "qwen"
        assert change["outcome"] in allowed, change
        assert stack.show(unit_of("qwen"), "InvocationID") == before, "a healthy model was restarted"
    if kind == "good" and at.startswith(("verify", "active")):
        assert resident == "dolphin"
        assert seen.starts["dolphin"] == 1, "a healthy model was restarted"
    print(f"killed in {at or 'no write'}: {resident}; {change['outcome']}; starts {seen.starts}")
