"""A rotation of keys, cut off and failing at every step: clients are never refused, and it always ends with one key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentd.core.gateway.keys import PREVIOUS
from agentd.errors import AgentdError
from agentd.managers.gateway.rotation import (
    ACCEPTED,
    SHARED,
    Changes,
    Holder,
    Rotation,
    Secret,
    finish,
    resume,
    rotate,
)

ENV, SERVER_ENV, CLIENT = "/g.env", "/v.env", "/c.env"
MASTER = Secret("master", "M1", "M2", (Holder(ENV, "MASTER"),), (Holder(CLIENT, "KEY"),), ("M1", "M1"))
SERVER = Secret("VLLM", "V1", "V2", (Holder(ENV, "VLLM"), Holder(SERVER_ENV, "VLLM_API_KEY")), (), ("V1", "V1"))
BOTH = Rotation((MASTER, SERVER), ENV, ("qwen",))


class Killed(BaseException):
    """The process is gone."""


class World:
    """The files, a gateway, a model server and a client that reads its file at each request. `at`: the number of the
    step at which something happens, in which `trouble` is "before", "after" (killed) or "error"."""

    def __init__(self, at: int = -1, trouble: str = "", *, takes_both: bool = True, runs: bool = True) -> None:
        self.files: dict[str, dict[str, str]] = {
            ENV: {"MASTER": "M1", "VLLM": "V1", "OTHER": "x"},
            SERVER_ENV: {"VLLM_API_KEY": "V1"},
            CLIENT: {"KEY": "M1"},
        }
        self.gateway: dict[str, str] | None = dict(self.files[ENV]) if runs else None
        self.server: str | None = "V1"
        self.record: Rotation | None = None
        self.takes_both = takes_both
        self.refused: list[str] = []
        self.steps: list[str] = []
        self.said: list[str] = []
        self.at, self.trouble = at, trouble

    def _step(self, name: str, effect: Callable[[], None]) -> None:
        here = len(self.steps) == self.at
        self.steps.append(name)
        if here and self.trouble == "before":
            raise Killed
        if here and self.trouble == "error":
            raise AgentdError("trouble", f"{name} does not work")
        effect()
        self._client()
        if here and self.trouble == "after":
            raise Killed

    def _client(self) -> None:
        """A request at any moment."""
        key = self.files[CLIENT].get("KEY")
        if key is not None and self.gateway is not None and self.ask(key) != 200:
            self.refused.append(f"{self.steps[-1]}: {key}")
        if self.gateway is not None and self.server is not None and self.gateway["VLLM"] != self.server:
            self.refused.append(f"{self.steps[-1]}: the server refuses the gateway")

    def save(self, rotation: Rotation | None) -> None:
        self._step(f"save {rotation.phase if rotation else 'nothing'}", lambda: setattr(self, "record", rotation))

    def write(self, changes: Changes) -> None:
        def effect() -> None:
            for path, values in changes.items():
                for name, value in values.items():
                    if value is None:
                        self.files[path].pop(name, None)
                    else:
                        self.files[path][name] = value

        self._step("write " + " ".join(changes), effect)

    def values(self, holders: tuple[Holder, ...]) -> tuple[str | None, ...]:
        return tuple(self.files[h.path].get(h.variable) for h in holders)

    def running(self) -> bool:
        return self.gateway is not None

    def reload(self) -> None:
        self._step("reload", lambda: setattr(self, "gateway", dict(self.files[ENV])))

    def ask(self, key: str | None) -> int:
        if self.gateway is None:
            return 0
        good = {
            self.gateway["MASTER"],
            *([self.gateway[PREVIOUS]] if self.takes_both and PREVIOUS in self.gateway else []),
        }
        return 401 if key is None else 200 if key in good else 400

    def stop_models(self, services: tuple[str, ...]) -> None:
        self._step("stop models", lambda: setattr(self, "server", None))

    def start_models(self, services: tuple[str, ...]) -> None:
        self._step("start models", lambda: setattr(self, "server", self.files[SERVER_ENV]["VLLM_API_KEY"]))

    def say(self, text: str) -> None:
        self.said.append(text)

    def whole(self) -> str:
        """The key everywhere. Fails when there is more than one."""
        assert PREVIOUS not in self.files[ENV]
        assert self.files[ENV]["OTHER"] == "x"
        assert self.record is None
        keys = {self.files[ENV]["MASTER"], self.files[CLIENT]["KEY"]}
        servers = {self.files[ENV]["VLLM"], self.files[SERVER_ENV]["VLLM_API_KEY"], self.server}
        if self.gateway is not None:
            assert self.gateway == self.files[ENV]
        assert len(keys) == len(servers) == 1, (keys, servers)
        return f"{keys.pop()} {servers.pop()}"


def test_all_goes_well() -> None:
    world = World()
    rotate(BOTH, world)
    assert world.whole() == "M2 V2"
    assert world.refused == []
    assert world.steps == [
        "save begin", "stop models", f"write {ENV} {SERVER_ENV}", "save written", "reload", "start models",
        "save accepted", f"write {CLIENT}", "save shared", f"write {ENV}", "reload", "save nothing",
    ]  # fmt: skip
    assert all("M1" not in text and "M2" not in text for text in world.said)


STEPS = 12


@pytest.mark.parametrize("trouble", ["before", "after"])
@pytest.mark.parametrize("at", range(STEPS))
def test_killed_at_every_step_the_next_run_ends_it(at: int, trouble: str) -> None:
    world = World(at, trouble)
    with pytest.raises(Killed):
        rotate(BOTH, world)
    left, world.at = world.record, -1
    if left is None:
        assert world.whole() in ("M1 V1", "M2 V2")
        return
    finished = resume(left, world)
    assert world.whole() == ("M2 V2" if finished else "M1 V1")
    assert world.refused == []


@pytest.mark.parametrize("trouble", ["before", "after"])
@pytest.mark.parametrize("first", range(STEPS))
@pytest.mark.parametrize("second", range(6))
def test_killed_again_while_it_is_ended(first: int, second: int, trouble: str) -> None:
    world = World(first, trouble)
    with pytest.raises(Killed):
        rotate(BOTH, world)
    for at in (len(world.steps) + second, -1):
        if world.record is None:
            break
        world.at = at
        try:
            resume(world.record, world)
        except Killed:
            continue
    assert world.whole() in ("M1 V1", "M2 V2")
    assert world.refused == []


@pytest.mark.parametrize("at", range(1, STEPS))
def test_failing_at_every_step(at: int) -> None:
    world = World(at, "error")
    with pytest.raises(AgentdError) as caught:
        rotate(BOTH, world)
    assert world.refused == []
    if caught.value.kind == "rotation-undone":
        assert world.whole() == "M1 V1"
        assert caught.value.message.startswith("cannot rotate: ")
    else:  # The new keys are everywhere; only the old one is not refused yet, or the record is not gone.
        world.at = -1
        assert world.record is not None
        assert world.record.phase == SHARED
        assert resume(world.record, world)
        assert world.whole() == "M2 V2"


def test_when_the_way_back_fails_too_the_next_run_goes_on() -> None:
    world = World(5, "error")
    reload = world.reload
    broken = [False]

    def failing() -> None:
        if broken[0]:
            raise AgentdError("trouble", "systemd is away")
        reload()
        broken[0] = True

    world.reload = failing  # type: ignore[method-assign]
    with pytest.raises(AgentdError) as caught:
        rotate(BOTH, world)
    assert caught.value.kind == "rotation-open"
    assert "systemd is away" in caught.value.message
    assert world.record is not None
    broken[0], world.at = False, -1
    assert not resume(world.record, world)
    assert world.whole() == "M1 V1"


def test_a_gateway_that_cannot_be_restarted_keeps_its_old_key() -> None:
    world = World()

    def failing() -> None:
        raise AgentdError("trouble", "systemd is away")

    world.reload = failing  # type: ignore[method-assign]
    with pytest.raises(AgentdError, match="systemd is away; the old keys are back") as caught:
        rotate(BOTH, world)
    assert caught.value.kind == "rotation-undone"
    assert world.whole() == "M1 V1"


def test_overlap_keeps_both_until_it_is_finished() -> None:
    world = World()
    rotate(BOTH, world, overlap=True)
    assert world.record is not None
    assert world.record.phase == SHARED
    assert (world.ask("M1"), world.ask("M2"), world.files[CLIENT]["KEY"]) == (200, 200, "M2")
    finish(world.record, world)
    assert (world.ask("M1"), world.ask("M2")) == (400, 200)
    assert world.whole() == "M2 V2"


def test_a_gateway_that_knows_one_key_is_told_of() -> None:
    world = World(takes_both=False)
    rotate(BOTH, world)
    assert world.whole() == "M2 V2"
    assert any("does not take the old key beside the new one" in text for text in world.said)
    assert [text.split(":")[0] for text in world.refused] == ["reload", "start models", "save accepted"]


def test_where_nothing_runs_only_files_change() -> None:
    world = World(runs=False)
    rotate(Rotation((MASTER,), ENV), world)
    assert "reload" not in world.steps
    assert (world.files[ENV]["MASTER"], world.files[CLIENT]["KEY"]) == ("M2", "M2")
    assert PREVIOUS not in world.files[ENV]


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [("M2", 400, "answers 400 to the new key, not 200"), (None, 200, "answers 200 to no key, not 401")],
)
def test_a_gateway_that_does_not_answer_as_it_should_gets_the_old_key_back(
    key: str | None, status: int, words: str
) -> None:
    world = World()
    ask = world.ask

    def odd(asked: str | None) -> int:
        strange = world.gateway is not None and world.gateway["MASTER"] == "M2" and asked == key
        return status if strange else ask(asked)

    world.ask = odd  # type: ignore[method-assign,assignment]
    with pytest.raises(AgentdError, match=words) as caught:
        rotate(BOTH, world)
    assert caught.value.kind == "rotation-undone"
    assert world.whole() == "M1 V1"


def test_one_that_goes_on_taking_the_old_key_is_no_success() -> None:
    world = World()
    world.reload = lambda: setattr(  # type: ignore[method-assign]
        world, "gateway", {**world.files[ENV], PREVIOUS: "M1"}
    )
    with pytest.raises(AgentdError, match="still takes the old key") as caught:
        rotate(BOTH, world)
    assert caught.value.kind == "rotation-open"


def test_a_client_without_a_key_loses_the_new_one_when_it_is_undone() -> None:
    secret = Secret("master", "M1", "M2", MASTER.own, MASTER.clients, ("M1", None))
    world = World()
    world.files[CLIENT] = {"KEY": "M2"}
    assert not resume(Rotation((secret,), ENV, phase="written"), world)
    assert world.files[CLIENT] == {}


def test_accepted_with_the_clients_written_goes_forward() -> None:
    world = World()
    world.files[CLIENT]["KEY"] = "M2"
    world.files[ENV] |= {"MASTER": "M2", "VLLM": "V2", PREVIOUS: "M1"}
    world.files[SERVER_ENV]["VLLM_API_KEY"] = world.server = "V2"
    world.gateway = dict(world.files[ENV])
    assert resume(Rotation((MASTER, SERVER), ENV, ("qwen",), ACCEPTED), world)
    assert world.whole() == "M2 V2"


def test_keys_are_not_in_a_repr() -> None:
    assert "M1" not in repr(BOTH)
    assert "V2" not in repr(BOTH)
