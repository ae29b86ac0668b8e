"""agentctl gateway, secrets and smoke-test: the table, and what agentd is asked for a rotation of keys."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module
from typing import Any

import pytest
from fakes.cli import Run

from agentd.cli.commands import BY_WORDS, COMMANDS
from agentd.cli.commands_gateway import GATEWAY_COMMANDS
from agentd.cli.context import Context
from agentd.cli.parser import parse
from agentd.cli.secrets_rotate import Daemon
from agentd.client import ApiProblem, Unreachable
from agentd.errors import AgentdError

DONE: dict[str, Any] = {
    "id": "c1", "kind": "gateway-restart", "slot": "", "target": "litellm", "previous": None, "created": 1.0,
    "finished": 2.0, "phases": [], "outcome": "done", "exit_code": 0, "message": "it serves", "cause": "",
}  # fmt: skip
FAILED = DONE | {"outcome": "rolled-back", "exit_code": 5, "message": "it did not come up", "cause": "exit 3"}
SLOTS = {"slots": [{"name": "gpu0", "models": ["qwen", "dolphin"], "resident": "qwen"}]}


def test_every_command_is_there_with_a_module_and_examples_that_parse() -> None:
    words = {command.name for command in GATEWAY_COMMANDS}
    verbs = "init import validate prove generate diff status apply rollback serve enable disable set"
    assert words == {
        *(f"gateway {verb}" for verb in verbs.split()),
        *("secrets init", "secrets check", "secrets rotate", "smoke-test"),
    }
    assert set(GATEWAY_COMMANDS) <= set(COMMANDS)
    for command in GATEWAY_COMMANDS:
        assert callable(import_module(f"agentd.cli.{command.module}").run)
        assert command.examples
        for example in command.examples:
            typed = example.split(" > ")[0].split()
            assert typed[0] == "agentctl"
            parse(BY_WORDS[command.words], typed[1 + len(command.words) :])


@pytest.mark.parametrize("argv", [["gateway", "--help"], ["gateway", "-h"], ["help", "gateway"]])
def test_help_of_a_group(run: Run, argv: list[str]) -> None:
    result = run(*argv)
    assert (result.code, result.err) == (0, "")
    assert "  gateway validate" in result.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["gateway"], '"gateway" needs one more word'),
        (["gateway", "validat"], 'no command "gateway validat"'),
        (["gateway", "nonsense", "--help"], "see: agentctl gateway --help"),
        (["gateway", "enable", "thing", "x"], "invalid choice: 'thing'"),
        (["gateway", "validate", "--format", "xml"], "invalid choice: 'xml'"),
        (["gateway", "serve", "--port", "70000"], '"70000" is not a port, 1 to 65535'),
        (["gateway", "rollback", "--apply", "--list"], "contradict"),
        (["smoke-test", "--timeout", "soon"], "--timeout"),
        (["secrets", "rotate", "--finish", "--overlap"], "--finish goes alone"),
    ],
)
def test_usage(run: Run, argv: list[str], words: str) -> None:
    result = run(*argv)
    assert (result.code, words in result.err) == (2, True), result.err


class Asked:
    """agentd's client; `answers`: path -> what it answers, or raises."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {path.replace("_", "/"): answer for path, answer in answers.items()}
        self.posts: list[tuple[str, dict[str, Any]]] = []

    def get(self, path: str) -> Any:
        return self._answer(path)

    def post(self, path: str, body: dict[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        self.posts.append((path, body or {}))
        return self._answer(path)

    def _answer(self, path: str) -> Any:
        found = self.answers.get(path.removeprefix("/"), Unreachable("no-daemon", "nobody"))
        if isinstance(found, Exception):
            raise found
        return found


def daemon(**answers: Any) -> tuple[Daemon, Asked]:
    ctx = Context(Namespace(json=True, socket=""), "secrets rotate")
    asked = Asked(**answers)
    ctx._client = asked  # type: ignore[assignment]
    return Daemon(ctx), asked


def test_without_agentd_systemd_has_to_do_it() -> None:
    made, _ = daemon()
    assert (made.apply(), made.stop("qwen"), made.start("qwen")) == (False, False, False)


def test_agentd_does_it_as_changes() -> None:
    made, asked = daemon(
        v1_slots=SLOTS, v1_unload={"change": DONE}, v1_switch={"change": DONE}, v1_gateway_restart={"change": DONE}
    )
    assert (made.apply(), made.stop("qwen"), made.start("qwen")) == (True, True, True)
    assert asked.posts == [
        ("/v1/gateway/restart", {}),
        ("/v1/unload", {"slot": "gpu0"}),
        ("/v1/switch", {"target": "qwen"}),
    ]


def test_what_is_not_resident_is_not_unloaded_and_what_has_no_slot_is_systemds() -> None:
    made, asked = daemon(v1_slots=SLOTS)
    assert made.stop("dolphin")
    assert not made.stop("elsewhere")
    assert not made.start("elsewhere")
    assert asked.posts == []


def test_an_agentd_without_a_gateway_leaves_it_to_systemd() -> None:
    made, _ = daemon(v1_gateway_restart=ApiProblem(404, {"kind": "not-found"}))
    assert not made.apply()
    made, _ = daemon(v1_gateway_restart=ApiProblem(409, {"kind": "conflict", "detail": "busy"}))
    with pytest.raises(ApiProblem, match="busy"):
        made.apply()


def test_a_change_that_is_under_way_has_to_end_first() -> None:
    busy = ApiProblem(409, {"kind": "conflict", "detail": "busy", "change": "g9"})
    made, asked = daemon(v1_gateway_restart={"change": DONE}, v1_changes_g9=FAILED)
    refusals = [busy, busy]
    answer = asked._answer
    asked._answer = lambda path: _raise(refusals.pop()) if "restart" in path and refusals else answer(path)  # type: ignore[method-assign]
    assert made.apply()
    assert len(asked.posts) == 3


def _raise(error: Exception) -> Any:
    raise error


def test_a_change_that_fails_is_told_in_its_words() -> None:
    made, _ = daemon(v1_gateway_restart={"change": FAILED})
    with pytest.raises(AgentdError, match="it did not come up") as caught:
        made.apply()
    assert caught.value.hint == "exit 3"
