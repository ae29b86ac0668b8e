"""Every way in which a switch can go wrong, on the real thing: the documented end, exit code, cause, and who serves.

`agentctl switch-model dolphin` is run as a person runs it; what is true afterwards is read from cgroups and over HTTP.
"""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from integration.stack import Done, Stack, until
from integration.watcher import Watcher
from userunits import systemctl

QWEN, DOLPHIN = "vllm-qwen.service", "vllm-dolphin.service"
REFUSED, ROLLED_BACK, DEGRADED, WEDGED = 3, 5, 6, 7
OUTCOMES = {0: "done", REFUSED: "refused", ROLLED_BACK: "rolled-back", DEGRADED: "degraded", WEDGED: "wedged"}


def reloaded(stack: Stack) -> None:
    systemctl("daemon-reload")


def unit_missing(stack: Stack) -> None:
    (stack.units / DOLPHIN).unlink()
    reloaded(stack)


def unit_masked(stack: Stack) -> None:
    (stack.units / DOLPHIN).unlink()
    (stack.units / DOLPHIN).symlink_to("/dev/null")
    reloaded(stack)


def unit_broken(stack: Stack) -> None:
    (stack.units / DOLPHIN).write_text("[Service]\nExecStart=not-absolute/vllm serve\n")
    reloaded(stack)


def model_missing(stack: Stack) -> None:
    shutil.rmtree(stack.home / "models/dolphin")


def key_missing(stack: Stack) -> None:
    own_key(stack, None)


def key_wrong(stack: Stack) -> None:
    own_key(stack, "VLLM_API_KEY=of-another-server\n")


def own_key(stack: Stack, text: str | None) -> None:
    path = stack.config / "dolphin.env"
    if text is not None:
        path.write_text(text)
    stack.write_config("80-key.toml", f'[services.dolphin.model]\napi_key_file = "{path}"\n')
    assert stack.ctl("reload").code == 0


def program_missing(stack: Stack) -> None:
    stack.dropin(DOLPHIN, "50-program.conf", "[Service]\nExecStart=\nExecStart=/no/such/vllm serve\n")
    reloaded(stack)


def program_unusable(stack: Stack) -> None:
    program = stack.home / "vllm-without-a-right"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    stack.dropin(DOLPHIN, "50-program.conf", f"[Service]\nExecStart=\nExecStart={program} serve\n")
    reloaded(stack)


def dependency_fails(stack: Stack) -> None:
    (stack.units / "weights.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/false\n")
    stack.dropin(DOLPHIN, "50-weights.conf", "[Unit]\nRequires=weights.service\nAfter=weights.service\n")
    reloaded(stack)


def never_ready(stack: Stack) -> None:
    stack.behaviour("dolphin", fail="never-ready")
    stack.write_config("80-ready.toml", '[services.dolphin.model]\nready_timeout = "2s"\n')
    assert stack.ctl("reload").code == 0


def acting(**settings: object) -> Callable[[Stack], None]:
    return lambda stack: stack.behaviour("dolphin", **settings)


REFUSALS: dict[str, tuple[Callable[[Stack], None], str]] = {
    "unit missing": (unit_missing, "vllm-dolphin.service does not exist"),
    "unit masked": (unit_masked, "vllm-dolphin.service is masked"),
    "unit file broken": (unit_broken, "vllm-dolphin.service cannot be loaded"),
    "program missing": (program_missing, "the program of vllm-dolphin.service is not there: /no/such/vllm"),
    "model directory missing": (model_missing, "models/dolphin does not exist"),
    "API key missing": (key_missing, "cannot read the API key of dolphin"),
}
FAILURES: dict[str, tuple[Callable[[Stack], None], str]] = {
    "fails at once": (acting(fail="exit-at-once", exit_code=3), "vllm-dolphin.service exited with status 3: "),
    "fails at once with its own words": (
        acting(fail="exit-at-once", message="ValueError: No supported config format found"),
        "ValueError: No supported config format found",
    ),
    "dies while loading": (acting(fail="die-while-loading", load_seconds=0.4), "CUDA out of memory"),
    "program unusable": (program_unusable, "vllm-dolphin.service exited with status 203 (cannot execute the program"),
    "dependency fails": (dependency_fails, "a unit that it requires failed"),
    "never ready": (never_ready, "wait-ready not finished within 2 s"),
    "wrong model name": (acting(fail="wrong-name"), "serves not-dolphin, not dolphin"),
    "canary answers 500": (acting(fail="canary-500"), "a one-token completion answered 500"),
    "API key of another server": (key_wrong, "answered 401 (the API key in api_key_file is not the server's"),
    "GPU memory cannot be had": (acting(vram_bytes=64 * 1024**3), "not enough free GPU memory (15.75G of 16G free"),
}  # fmt: skip


@contextmanager
def switching(stack: Stack, *options: str) -> Iterator[tuple[Done, dict[str, Any]]]:
    """How `agentctl switch-model dolphin` ended, and the change; watched throughout."""
    with Watcher(stack) as seen:
        done = stack.ctl("switch-model", "dolphin", *options)
        change = stack.client.get("/v1/changes?limit=1")["changes"][0]
        assert change["outcome"] == OUTCOMES.get(done.code), (done, change)
        if done.code:
            assert change["message"] in done.err, "a person reads what the API says"
            assert "Traceback" not in done.err
        assert stack.open_changes() == []
        yield done, change
    seen.check()


def qwen_serves_alone(stack: Stack) -> None:
    assert stack.answers("qwen")
    assert list(stack.models_up()) == ["qwen"]
    assert set(stack.claims()) <= stack.models_up()["qwen"]
    assert stack.show(DOLPHIN, "ActiveState") in ("inactive", "failed")
    assert stack.show(DOLPHIN, "Job") in ("", "0")
    assert stack.slot()["resident"] == "qwen"


@pytest.mark.parametrize("fault", REFUSALS)
def test_what_can_be_known_beforehand_is_refused_with_nothing_touched(stack: Stack, fault: str) -> None:
    plant, cause = REFUSALS[fault]
    plant(stack)
    before = stack.show(QWEN, "InvocationID")
    with switching(stack) as (done, _):
        assert done.code == REFUSED, done
        assert cause in done.err
        qwen_serves_alone(stack)
    assert stack.show(QWEN, "InvocationID") == before


def test_a_port_that_a_stranger_took_is_refused_and_named(stack: Stack) -> None:
    before = stack.show(QWEN, "InvocationID")
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", 8002))
        stranger.listen()
        with switching(stack) as (done, _):
            assert done.code == REFUSED
            assert "port 8002 is taken by" in done.err
            qwen_serves_alone(stack)
    assert stack.show(QWEN, "InvocationID") == before
    assert stack.switch("dolphin")[0] == 0


@pytest.mark.parametrize("fault", FAILURES)
def test_a_target_that_does_not_work_is_undone(stack: Stack, fault: str) -> None:
    plant, cause = FAILURES[fault]
    plant(stack)
    with switching(stack) as (done, _):
        assert done.code == ROLLED_BACK, done
        assert cause in done.err
        assert "qwen is serving again" in done.err
        qwen_serves_alone(stack)


def test_a_stop_that_outlives_the_unit_s_own_limit_is_ended_by_systemd(stack: Stack) -> None:
    stack.behaviour("qwen", fail="ignore-sigterm")
    stack.dropin(QWEN, "50-stop.conf", "[Service]\nTimeoutStopSec=1s\n")
    reloaded(stack)
    systemctl("restart", QWEN)
    with switching(stack) as (done, _):
        assert done.code == 0, done
        assert stack.serving() == list(stack.models_up()) == ["dolphin"]


def test_a_stop_that_outlives_agentd_s_limit_is_ended_by_agentd(stack: Stack) -> None:
    stack.behaviour("qwen", fail="ignore-sigterm")
    stack.write_config("80-stop.toml", '[services.qwen.model]\nstop_timeout = "1s"\n')
    assert stack.ctl("reload").code == 0
    systemctl("restart", QWEN)
    with switching(stack) as (done, _):
        assert done.code == 0, done
        assert "vllm-qwen.service did not stop within 1 s and was killed" in done.out
        assert stack.serving() == list(stack.models_up()) == ["dolphin"]


def test_a_failed_target_that_ignores_sigterm_does_not_keep_the_previous_model_away(stack: Stack) -> None:
    stack.behaviour("dolphin", fail="ignore-sigterm", load_seconds=600.0)
    limits = 'ready_timeout = "2s"\nstop_timeout = "1s"\n'
    stack.write_config("80-limits.toml", f"[services.dolphin.model]\n{limits}")
    assert stack.ctl("reload").code == 0
    with switching(stack) as (done, _):
        assert done.code == ROLLED_BACK
        qwen_serves_alone(stack)


def test_a_child_that_outlives_its_parent_is_killed_before_the_target_starts(stack: Stack) -> None:
    """KillMode=process makes systemd leave it in the unit's cgroup, where it holds the GPU's memory."""
    stack.behaviour("qwen", fail="orphan")
    stack.dropin(QWEN, "50-kill.conf", "[Service]\nKillMode=process\n")
    reloaded(stack)
    systemctl("restart", QWEN)
    stack.settled("qwen")
    children = stack.pids(QWEN) - {stack.pid(QWEN)}
    assert children
    with switching(stack) as (done, _):
        assert done.code == 0, done
        assert "1 orphaned process of vllm-qwen.service killed" in done.out
        assert stack.serving() == list(stack.models_up()) == ["dolphin"]
        assert not children & set(stack.claims())


def test_gpu_memory_that_never_comes_back_wedges_the_slot_and_its_holder_is_named(stack: Stack) -> None:
    """A driver that goes on listing a process that has ended: nothing of ours is left to kill."""
    stack.write_config("80-vram.toml", '[slots.gpu0]\nvram_timeout = "1s"\n')
    assert stack.ctl("reload").code == 0
    (holder, size), *_ = stack.claims().items()
    stack.memory.claim(holder, size, held=True)
    with switching(stack) as (done, _):
        assert done.code == WEDGED, done
        assert f"processes of the released model still hold GPU memory: {holder}" in done.err
        assert stack.models_up() == {}
    latched = stack.ctl("switch-model", "dolphin")
    assert latched.code == WEDGED
    assert "--force" in latched.err
    stack.memory.release(holder)
    code, change = stack.switch("dolphin", "--force")
    assert code == 0, change
    assert stack.serving() == list(stack.models_up()) == ["dolphin"]


def test_gpu_memory_that_comes_back_late_is_waited_for_although_no_process_holds_it(stack: Stack) -> None:
    """With no need declared, and steady all the while: only that nobody is listed for it tells that it will come."""
    stack.behaviour("qwen", vram_release_seconds=2.0)
    systemctl("restart", QWEN)
    stack.settled("qwen")
    with switching(stack) as (done, change):
        assert done.code == 0, done
        phases = {p["phase"]: p["seconds"] for p in change["phases"]}
        assert phases["wait-vram"] >= 1.5
        assert stack.serving() == ["dolphin"]
    stack.behaviour("qwen")
    stack.behaviour("dolphin", fail="canary-500", vram_release_seconds=2.0)
    systemctl("restart", DOLPHIN)
    assert stack.switch("qwen")[0] == 0
    with switching(stack) as (done, _):
        assert done.code == ROLLED_BACK, done
        qwen_serves_alone(stack)


def test_a_child_that_left_the_cgroup_is_a_stranger_that_precheck_names(bare_stack: Stack) -> None:
    """It is not ours to kill any more; with the model's need declared, the running model is not touched for nothing."""
    stack = bare_stack
    stack.write_config("80-vram.toml", '[services.dolphin.model]\nvram = "14G"\n')
    stack.behaviour("qwen", fail="escaped-orphan")
    stack.start()
    before = stack.show(QWEN, "InvocationID")
    assert set(stack.claims()) - stack.pids(QWEN)
    with switching(stack) as (done, _):
        assert done.code == REFUSED, done
        assert re.search(r"held by others: VLLM::EngineCor \(pid \d+, 14.4G\)", done.err), done.err
        assert stack.answers("qwen")
    assert stack.show(QWEN, "InvocationID") == before


def test_a_previous_model_whose_unit_is_gone_leaves_the_slot_empty_and_both_causes(stack: Stack) -> None:
    stack.behaviour("dolphin", fail="canary-500")
    text = (stack.units / QWEN).read_text()
    (stack.units / QWEN).unlink()
    reloaded(stack)
    both_causes(stack, "vllm-qwen.service")
    assert stack.slot()["state"] == "degraded"
    (stack.units / QWEN).write_text(text)
    reloaded(stack)
    assert stack.switch("qwen")[0] == 0
    qwen_serves_alone(stack)


def test_a_previous_model_that_fails_leaves_the_slot_empty_until_systemd_s_restart_succeeds(stack: Stack) -> None:
    stack.behaviour("dolphin", fail="canary-500")
    stack.behaviour("qwen", fail="exit-at-once", message="OSError: weights are gone")
    stack.dropin(QWEN, "50-restart.conf", "[Service]\nRestartSec=3s\n")
    reloaded(stack)
    both_causes(stack, "weights are gone")
    stack.behaviour("qwen")
    stack.settled("qwen")
    qwen_serves_alone(stack)


def both_causes(stack: Stack, second: str) -> None:
    with switching(stack) as (done, _):
        assert done.code == DEGRADED, done
        assert "a one-token completion answered 500" in done.err
        assert "qwen does not come back" in done.err
        assert second in done.err
        assert stack.models_up() == {}


def test_without_rollback_the_slot_stays_empty(stack: Stack) -> None:
    stack.behaviour("dolphin", fail="canary-500")
    with switching(stack, "--no-rollback") as (done, _):
        assert done.code == DEGRADED
        assert "slot gpu0 is empty" in done.err
        assert stack.models_up() == {}
    until(lambda: stack.claims() == {})


def test_a_failed_target_is_left_alone_for_a_while_unless_forced(bare_stack: Stack) -> None:
    stack = bare_stack
    stack.write_config("80-cooldown.toml", '[slots.gpu0]\ncooldown = "10min"\n')
    stack.start()
    stack.behaviour("dolphin", fail="exit-at-once")
    assert stack.ctl("switch-model", "dolphin").code == ROLLED_BACK
    stack.behaviour("dolphin")
    refused = stack.ctl("switch-model", "dolphin")
    assert (refused.code, "cooling down" in refused.err) == (REFUSED, True)
    assert stack.ctl("switch-model", "dolphin", "--force").code == 0
    until(lambda: stack.serving() == ["dolphin"])


def test_a_dry_run_says_what_would_stop_it_and_does_nothing(stack: Stack) -> None:
    before = stack.show(QWEN, "InvocationID")
    assert stack.ctl("switch-model", "dolphin", "--dry-run").code == 0
    model_missing(stack)
    planned = stack.ctl("switch-model", "dolphin", "--dry-run", "--json")
    assert planned.code == REFUSED
    assert [c["check"] for c in planned.json["checks"] if not c["ok"]] == ["path"]
    assert stack.show(QWEN, "InvocationID") == before
