"""Another profile of use as one change: done as a whole, taken back as a whole, finished after a kill at any point."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fakes.rig import Rig as ModelsRig
from fakes.rig import manager_of
from fakes.units import Behaviour
from fakes.world import FakeWorld

from agentd.core.fragments import parse_fragment
from agentd.core.layers import Fragment, merge
from agentd.core.settings import LoadedConfig, check, digest
from agentd.core.use_plan import ProfileRequest
from agentd.core.use_profiles import lay_over, selected_name, selection_text
from agentd.engine.steps import Steps
from agentd.errors import AgentdError, BusError, ConfigError, ConfigProblem, ConflictError
from agentd.managers.use_profiles.actions import ProfileActions
from agentd.managers.use_profiles.context import UsePorts
from agentd.types import Change, Outcome
from agentd.wire import SwitchRequest

GIB = 1024**3
SELECTION, APPLIED = "/config/profile", "/state/profile"
BASE = """
[slots.gpu0]
default = "qwen"
[services.qwen]
unit = "vllm-qwen.service"
role = "model"
url = "http://127.0.0.1:8001"
[services.qwen.model]
slot = "gpu0"
served_name = "qwen"
ready_timeout = "20s"
[services.dolphin]
unit = "vllm-dolphin.service"
role = "model"
url = "http://127.0.0.1:8002"
[services.dolphin.model]
slot = "gpu0"
served_name = "dolphin"
ready_timeout = "20s"
[services.redis]
unit = "redis.service"
role = "store"
url = "redis://127.0.0.1:6379"
[services.litellm]
unit = "litellm.service"
role = "gateway"
url = "http://127.0.0.1:4001"
depends_on = ["redis"]
[services.mock]
unit = "mock.service"
enabled = false
"""
PROFILES = {
    "production": "[use.services]\ndolphin = false\n[services.qwen.model]\nutilization = 0.9\n",
    "testing": "[use]\nroles = { model = false }\nservices = { litellm = false, redis = false, mock = true }\n",
    "other": '[slots.gpu0]\ndefault = "dolphin"\n[use.services]\nqwen = false\n',
    "limits": '[services.litellm.hardening]\nmemory_max = "2G"\n',
    "bad": "[use.services]\nqwen = false\n",
    "more": """
[slots.gpu0]
default = "extra"
[use.services]
qwen = false
[services.helper]
unit = "helper.service"
enabled = true
[services.broken]
unit = "broken.service"
enabled = true
depends_on = ["helper"]
[services.extra]
unit = "vllm-extra.service"
role = "model"
url = "http://127.0.0.1:8003"
[services.extra.model]
slot = "gpu0"
served_name = "extra"
ready_timeout = "20s"
""",
}


def fragment(name: str, text: str) -> Fragment:
    parsed = parse_fragment(name, text.encode())
    assert isinstance(parsed, Fragment), parsed
    return parsed


@functools.cache
def configured(name: str) -> LoadedConfig:
    """What agentd reads with this profile selected."""
    merged, files = merge([fragment("agentd.toml", BASE)]), ["agentd.toml"]
    problems: list[ConfigProblem] = []
    if name:
        if name not in PROFILES:
            raise AgentdError("profile-not-found", f'there is no profile "{name}"')
        merged, problems = lay_over(merged, fragment(f"{name}.toml", PROFILES[name]))
        files.append(f"{name}.toml")
    settings, found = check(merged.data, merged.provenance)
    if problems or found:
        raise ConfigError([*problems, *found])
    return LoadedConfig(settings, merged.provenance, tuple(files), digest(settings), name)


class Killed(Exception):
    """agentd is gone at this point."""


class Rig:
    """A machine, agentd's models and its profile of use on it."""

    def __init__(self, world: FakeWorld, profile: str = "") -> None:
        self.world = world
        self.config = configured(profile)
        self.models: ModelsRig = manager_of(world, self.config.settings)
        self.models.manager.profile = lambda: self.config.profile
        self.reload_fails: list[AgentdError] = []
        self.limited: list[Sequence[str]] = []
        self.limits_fail: list[AgentdError] = []
        self.busy: dict[str, str] = {}
        self.unheeded: list[str] = []
        models = self.models
        steps = Steps(world.store, models.changes, models.events, world.clock)
        self.actions = ProfileActions(
            UsePorts(world.units, world.files, steps, models.board, SELECTION, APPLIED, self._load, lambda: self.config,
                     self._reload, self._switch, self._unload, self._limits, self._check_free, lambda: self.unheeded)
        )  # fmt: skip

    async def _load(self, name: str) -> LoadedConfig:
        return configured(name)

    async def _reload(self) -> None:
        if self.reload_fails:
            raise self.reload_fails.pop(0)
        self.config = configured(self.selected)
        await self.models.manager.apply(self.config.settings)

    async def _switch(self, model: str) -> Change:
        return await self.models.end(self.models.manager.switch(SwitchRequest(model, force=True))[0])

    async def _unload(self, model: str) -> Change:
        return await self.models.end(self.models.manager.stop(model))

    async def _limits(self, units: Sequence[str]) -> str:
        self.limited.append(units)
        if self.limits_fail:
            raise self.limits_fail.pop(0)
        return ""

    def _check_free(self, unit: str) -> None:
        if unit in self.busy:
            raise ConflictError(f"change {self.busy[unit]} is at work on {unit}", self.busy[unit])

    @property
    def selected(self) -> str:
        return selected_name(self.world.files.texts.get(SELECTION, "")) or ""

    async def use(self, name: str) -> Change:
        return await self.end(await self.actions.use(ProfileRequest(name)))

    async def end(self, change: Change) -> Change:
        return await self.models.end(change)

    def state(self) -> tuple[str, str, list[str]]:
        """Profile selected, profile in force, units that are up."""
        return self.selected, self.config.profile, self.world.units.active()


UP = ["litellm.service", "redis.service", "vllm-qwen.service"]


async def a_world() -> FakeWorld:
    world = FakeWorld()
    world.add_model("qwen", 8001, vram=14 * GIB, load=4.0)
    world.add_model("dolphin", 8002, vram=14 * GIB, load=4.0)
    world.exclusive()
    for name in ("redis", "litellm"):
        world.units.add(f"{name}.service", Behaviour(), active=True)
    world.units.add("mock.service", Behaviour())
    world.serve_at_once("qwen")
    return world


async def a_rig(world: FakeWorld | None = None, profile: str = "") -> Rig:
    rig = Rig(world or await a_world(), profile)
    await rig.models.manager.start(rig.config.settings)
    return rig


async def test_settings_alone_touch_nothing_that_runs() -> None:
    rig = await a_rig()
    change = await rig.use("production")
    assert (change.outcome, change.kind, change.target, change.previous) == (
        Outcome.DONE, "profile", "production", "none",
    )  # fmt: skip
    assert rig.state() == ("production", "production", UP)
    assert change.message == "profile production is in force; 1 setting changed"
    assert (await rig.use("production")).outcome is Outcome.ALREADY
    rig.unheeded.append("services.redis.x has no effect: y")
    assert (await rig.use("limits")).message.endswith("; services.redis.x has no effect: y")
    await rig.use("production")
    switched = await rig.models.switch("dolphin")
    assert switched.outcome is Outcome.REFUSED
    assert "dolphin is switched off by profile production" in switched.message


async def test_what_is_switched_off_stops_and_what_is_asked_for_starts() -> None:
    rig = await a_rig()
    change = await rig.use("testing")
    assert change.outcome is Outcome.DONE, change
    assert rig.state() == ("testing", "testing", ["mock.service"])
    acts = [call for call in rig.world.units.calls if call[0] in ("start", "stop")]
    assert acts == [
        ("stop", "vllm-qwen.service"), ("stop", "litellm.service"), ("stop", "redis.service"),
        ("start", "mock.service"),
    ], "what depends on another one goes first"  # fmt: skip
    assert "unloaded: qwen; started: mock" in change.message

    back = await rig.use("")
    assert (back.outcome, back.target, back.previous) == (Outcome.DONE, "none", "testing")
    assert rig.state() == ("", "", UP), "the model comes back, too"
    starts = [unit for verb, unit in rig.world.units.calls if verb == "start"]
    assert starts.index("redis.service") < starts.index("litellm.service")


async def test_a_model_that_is_switched_off_gives_way_to_the_default() -> None:
    rig = await a_rig()
    change = await rig.use("other")
    assert change.outcome is Outcome.DONE
    assert rig.world.serving() == ["dolphin"]
    assert "resident: dolphin" in change.message


async def test_what_a_person_has_stopped_stays_so() -> None:
    world = await a_world()
    world.units.die("litellm.service", status=0)
    rig = await a_rig(world)
    await rig.use("production")
    await rig.use("")
    assert "litellm.service" not in world.units.active()


async def test_a_profile_that_is_wrong_changes_nothing() -> None:
    rig = await a_rig()
    with pytest.raises(ConfigError, match=r"slots.gpu0.default: is switched off"):
        await rig.actions.use(ProfileRequest("bad"))
    with pytest.raises(AgentdError, match="there is no profile"):
        await rig.actions.use(ProfileRequest("gone"))
    assert rig.state() == ("", "", UP)
    assert rig.world.store.saved == {}


async def test_a_plan_is_only_told() -> None:
    rig = await a_rig()
    plan = await rig.actions.plan(ProfileRequest("testing"))
    assert (plan.profile, plan.previous, plan.start, plan.stop, plan.unload, plan.switch) == (
        "testing", "", ("mock",), ("litellm", "redis"), ("qwen",), (),
    )  # fmt: skip
    assert [(c.key, c.before, c.after) for c in plan.settings] == [("slots.gpu0.default", '"qwen"', '""')]
    plan = await rig.actions.plan(ProfileRequest("production"))
    assert plan.notes == ("what concerns vLLM's own flags counts from the next start of: qwen",)
    plan = await rig.actions.plan(ProfileRequest("limits"))
    assert plan.units == ("litellm.service",)
    assert rig.state() == ("", "", UP)
    assert rig.world.files.writes == 0


async def test_two_at_once() -> None:
    rig = await a_rig()
    first = await rig.actions.use(ProfileRequest("testing"))
    with pytest.raises(ConflictError) as caught:
        await rig.actions.use(ProfileRequest("production"))
    assert caught.value.change_id == first.id
    assert (await rig.end(first)).outcome is Outcome.DONE


async def test_a_slot_or_a_service_that_is_busy_refuses() -> None:
    rig = await a_rig()
    change, _ = rig.models.manager.switch(SwitchRequest("dolphin"))
    with pytest.raises(ConflictError) as caught:
        await rig.use("testing")
    assert caught.value.change_id == change.id
    assert (await rig.use("limits")).outcome is Outcome.DONE, "it has nothing to do with the slot"
    await rig.models.end(change)
    rig.busy["redis.service"] = "b1"
    with pytest.raises(ConflictError, match="change b1 is at work"):
        await rig.use("testing")
    assert rig.selected == "limits"


def _no_start(rig: Rig) -> None:
    rig.world.units.units["mock.service"].behaviour.exit_on_start = 1


def _no_reload(rig: Rig) -> None:
    rig.reload_fails.append(AgentdError("reload-incomplete", "the configuration is applied in part: units: x"))


@pytest.mark.parametrize("fault", [_no_start, _no_reload])
async def test_a_step_that_fails_brings_everything_back(fault: Callable[[Rig], None]) -> None:
    rig = await a_rig()
    fault(rig)
    change = await rig.use("testing")
    assert (change.outcome, change.exit_code) == (Outcome.ROLLED_BACK, 5), change
    assert change.message.startswith("profile none is in force again; with profile testing: ")
    assert rig.state() == ("", "", UP)
    assert rig.world.serving() == ["qwen"]


async def test_the_profile_before_is_what_it_goes_back_to() -> None:
    rig = await a_rig()
    await rig.use("production")
    _no_start(rig)
    change = await rig.use("testing")
    assert change.message.startswith("profile production is in force again")
    assert rig.state() == ("production", "production", UP)
    rig.limits_fail.append(AgentdError("change-failed", "cannot install drop-ins: x"))
    change = await rig.use("limits")
    assert change.outcome is Outcome.ROLLED_BACK
    assert rig.limited == [("litellm.service",)] * 2, "the drop-ins go back, too"


async def test_what_only_the_failed_profile_has_is_stopped_again() -> None:
    world = await a_world()
    world.units.add("helper.service", Behaviour())
    world.units.add("broken.service", Behaviour(exit_on_start=1))
    world.add_model("extra", 8003, vram=14 * GIB, load=4.0)
    world.exclusive()
    rig = await a_rig(world)
    await rig.use("testing")
    change = await rig.use("more")
    assert {("start", "helper.service"), ("start", "vllm-extra.service")} <= set(rig.world.units.calls)
    assert change.outcome is Outcome.ROLLED_BACK, change
    assert rig.state() == ("testing", "testing", ["mock.service"])


async def test_a_default_that_does_not_come_up_leaves_the_model_that_was_there() -> None:
    rig = await a_rig()
    rig.world.models["dolphin"].die_loading = (1.0, 1, "out of memory")
    change = await rig.use("other")
    assert change.outcome is Outcome.ROLLED_BACK
    assert rig.world.serving() == ["qwen"]
    assert rig.selected == ""


async def test_a_way_back_that_fails_is_said_in_full() -> None:
    rig = await a_rig()
    _no_start(rig)
    rig.world.units.units["redis.service"].behaviour.exit_on_start = 1
    change = await rig.use("testing")
    assert (change.outcome, change.exit_code) == (Outcome.DEGRADED, 6)
    assert "could not be brought back whole: cannot start redis.service" in change.message
    assert "cannot start mock.service" in change.message
    assert rig.selected == ""


async def test_a_journal_that_is_full_half_way_brings_everything_back() -> None:
    rig = await a_rig()
    store = rig.world.store

    def full(change: Change) -> None:
        if change.kind == "profile" and change.phase in ("stop", "undo"):
            raise AgentdError("journal-full", "cannot write the journal: no space left on device")

    store.before_save = full
    change = await rig.use("testing")
    assert change.outcome is Outcome.ROLLED_BACK
    assert "no space left" in change.message
    assert rig.state() == ("", "", UP)


async def test_without_systemd_it_is_refused_before_anything_is_touched() -> None:
    rig = await a_rig()
    rig.world.units.drop_bus()
    with pytest.raises(BusError):
        await rig.use("testing")
    assert rig.selected == ""
    assert rig.world.store.saved == {}


async def test_a_selection_that_cannot_be_written_is_refused() -> None:
    rig = await a_rig()
    rig.world.files.refuse.add(SELECTION)
    change = await rig.use("testing")
    assert (change.outcome, change.exit_code) == (Outcome.REFUSED, 3)
    assert rig.state() == ("", "", UP)


PHASES = ("plan", "select", "reload", "models", "stop", "start")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("faulty", [False, True])
async def test_a_kill_at_any_step_ends_in_the_old_or_the_new_state(phase: str, when: str, faulty: bool) -> None:
    """With a fault the change is on its way back when it is killed, in its `undo` as well."""
    world = await a_world()
    rig = await a_rig(world)
    if faulty:
        _no_start(rig)
        phase = "undo" if phase == "plan" else phase

    def die(change: Change) -> None:
        if change.kind == "profile" and change.phase == phase:
            raise Killed

    setattr(world.store, f"{when}_save", die)
    change = await rig.actions.use(ProfileRequest("testing"))
    await rig.actions._running[1]  # type: ignore[index]
    world.store.before_save = world.store.after_save = None
    saved = world.store.saved[change.id]
    world.store.saved[change.id] = _cut(saved)
    await rig.models.manager.close()

    world.units.units["mock.service"].behaviour.exit_on_start = None
    again = await a_rig(world, selected_name(world.files.texts.get(SELECTION, "")) or "")
    await again.actions.recover()
    if again.actions._recovering is not None:
        await again.actions._recovering[1]
    await world.clock.settle()
    assert again.state() in (("", "", UP), ("testing", "testing", ["mock.service"]))
    ended = world.store.saved[change.id]
    assert ended.outcome is Outcome.RECOVERED
    assert ended.message.startswith("agentd was stopped meanwhile; ")
    assert again.actions.running() == ""


def _cut(change: Change) -> Change:
    """As it lay on the disk: the test's own exception ended it as an internal error, a kill would not."""
    values: dict[str, Any] = {"outcome": None, "finished": None, "exit_code": None}
    return dataclasses.replace(change, **values)


async def test_what_was_selected_without_agentd_is_put_to_use_at_its_start() -> None:
    rig = await a_rig()
    await rig.actions.recover()
    assert rig.world.store.saved == {}, "nothing was selected"
    rig.world.files.texts[SELECTION] = selection_text("testing")
    await rig.models.manager.close()

    again = await a_rig(rig.world, "testing")
    assert again.models.board.slots[0].resident == "qwen", "what serves is adopted first"
    await again.actions.recover()
    change = await again.end(again.actions._running[0])  # type: ignore[index]
    assert (change.outcome, change.target, change.previous) == (Outcome.DONE, "testing", "none")
    assert again.state() == ("testing", "testing", ["mock.service"])
    assert again.world.files.texts[APPLIED] == selection_text("testing")
    await again.models.manager.close()

    saved = len(again.world.store.saved)
    last = await a_rig(rig.world, "testing")
    await last.actions.recover()
    assert len(last.world.store.saved) == saved, "once is enough"


async def test_a_start_under_a_profile_waits_for_the_default_that_is_on_its_way() -> None:
    world = await a_world()
    world.units.die("vllm-qwen.service", status=0)
    world.files.texts[SELECTION] = selection_text("other")
    rig = await a_rig(world, "other")
    assert rig.models.board.slots[0].change is not None, "dolphin is being started"
    await rig.actions.recover()
    change = await rig.end(rig.actions._running[0])  # type: ignore[index]
    assert change.outcome is Outcome.DONE
    assert world.serving() == ["dolphin"]


async def test_a_start_under_a_profile_that_fails_in_part_is_told() -> None:
    world = await a_world()
    world.units.units["mock.service"].behaviour.exit_on_start = 1
    world.files.texts[SELECTION] = selection_text("testing")
    rig = await a_rig(world, "testing")
    await rig.actions.recover()
    change = await rig.end(rig.actions._running[0])  # type: ignore[index]
    assert change.outcome is Outcome.DEGRADED
    assert "not in full: cannot start mock.service" in change.message
    assert APPLIED not in world.files.texts, "the next start tries again"
