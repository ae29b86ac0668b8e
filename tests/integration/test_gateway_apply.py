"""A real LiteLLM under agentd: configurations put to use under load, refused, cut off; and slots that switch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from integration import gatewaytrouble as trouble
from integration.gatewaycuts import SAMPLE, Accidents, Cut, every
from integration.gatewayed import GATEWAY, KEY, MODELS, VLLM_KEY, Gateway, ask, load
from integration.stack import Stack, until
from userunits import systemctl

from agentd.sandbox import home

Trouble = Callable[[Gateway], AbstractContextManager[None]]
ALL = bool(os.environ.get("AGENTD_ALL_POINTS"))
"""An accident at every point of an apply, for an hour or two, instead of at a few."""

pytestmark = pytest.mark.timeout(600 if ALL else 300)
"""Importing LiteLLM takes ten seconds, and a minute on a busy machine."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """Serves the two models of the slot; qwen is resident."""
    usual, home.API_KEY = home.API_KEY, VLLM_KEY
    made = Gateway(Stack())
    try:
        made.stack.install()
        made.install()
        made.stack.start()
        change = made.applied()
        assert change["outcome"] == "done", f"{change['message']}\n{made.journal()}"
        yield made
    finally:
        made.remove()
        made.stack.remove()
        home.API_KEY = usual


@pytest.fixture(scope="module")
def accidents(gateway: Gateway) -> Accidents:
    made = Accidents(gateway)
    made.install()
    return made


def named(value: object) -> str | None:
    return getattr(value, "__name__", "")


def aliased(name: str) -> str:
    return MODELS.replace("fallbacks: [dolphin]}", f"fallbacks: [dolphin], aliases: [{name}]}}")


def test_it_is_ready_and_says_so(gateway: Gateway) -> None:
    found = gateway.look()
    assert (found["state"], found["ready"], found["blue_green"]) == ("ready", True, True), found
    assert found["running_digest"] == found["file_digest"] == found["wanted_digest"]
    assert found["listed"] == found["expected"] == gateway.models() == ["dolphin", "patient", "qwen"]
    assert {m["model"]: m["resident"] for m in found["models"]} == {"dolphin": False, "patient": False, "qwen": True}
    assert found["version"].startswith("1.")
    assert "speaking" in ask("qwen").text
    assert gateway.applied()["outcome"] == "already"


def test_a_switch_behind_it(gateway: Gateway) -> None:
    """Requests get what the sources say, and are right again within a second after the switch."""
    refused = ask("dolphin")
    assert refused.status == 503, refused
    assert int(refused.retry_after) >= 1
    pids = gateway.stack.pid(GATEWAY)
    with load("qwen") as seen:
        assert gateway.stack.switch("dolphin")[0] == 0
        switched = time.monotonic()
        until(lambda: ask("dolphin").status == 200, 10)
        right = time.monotonic() - switched
        assert "this is dolphin speaking" in ask("patient").text
        assert "this is dolphin speaking" in ask("qwen").text, "its requests go to its fallback"
    print(f"right {right:.2f} s after the switch")
    assert right < 5.0, "an idle machine needs a tenth of a second"
    assert seen.slowest() < 20.0
    assert [answer for answer in seen.failed if answer.status != 503] == []
    assert gateway.stack.switch("qwen")[0] == 0
    until(lambda: "this is qwen speaking" in ask("qwen").text, 10)
    assert gateway.stack.pid(GATEWAY) == pids, "it was not restarted for it"


def test_a_switch_by_hand_without_agentd(gateway: Gateway) -> None:
    """What agentd said last is not believed when it is dead: systemd's own rules have moved the slot since."""
    stack = gateway.stack
    stack.stop_agentd()
    systemctl("start", "vllm-dolphin.service")
    until(lambda: ask("dolphin").status == 200, 30)
    systemctl("start", "vllm-qwen.service")
    stack.start_agentd()
    stack.settled("qwen")
    until(lambda: "this is qwen speaking" in ask("qwen").text, 30)
    assert ask("dolphin").status == 503, "agentd is back, and believed again"


def test_under_load_nobody_notices_a_new_configuration(gateway: Gateway) -> None:
    before = gateway.stack.pid(GATEWAY)
    gateway.write(aliased("smart"))
    with load("qwen") as seen:
        change = gateway.applied()
    assert change["outcome"] == "done", f"{change['message']}\n{gateway.journal()}"
    assert seen.failed == []
    assert len(seen.answers) > 20
    assert seen.slowest() < 15.0
    assert "smart" in gateway.models()
    assert gateway.stack.pid(GATEWAY) != before
    assert gateway.rests()


def test_sources_that_are_wrong_are_refused(gateway: Gateway) -> None:
    before = gateway.file.read_bytes()
    gateway.write(MODELS.replace("[dolphin]", "[nobody]"))
    change = gateway.applied()
    assert (change["outcome"], change["exit_code"]) == ("refused", 3)
    assert "nobody" in change["message"]
    assert gateway.file.read_bytes() == before
    gateway.write(aliased("smart"))


def test_what_litellm_does_not_take_is_refused(gateway: Gateway) -> None:
    """Right by our checks, but LiteLLM does not come up with it."""
    before, pid = gateway.file.read_bytes(), gateway.stack.pid(GATEWAY)
    wrong = "  litellm: {litellm_settings: {callbacks: [no.such.callback]}}\n"
    gateway.write(aliased("smart") + wrong)
    with load("qwen", clients=1) as seen:
        change = gateway.applied()
    assert (change["outcome"], change["exit_code"]) == ("refused", 3), change["message"]
    assert "callback" in change["message"], change["message"]
    assert (gateway.file.read_bytes(), gateway.stack.pid(GATEWAY)) == (before, pid)
    assert seen.failed == []
    assert gateway.rests()
    gateway.write(aliased("smart"))


UNTOUCHED: list[tuple[Trouble, str]] = [
    (trouble.masked, "litellm.service is masked"),
    (trouble.missing, "litellm.service does not exist"),
    (trouble.read_only, "read-only file system"),
    (trouble.full, "litellm-candidate.yaml: no space left on device"),
]
LATE: list[tuple[Trouble, str]] = [(trouble.full_after_the_candidate, "no space left on device")]
ALONE: list[tuple[Trouble, str]] = [
    (trouble.socket_stopped, "litellm.socket is inactive"),
    (trouble.socket_missing, "litellm.socket does not exist"),
]
"""They cost a start of LiteLLM, or two."""


@pytest.mark.parametrize(("made", "told"), UNTOUCHED + (LATE if ALL else []), ids=named)
def test_in_trouble_what_serves_is_untouched(gateway: Gateway, made: Trouble, told: str) -> None:
    before, pid = gateway.file.read_bytes(), gateway.stack.pid(GATEWAY)
    gateway.write(aliased("troubled"))
    with made(gateway), load("qwen", clients=1) as seen:
        change = gateway.applied()
        assert gateway.file.read_bytes() == before
        assert [path.name for path in gateway.file.parent.iterdir() if "candidate" in path.name] == []
    assert (change["outcome"], change["exit_code"]) == ("refused", 3), change
    assert told in change["message"]
    assert (gateway.stack.pid(GATEWAY), seen.failed) == (pid, [])
    assert gateway.rests()


if ALL:

    @pytest.mark.parametrize(("made", "told"), ALONE, ids=named)
    def test_without_its_socket_it_restarts_and_says_so(gateway: Gateway, made: Trouble, told: str) -> None:
        gateway.write(aliased(made.__name__.replace("_", "-")))
        with made(gateway):
            change = gateway.applied()
            assert change["outcome"] == "done", change
            assert told in change["message"]
            assert ask("qwen").status == 200
        if not gateway.look()["blue_green"]:
            gateway.write(aliased("back"))
            assert gateway.applied()["outcome"] == "done"
        assert gateway.look()["blue_green"], "a restart brings the socket back"
        assert gateway.rests()


@pytest.mark.parametrize("cut", every() if ALL else SAMPLE, ids=str)
def test_killed_in_the_middle_it_ends_serving(accidents: Accidents, cut: Cut) -> None:
    print(accidents.run(cut, aliased))


def test_no_key_anywhere(gateway: Gateway) -> None:
    stack = gateway.stack
    said = stack.journal("agentd.service", 5000) + stack.journal(GATEWAY, 5000)
    told = json.dumps([gateway.status(), stack.client.get("/v1/changes?limit=100"), stack.events()])
    assert KEY not in said + told + gateway.file.read_text()
