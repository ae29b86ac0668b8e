"""What happens beside agentd: a model started by hand, one killed, agentd restarted in the middle of a switch."""

from __future__ import annotations

import pytest
from integration.stack import PORTS, Stack, finished, kill_and_wait, unit_of, until
from integration.watcher import Watcher
from userunits import systemctl

QWEN, DOLPHIN = unit_of("qwen"), unit_of("dolphin")
ROLLED_BACK = 5


def no_change_since(stack: Stack, count: int) -> bool:
    """Nobody asked for anything, so agentd must have begun nothing."""
    return len(stack.client.get("/v1/changes?limit=100")["changes"]) == count


def test_a_bare_start_of_the_other_model_is_adopted_without_a_fight(stack: Stack) -> None:
    changes = len(stack.client.get("/v1/changes?limit=100")["changes"])
    with Watcher(stack) as seen, stack.follow() as events:
        systemctl("start", DOLPHIN)
        adopted = events.kind("model.adopted")
        assert (adopted["subject"], adopted["data"]["before"]) == ("dolphin", "qwen")
        events.until(lambda e: e["kind"] == "service.health" and e["message"] == "dolphin is ready")
        stack.settled("dolphin")
        # A fight would come with a pass of agentd: let some happen, by events of our own making.
        for _ in range(5):
            assert stack.ctl("reload").code == 0
            events.kind("config.applied")
        assert stack.slot()["resident"] == "dolphin"
    seen.check()
    assert seen.starts == {"qwen": 1, "dolphin": 1}
    assert list(stack.models_up()) == ["dolphin"]
    assert no_change_since(stack, changes)
    assert not [e for e in events.seen if e["kind"].startswith("switch.")]


def test_exclusion_holds_while_agentd_is_dead(stack: Stack) -> None:
    stack.stop_agentd()
    with Watcher(stack) as seen:
        for target in ("dolphin", "qwen", "dolphin"):
            systemctl("start", unit_of(target))
            assert list(stack.models_up()) == [target]
            until(lambda target=target: stack.answers(target))
    seen.check()
    before = stack.show(DOLPHIN, "InvocationID")
    stack.start(resident="dolphin")
    assert stack.show(DOLPHIN, "InvocationID") == before


def test_both_started_at_once_leave_one(stack: Stack) -> None:
    """systemd takes the jobs one after the other; the later one wins."""
    with Watcher(stack) as seen:
        systemctl("start", "--no-block", DOLPHIN)
        systemctl("start", "--no-block", QWEN)
        until(lambda: stack.slot()["change"] is None and len(stack.models_up()) == 1 and len(stack.serving()) == 1)
        (resident,) = stack.models_up()
        stack.settled(resident)
    seen.check()


def test_a_start_by_hand_in_the_middle_of_a_switch_is_not_fought(stack: Stack) -> None:
    stack.behaviour("dolphin", load_seconds=600.0)
    before = stack.show(QWEN, "InvocationID")
    with Watcher(stack) as seen, stack.ctl_aside("switch-model", "dolphin") as process:
        until(lambda: stack.slot()["state"] == "wait-ready")
        systemctl("start", QWEN)
        done = finished(process)
    assert done.code == ROLLED_BACK, done
    assert "stopped by somebody else" in done.err, done.err
    seen.check()
    stack.settled("qwen")
    assert seen.starts == {"qwen": 2, "dolphin": 1}, "what was started by hand was started again"
    assert stack.show(QWEN, "InvocationID") != before


def test_a_model_stopped_by_hand_stays_stopped(stack: Stack) -> None:
    changes = len(stack.client.get("/v1/changes?limit=100")["changes"])
    with stack.follow() as events:
        systemctl("stop", QWEN)
        events.kind("model.stopped")
    slot = stack.slot()
    assert (slot["state"], slot["resident"]) == ("idle", None)
    assert stack.models_up() == {}
    assert no_change_since(stack, changes)


def test_a_killed_model_is_noticed_restarted_by_systemd_and_followed(stack: Stack) -> None:
    stack.dropin(QWEN, "50-restart.conf", "[Service]\nRestartSec=200ms\n")
    systemctl("daemon-reload")
    changes = len(stack.client.get("/v1/changes?limit=100")["changes"])
    main = stack.pid(QWEN)
    with Watcher(stack) as seen, stack.follow() as events:
        kill_and_wait(main)
        ended = events.kind("service.process-ended")
        assert ended["message"] == f"main process {main} of qwen has ended"
        events.until(lambda e: e["message"] == "qwen is ready")
        stack.settled("qwen")
    seen.check()
    assert seen.starts["dolphin"] == 0
    assert stack.pid(QWEN) not in (0, main)
    assert stack.show(QWEN, "NRestarts") == "1"
    assert no_change_since(stack, changes)
    assert not [e for e in events.seen if e["kind"] in ("model.adopted", "model.stopped", "model.failed")], events.seen


@pytest.mark.timeout(120)
def test_a_model_that_systemd_gives_up_leaves_a_degraded_slot_that_says_why(stack: Stack) -> None:
    stack.behaviour("qwen", fail="exit-at-once", message="OSError: weights are gone")
    stack.dropin(QWEN, "50-restart.conf", "[Unit]\nStartLimitBurst=2\n[Service]\nRestartSec=100ms\n")
    systemctl("daemon-reload")
    with stack.follow() as events:
        kill_and_wait(stack.pid(QWEN))
        failed = events.kind("model.failed")
    assert "qwen failed" in failed["message"]
    slot = stack.slot()
    assert (slot["state"], slot["resident"]) == ("degraded", None)
    assert "start limit" in slot["cause"] or "weights are gone" in slot["cause"], slot["cause"]
    code, change = stack.switch("dolphin")
    assert code == 0, change
    assert stack.serving() == ["dolphin"]


@pytest.mark.parametrize("phase", ["release", "wait-vram", "wait-ready"])
def test_agentd_restarted_in_the_middle_of_a_switch_ends_it_with_one_model(stack: Stack, phase: str) -> None:
    """SIGTERM, as on an upgrade: agentctl waits on, and hears how the switch ended."""
    delay(stack, phase)
    with Watcher(stack) as seen, stack.ctl_aside("switch-model", "dolphin", "--json") as process:
        until(lambda: stack.slot()["state"] == phase)
        stack.restart_agentd()
        done = finished(process)
        until(lambda: stack.slot()["change"] is None)
        resident = stack.slot()["resident"]
        assert resident in PORTS
        stack.settled(resident)
        assert list(stack.models_up()) == [resident]
    seen.check()
    assert stack.open_changes() == []
    assert (done.code == 0) == (resident == "dolphin"), done
    stack.behaviour("qwen")
    stack.behaviour("dolphin")
    other = "dolphin" if resident == "qwen" else "qwen"
    assert stack.switch(other, "--force")[0] == 0


def delay(stack: Stack, phase: str) -> None:
    """Make the phase last long enough to be hit."""
    if phase == "release":
        stack.behaviour("qwen", fail="slow-stop", stop_seconds=2.0)
    elif phase == "wait-vram":
        stack.behaviour("qwen", vram_release_seconds=2.0)
    else:
        stack.behaviour("dolphin", load_seconds=2.0)
    systemctl("restart", QWEN)
    stack.settled("qwen")


def test_an_idle_restart_of_agentd_touches_nothing(stack: Stack) -> None:
    before = stack.show(QWEN, "InvocationID"), stack.pid(QWEN)
    with Watcher(stack) as seen:
        stack.restart_agentd()
        stack.kill_agentd()
        stack.start_agentd()
        stack.settled("qwen")
    assert (stack.show(QWEN, "InvocationID"), stack.pid(QWEN)) == before
    assert seen.starts == {"qwen": 1, "dolphin": 0}


def test_the_watcher_sees_two_models_where_nothing_keeps_them_apart(bare_stack: Stack) -> None:
    """Without agentd's drop-ins: what the other tests rely on to fail, does."""
    with Watcher(bare_stack) as seen:
        systemctl("start", QWEN)
        systemctl("start", DOLPHIN)
        until(lambda: bool(seen.together))
    with pytest.raises(AssertionError, match="two models at once"):
        seen.check()
