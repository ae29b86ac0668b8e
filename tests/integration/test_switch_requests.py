"""Requests that meet: joined, refused, cancelled; and requests to the model that are in flight when a switch comes."""

from __future__ import annotations

import json
import threading
import time
import urllib.request

import pytest
from integration.stack import LONG, PORTS, Done, Stack, finished, until
from integration.watcher import Watcher
from userunits import systemctl

QWEN, DOLPHIN = "vllm-qwen.service", "vllm-dolphin.service"
OK, DRAIN_REFUSED, ROLLED_BACK, BUSY, CANCELLED = 0, 4, 5, 8, 9


class Generation(threading.Thread):
    """A streaming completion in flight. `words` is what came; `whole` says that it came to its proper end."""

    def __init__(self, stack: Stack, tokens: int) -> None:
        super().__init__(daemon=True)
        self.words: list[str] = []
        self.whole = False
        self.first = threading.Event()
        self._tokens = tokens
        body = {"model": "qwen", "prompt": "Tell me", "max_tokens": tokens, "stream": True}
        url = f"http://127.0.0.1:{PORTS['qwen']}/v1/completions"
        self._request = urllib.request.Request(url, json.dumps(body).encode(), stack.headers())
        self.start()
        assert self.first.wait(LONG), "the generation does not begin"

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=LONG) as answer:
                for line in answer:
                    self._take(line.decode().removeprefix("data:").strip())
        except (OSError, ValueError):  # cut off
            return

    def _take(self, data: str) -> None:
        if data == "[DONE]":
            self.whole = len(self.words) == self._tokens
        elif data:
            text = json.loads(data)["choices"][0]["text"]
            self.words += [text] if text else []
            self.first.set()

    def ended(self) -> Generation:
        self.join(LONG)
        assert not self.is_alive()
        return self


def slow(stack: Stack, *, seconds: float = 0.02, gated: bool = False) -> None:
    """qwen takes its time for every token; `gated`: with the endpoints that let agentd hold requests back."""
    stack.behaviour("qwen", token_seconds=seconds)
    if gated:
        text = (stack.units / QWEN).read_text()
        start = text[text.index("ExecStart=") : text.index("\n\n", text.index("ExecStart="))]
        more = f"[Service]\nEnvironment=VLLM_SERVER_DEV_MODE=1\nExecStart=\n{start} --enable-sleep-mode\n"
        stack.dropin(QWEN, "50-dev.conf", more)
        systemctl("daemon-reload")
    systemctl("restart", QWEN)
    stack.settled("qwen")


def test_the_same_request_is_joined_and_another_is_refused_with_the_running_id(stack: Stack) -> None:
    stack.behaviour("dolphin", load_seconds=2.0)
    with Watcher(stack) as seen, stack.ctl_aside("switch-model", "dolphin", "--json") as first:
        until(lambda: stack.slot()["change"] is not None)
        running = stack.slot()["change"]
        with stack.ctl_aside("switch-model", "dolphin", "--json") as second:
            other = stack.ctl("switch-model", "qwen")
            assert other.code == BUSY, other
            assert running in other.err
            assert "switch to dolphin" in other.err
            unload = stack.ctl("unload")
            assert (unload.code, running in unload.err) == (BUSY, True)
            both = finished(first), finished(second)
    assert [(done.code, done.json["id"]) for done in both] == [(OK, running)] * 2
    assert stack.serving() == ["dolphin"]
    assert seen.starts == {"qwen": 1, "dolphin": 1}
    seen.check()


def test_ten_at_once_are_one_switch(stack: Stack) -> None:
    answers: list[Done] = []
    threads = [
        threading.Thread(target=lambda: answers.append(stack.ctl("switch-model", "dolphin", "--json")))
        for _ in range(10)
    ]
    with Watcher(stack) as seen:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert [done.code for done in answers] == [OK] * 10
    assert len({done.json["id"] for done in answers if done.json["outcome"] == "done"}) == 1
    assert seen.starts == {"qwen": 1, "dolphin": 1}
    seen.check()


@pytest.mark.parametrize("gated", [False, True], ids=["metrics only", "with the pause endpoint"])
def test_cancel_while_draining_leaves_the_old_model_and_its_request_alone(stack: Stack, gated: bool) -> None:
    slow(stack, gated=gated)
    before = stack.show(QWEN, "InvocationID")
    generation = Generation(stack, 150)
    with Watcher(stack) as seen, stack.ctl_aside("switch-model", "dolphin", "--drain", "1min") as process:
        until(lambda: stack.slot()["state"] == "drain")
        cancel = stack.ctl("switch", "cancel")
        done = finished(process)
    assert (done.code, cancel.code) == (CANCELLED, OK), (done, cancel)
    assert "nothing was stopped" in done.err
    assert stack.show(QWEN, "InvocationID") == before
    assert generation.ended().whole, f"cut off after {len(generation.words)} words"
    assert stack.answers("qwen")
    assert seen.starts == {"qwen": 1, "dolphin": 0}


@pytest.mark.parametrize("gated", [False, True], ids=["metrics only", "with the pause endpoint"])
def test_a_switch_waits_for_the_request_in_flight(stack: Stack, gated: bool) -> None:
    slow(stack, gated=gated)
    generation = Generation(stack, 80)
    code, change = stack.switch("dolphin", "--drain", "1min")
    assert code == OK, change
    assert generation.ended().whole, f"cut off after {len(generation.words)} words"
    assert stack.serving() == ["dolphin"]


def test_without_a_drain_the_request_is_cut_off(stack: Stack) -> None:
    """As far as it is up to agentd: vLLM itself would wait for --shutdown-timeout."""
    slow(stack, seconds=0.05)
    stack.dropin(QWEN, "60-stop.conf", "[Service]\nTimeoutStopSec=500ms\n")
    systemctl("daemon-reload")
    generation = Generation(stack, 2000)
    begun = time.monotonic()
    code, change = stack.switch("dolphin", "--drain", "0")
    assert code == OK, change
    assert not generation.ended().whole
    assert time.monotonic() - begun < 50, "it waited for the request"
    assert stack.serving() == ["dolphin"]


def test_busy_and_told_to_refuse_keeps_the_old_model(stack: Stack) -> None:
    slow(stack)
    before = stack.show(QWEN, "InvocationID")
    generation = Generation(stack, 150)
    done = stack.ctl("switch-model", "dolphin", "--drain", "500ms", "--on-busy", "refuse")
    assert done.code == DRAIN_REFUSED, done
    assert "1 requests still in flight on qwen after 0.5 s" in done.err
    assert "qwen keeps serving" in done.err
    assert generation.ended().whole
    assert stack.show(QWEN, "InvocationID") == before
    assert stack.serving() == ["qwen"]


def test_agentd_killed_while_draining_does_not_leave_the_old_model_shut(stack: Stack) -> None:
    """The gate that it had closed is opened again by the agentd that comes after."""
    slow(stack, gated=True)
    before = stack.show(QWEN, "InvocationID")
    generation = Generation(stack, 150)
    with stack.ctl_aside("switch-model", "dolphin", "--drain", "1min", "--json") as process:
        until(lambda: stack.slot()["state"] == "drain")
        until(lambda: not stack.answers("qwen"), what=lambda: "the gate does not close")
        stack.kill_agentd()
        done = finished(process)
    assert done.code == CANCELLED, done
    assert generation.ended().whole
    until(lambda: stack.answers("qwen"), what=lambda: "the gate stays closed")
    assert stack.show(QWEN, "InvocationID") == before


def test_cancel_while_loading_goes_back(stack: Stack) -> None:
    stack.behaviour("dolphin", load_seconds=600.0)
    with Watcher(stack) as seen, stack.ctl_aside("switch-model", "dolphin") as process:
        until(lambda: stack.slot()["state"] == "wait-ready")
        assert stack.ctl("switch", "cancel").code == ROLLED_BACK
        done = finished(process)
        assert done.code == ROLLED_BACK, done
        assert "cancelled on request" in done.err
    seen.check()
    assert stack.serving() == ["qwen"]
    assert list(stack.models_up()) == ["qwen"]
    # Not the model's fault: it is not made to cool down.
    stack.behaviour("dolphin")
    assert stack.switch("dolphin")[0] == OK


def test_a_change_that_is_over_cannot_be_cancelled(stack: Stack) -> None:
    _, change = stack.switch("dolphin")
    late = stack.ctl("switch", "cancel", change["id"])
    assert late.code != OK
    assert "it has ended (done)" in late.err


def test_switching_to_what_serves_is_done_at_once(stack: Stack) -> None:
    before = stack.show(QWEN, "InvocationID")
    done = stack.ctl("switch-model", "qwen")
    assert (done.code, "already serving" in done.out) == (OK, True)
    assert stack.show(QWEN, "InvocationID") == before


def test_the_command_that_waits_may_go_and_the_change_goes_on(stack: Stack) -> None:
    stack.behaviour("dolphin", load_seconds=1.0)
    begun = stack.ctl("switch-model", "dolphin", "--no-wait", "--json").json["change"]
    early = stack.ctl("switch-model", "dolphin", "--timeout", "100ms")
    assert early.code == 1
    assert "goes on without us" in early.err
    assert stack.ctl("switch", "status", begun["id"], "--follow").code == OK
    assert stack.serving() == ["dolphin"]
