"""The slot lent out, emptied, and given its default: what is remembered across every kind of end of agentd."""

from __future__ import annotations

import time

import pytest
from integration.stack import LONG, Stack, until
from integration.watcher import Watcher
from userunits import systemctl

OK, REFUSED = 0, 3
QWEN = "vllm-qwen.service"


def empty(stack: Stack) -> None:
    assert stack.models_up() == {}
    until(lambda: stack.claims() == {})


def test_a_lease_frees_the_gpu_refuses_a_switch_and_brings_the_model_back(stack: Stack) -> None:
    with Watcher(stack) as seen:
        lent = stack.ctl("lease", "--for", "8s")
        assert lent.code == OK, lent
        empty(stack)
        assert stack.slot()["state"] == "leased"
        with stack.follow() as events:
            refused = stack.ctl("switch-model", "dolphin")
            assert refused.code == REFUSED
            assert "slot gpu0 is leased for" in refused.err
            assert "agentctl lease end" in refused.err
            empty(stack)
            events.kind("lease.ended")
            events.kind("switch.done")
        stack.settled("qwen")
        assert stack.slot()["lease_until"] is None
    assert seen.starts == {"qwen": 2, "dolphin": 0}


def test_a_lease_is_ended_early(stack: Stack) -> None:
    assert stack.switch("dolphin")[0] == OK
    assert stack.ctl("lease", "--for", "2h").code == OK
    empty(stack)
    assert stack.ctl("lease", "end").code == OK
    assert stack.serving() == ["dolphin"]
    again = stack.ctl("lease", "end")
    assert again.code != OK
    assert "is not leased" in again.err


def test_force_takes_a_lent_slot_back_for_good(stack: Stack) -> None:
    assert stack.ctl("lease", "--for", "2h").code == OK
    code, change = stack.switch("dolphin", "--force")
    assert code == OK, change
    assert stack.slot()["lease_until"] is None
    stack.restart_agentd()
    stack.settled("dolphin")


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_a_lease_goes_on_across_an_end_of_agentd(stack: Stack, end: str) -> None:
    assert stack.ctl("lease", "--for", "2h").code == OK
    before = stack.slot()
    agentd = stack.pid("agentd.service")
    if end == "restart":
        stack.restart_agentd()
    else:
        stack.kill_agentd()
        until(lambda: stack.pid("agentd.service") not in (0, agentd))
    after = stack.slot()
    assert (after["state"], after["lease_until"]) == ("leased", before["lease_until"])
    assert stack.ctl("switch-model", "dolphin").code == REFUSED
    empty(stack)
    assert stack.ctl("lease", "end").code == OK
    stack.settled("qwen")


def test_a_lease_that_ran_out_while_agentd_was_dead_is_ended_at_its_start(stack: Stack) -> None:
    assert stack.ctl("lease", "--for", "1s").code == OK
    empty(stack)
    until_time = stack.slot()["lease_until"]
    stack.stop_agentd()
    wait_for_wall_clock(until_time)
    empty(stack)
    stack.start_agentd()
    stack.settled("qwen")


def wait_for_wall_clock(moment: float | None) -> None:
    until(lambda: moment is None or time.time() > moment)


def test_a_model_started_by_hand_ends_the_lease(stack: Stack) -> None:
    assert stack.ctl("lease", "--for", "2h").code == OK
    with stack.follow() as events:
        systemctl("start", "vllm-dolphin.service")
        adopted = events.kind("model.adopted")
    assert "the lease is over" in adopted["message"]
    slot = stack.settled("dolphin")
    assert (slot["state"], slot["lease_until"]) == ("active", None)


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_an_unload_is_remembered(stack: Stack, end: str) -> None:
    """Emptied on purpose: the default model does not come back by itself."""
    assert stack.ctl("unload").code == OK
    empty(stack)
    agentd = stack.pid("agentd.service")
    with Watcher(stack) as seen:
        if end == "restart":
            stack.restart_agentd()
        else:
            stack.kill_agentd()
            until(lambda: stack.pid("agentd.service") not in (0, agentd))
        with stack.follow(after=0) as events:
            assert events.kind("daemon.started", LONG)
        # A default would have begun before agentd was READY: the first pass is over by then.
        assert stack.slot()["change"] is None
        assert stack.client.get("/v1/changes?limit=1")["changes"][0]["kind"] == "unload"
    assert seen.starts == {"qwen": 0, "dolphin": 0}
    assert stack.ctl("switch-model", "qwen").code == OK
    assert stack.serving() == ["qwen"]


def test_the_default_model_is_started_into_an_empty_slot(bare_stack: Stack) -> None:
    stack = bare_stack
    stack.write_config("80-default.toml", '[slots.gpu0]\ndefault = "dolphin"\n')
    stack.start(resident="dolphin")
    assert list(stack.models_up()) == ["dolphin"]
    change = stack.client.get("/v1/changes?limit=1")["changes"][0]
    assert (change["origin"], change["outcome"]) == ("default", "done")


def test_without_a_default_nothing_is_started(bare_stack: Stack) -> None:
    stack = bare_stack
    stack.write_config("80-default.toml", '[slots.gpu0]\ndefault = ""\n')
    with Watcher(stack) as seen:
        stack.start(resident=None)
        assert stack.slot()["state"] == "idle"
        assert stack.client.get("/v1/changes")["changes"] == []
    assert seen.starts == {"qwen": 0, "dolphin": 0}


def test_a_running_model_is_adopted_at_start_whatever_the_default_says(bare_stack: Stack) -> None:
    stack = bare_stack
    systemctl("start", "vllm-dolphin.service")
    before = stack.show("vllm-dolphin.service", "InvocationID")
    stack.start(resident="dolphin")
    assert stack.show("vllm-dolphin.service", "InvocationID") == before
    assert list(stack.models_up()) == ["dolphin"]
