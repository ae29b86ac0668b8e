"""The gateway watched: what a look makes of it, readiness, routes of the slots, sweeping, LiteLLM's figures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.gatewayworld import MAIN, STANDBY, GatewayWorld, config, ended
from fakes.watch import FakeFileWatch

from agentd.core.gateway.figures import MOST, OTHER, figures
from agentd.core.gateway.section import read_section
from agentd.core.gateway.yaml_text import parse
from agentd.core.schema import Service, Settings
from agentd.errors import AgentdError
from agentd.gateway import GatewayState, GatewayStatus
from agentd.managers.gateway.context import Gateway
from agentd.managers.gateway.manager import GatewayManager
from agentd.managers.gateway.routes import UNKNOWN_SECONDS, RouteWriter, route
from agentd.managers.gateway.watcher import WatcherParts
from agentd.types import ActiveState, Change, SlotStatus

SETTINGS = Settings(services={"litellm": Service(unit=MAIN, role="gateway", url="http://127.0.0.1:4001")})


class Rig:
    def __init__(self, world: GatewayWorld, **policy: Any) -> None:
        self.world = world
        self.watch = FakeFileWatch()
        self.gateway = world.gateway(**policy)
        ports = world.ports
        self.routes = RouteWriter(
            world.runtime, ports.routes_path, lambda: world.world.slots, world.changes, world.clock
        )
        parts = WatcherParts(ports, world.actions, self.routes, world.events, world.world.seen)
        self.manager = GatewayManager(parts, world.actions, self.routes, self._make, self.watch, world.world)

    def _make(self, *_: object) -> Gateway:
        return self.gateway

    @property
    def status(self) -> GatewayStatus:
        found = self.manager.status()
        assert found is not None
        return found

    def aspects(self) -> set[str]:
        return {finding.aspect for finding in self.manager.findings()}

    def slot(self, state: str, resident: str | None, change: str | None = None) -> None:
        self.world.world.put_slot(SlotStatus("gpu0", state, ("qwen", "dolphin"), resident, None, change))

    def written(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.world.runtime.texts["/run/routes.json"])["slots"]["gpu0"]
        return found


@asynccontextmanager
async def watched(world: GatewayWorld | None = None, **policy: Any) -> AsyncIterator[Rig]:
    rig = Rig(world or GatewayWorld(new=config("old", "qwen")), **policy)
    await rig.manager.start(SETTINGS)
    await asyncio.sleep(0.1)
    try:
        yield rig
    finally:
        await rig.world.actions.close()
        await rig.manager.close()


# -- the look ---------------------------------------------------------------------------------------------------------


async def test_a_gateway_as_it_should_be() -> None:
    async with watched() as rig:
        found = rig.status
        assert (found.state, found.summary, found.findings) == (GatewayState.READY, "", ())
        assert (found.ready, found.key_ok, found.open_without_key, found.blue_green) == (True, True, False, True)
        assert found.running_digest == found.file_digest == found.wanted_digest == "old"
        assert found.expected == found.listed == ("qwen",)
        assert rig.manager.problems() == []
        await rig.manager.check_ready("litellm", 3.0)
        assert [e.kind for e in rig.world.events.recent(10)] == ["gateway.ready"]


async def test_open_without_a_key_is_an_alarm() -> None:
    world = GatewayWorld()
    world.proxy.open = True
    async with watched(world) as rig:
        assert rig.status.state is GatewayState.OPEN
        assert rig.manager.problems() == ["litellm: it answers without a key"]
        with pytest.raises(AgentdError, match="without a key"):
            await rig.manager.check_ready("litellm", 3.0)


async def test_other_models_than_promised() -> None:
    world = GatewayWorld()
    world.proxy.more = ("stranger",)
    async with watched(world) as rig:
        assert (rig.status.state, rig.status.ready) == (GatewayState.UNREADY, False)
        assert "models" in rig.aspects()
        with pytest.raises(AgentdError, match="it lists stranger"):
            await rig.manager.check_ready("litellm", 3.0)


async def test_a_refused_key() -> None:
    world = GatewayWorld()
    world.files.variables["MASTER"] = "sk-another"
    async with watched(world) as rig:
        assert rig.status.key_ok is False
        assert "key" in rig.aspects()
        assert "sk-another" not in repr(rig.status)


async def test_it_runs_by_another_file() -> None:
    world = GatewayWorld()
    await world.files.write(world.new)
    async with watched(world) as rig:
        assert (rig.status.state, rig.status.running_matches) == (GatewayState.UNREADY, False)
        assert {"running", "models"} <= rig.aspects()


async def test_the_sources_give_another_file() -> None:
    async with watched(GatewayWorld()) as rig:
        assert (rig.status.state, rig.status.up_to_date) == (GatewayState.STALE, False)
        assert rig.aspects() == {"sources"}


async def test_a_file_of_somebody_else_is_only_watched() -> None:
    world = GatewayWorld()
    world.files.text = "{}"
    world.proxy.more = ("stranger",)
    async with watched(world) as rig:
        assert (rig.status.state, rig.aspects()) == (GatewayState.UNMANAGED, set())
        await rig.manager.check_ready("litellm", 3.0)


async def test_a_file_that_is_no_yaml() -> None:
    world = GatewayWorld()
    world.files.text = "not a file of ours"
    async with watched(world) as rig:
        assert "file" in rig.aspects()
        with pytest.raises(AgentdError, match="no YAML"):
            await rig.manager.check_ready("litellm", 3.0)


async def test_a_configuration_error_is_told_with_its_last_words() -> None:
    world = GatewayWorld()
    world.journal.say(MAIN, "agentd gateway: cannot start: fallbacks must be a list")
    world.units.change(
        MAIN, active_state=ActiveState.FAILED, result="exit-code", exec_code=1, exec_status=3, main_pid=0
    )
    async with watched(world) as rig:
        assert rig.status.state is GatewayState.CONFIG_ERROR
        assert "fallbacks must be a list" in rig.status.summary
        assert "config" in rig.aspects()


async def test_a_stranger_on_the_port() -> None:
    world = GatewayWorld(blue_green=False)
    pid = world.kernel.spawn("node", unit="other.service")
    world.kernel.listen(4001, pid)
    async with watched(world) as rig:
        assert "port" in rig.aspects()
        (told,) = [f.cause for f in rig.manager.findings() if f.aspect == "port"]
        assert told == f"other.service (pid {pid}) listens on the gateway's port 4001"


async def test_what_litellm_ignores_is_told() -> None:
    world = GatewayWorld()
    world.journal.say(MAIN, "WARNING: Key 'x' is not a valid argument for Router.__init__(). Ignoring this key.")
    world.units.change(MAIN, invocation_id="")
    async with watched(world) as rig:
        assert "log" not in rig.aspects(), "no start is known that it could belong to"
    world = GatewayWorld()
    world.journal.say(MAIN, "Key 'x' ... Ignoring this key.", invocation="i1")
    world.units.change(MAIN, invocation_id="i1")
    async with watched(world) as rig:
        assert "log" in rig.aspects()


async def test_a_question_without_a_key_is_seldom() -> None:
    """LiteLLM logs a traceback for each."""
    async with watched() as rig:
        for _ in range(59):
            await rig.manager.check_ready("litellm", 3.0)
            await asyncio.sleep(10)
        assert rig.world.proxy.keyless == 2
        rig.world.units.die(MAIN)
        await asyncio.sleep(30)
        assert (rig.world.proxy.keyless, rig.status.state) == (3, GatewayState.READY)


async def test_news_bring_a_look_at_once() -> None:
    async with watched(check_every=600.0) as rig:
        rig.world.units.change(MAIN, main_pid=4711)
        rig.world.proxy.open = True
        rig.manager.unit_changed("another.service")
        await asyncio.sleep(1)
        assert rig.status.state is GatewayState.READY
        rig.manager.unit_changed(MAIN)
        await asyncio.sleep(1)
        assert rig.status.state is GatewayState.OPEN
        rig.world.proxy.open = False
        rig.watch.change(f"{rig.gateway.policy.sources}/ports.yaml")
        await asyncio.sleep(1)
        assert rig.status.state is GatewayState.READY


async def test_without_a_gateway_there_is_nothing() -> None:
    world = GatewayWorld()
    rig = Rig(world)
    await rig.manager.start(Settings())
    assert (rig.manager.status(), rig.manager.findings()) == (None, ())
    with pytest.raises(AgentdError, match="no gateway is configured"):
        rig.manager.gateway()
    await rig.manager.close()


async def test_what_was_left_over_is_swept() -> None:
    world = GatewayWorld()
    world.files.candidate = world.old
    async with asyncio.timeout(30):
        await (await world.units.start(STANDBY)).wait(20)
    async with watched(world) as rig:
        await asyncio.sleep(20)
        assert world.units.state(STANDBY).active_state is ActiveState.INACTIVE
        assert world.files.candidate is None
        assert "gateway.swept" in [event.kind for event in rig.world.events.recent(10)]


async def test_in_report_mode_it_is_only_told() -> None:
    world = GatewayWorld()
    world.files.candidate = world.old
    async with asyncio.timeout(30):
        await (await world.units.start(STANDBY)).wait(20)
    async with watched(world, mode="report") as rig:
        await asyncio.sleep(20)
        assert world.units.state(STANDBY).active_state is ActiveState.ACTIVE
        assert "standby" in rig.aspects()


async def test_a_change_under_way_is_shown_and_guards_the_unit() -> None:
    async with watched(GatewayWorld()) as rig:
        change, task = await rig.world.actions.apply(rig.gateway)
        rig.manager.follow(task)
        await asyncio.sleep(2)
        assert (rig.status.state, rig.status.change) == (GatewayState.APPLYING, change.id)
        assert rig.manager.busy(MAIN) == change.id
        assert rig.manager.busy("other.service") == ""
        await ended(task)
        await asyncio.sleep(1)
        assert (rig.status.state, rig.status.change) == (GatewayState.READY, "")
        assert rig.status.running_digest == "new"


# -- routes -----------------------------------------------------------------------------------------------------------

SWITCH = Change("s1", "switch", "gpu0", "dolphin", "qwen", 100.0, "drain")


@pytest.mark.parametrize(
    ("state", "resident", "estimate", "wanted"),
    [
        ("active", "qwen", 20.0, ("qwen", None, 20)),
        ("precheck", "qwen", 20.0, ("qwen", None, 20)),
        ("drain", "qwen", 20.0, (None, "dolphin", 13)),
        ("verify", None, 3.0, (None, "dolphin", 1)),
        ("rollback", None, None, (None, "qwen", UNKNOWN_SECONDS)),
        ("degraded", None, None, (None, None, UNKNOWN_SECONDS)),
        ("leased", None, None, (None, None, UNKNOWN_SECONDS)),
    ],
)
def test_what_a_slot_holds(state: str, resident: str | None, estimate: float | None, wanted: tuple[Any, ...]) -> None:
    slot = SlotStatus("gpu0", state, ("qwen", "dolphin"), resident)
    found = route(slot, None if state in ("degraded", "leased") else SWITCH, estimate, 107.5)
    assert (found.resident, found.switching_to, found.retry_after) == wanted


async def test_every_change_of_a_slot_is_written() -> None:
    async with watched() as rig:
        rig.slot("active", "qwen")
        await asyncio.sleep(0.1)
        assert rig.written()["resident"] == "qwen"
        rig.world.changes.note(SWITCH)
        rig.slot("drain", "qwen", "s1")
        await asyncio.sleep(0.1)
        assert (rig.written()["resident"], rig.written()["switching_to"]) == (None, "dolphin")
        rig.slot("active", "dolphin")
        await asyncio.sleep(0.1)
        assert rig.written()["resident"] == "dolphin"
        assert [m.resident for m in rig.status.models] == [False]
    assert rig.written()["resident"] == "dolphin", "agentd's end changes nothing about it"


async def test_routes_that_cannot_be_written_are_told_and_tried_again() -> None:
    world = GatewayWorld()
    world.runtime.refuse.add("/run/routes.json")
    async with watched(world) as rig:
        rig.slot("active", "qwen")
        await asyncio.sleep(1)
        await rig.manager.verify()
        assert "routes" in rig.aspects()
        world.runtime.refuse.clear()
        await asyncio.sleep(10)
        assert rig.written()["resident"] == "qwen"
        await rig.manager.verify()
        assert "routes" not in rig.aspects()


# -- LiteLLM's figures ------------------------------------------------------------------------------------------------

EXPOSITION = """\
# HELP litellm_deployment_state state
litellm_deployment_state{api_base="http://h",litellm_model_name="qwen",model_id="qwen/vllm/0"} 2.0
litellm_deployment_cooled_down_total{exception_status="500",model_id="qwen/vllm/0"} 2.0
litellm_deployment_cooled_down_total{exception_status="408",model_id="qwen/vllm/0"} 1.0
litellm_deployment_cooled_down_created{exception_status="408",model_id="qwen/vllm/0"} 1.7e+09
litellm_deployment_successful_fallbacks_total{requested_model="qwen",fallback_model="dolphin"} 4.0
litellm_deployment_successful_fallbacks_total{requested_model="x\\"y",fallback_model="dolphin"} 1.0
litellm_deployment_failed_fallbacks_total{requested_model="qwen",fallback_model="dolphin"} NaN
litellm_deployment_stateful 1
"""


def test_figures_out_of_its_exposition() -> None:
    found = figures(EXPOSITION, ["qwen", "dolphin"])
    assert found.deployments == {"qwen/vllm/0": 2}
    assert found.cooldowns == {"qwen/vllm/0": 3}
    assert found.fallbacks == {"qwen": 4, OTHER: 1}
    assert found.failed_fallbacks == {}


def test_labels_are_bounded() -> None:
    lines = [f'litellm_deployment_state{{model_id="m{n}"}} 0' for n in range(3 * MOST)]
    assert len(figures("\n".join(lines), []).deployments) == MOST + 1


async def test_figures_are_read_by_the_watcher() -> None:
    world = GatewayWorld()
    world.proxy.exposition = EXPOSITION
    async with watched(world) as rig:
        assert rig.status.figures is not None
        assert rig.status.figures.cooldowns == {"qwen/vllm/0": 3}


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_section_of_a_generated_file() -> None:
    text = """\
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
agentd:
  version: 1
  expected_models: [qwen, dolphin]
  slots:
    qwen: {service: q, slot: gpu0, when_absent: wait, fallbacks: [dolphin]}
"""
    found = read_section(parse(text, "f"))
    assert found is not None
    assert (found.expected, found.key_variable) == (("dolphin", "qwen"), "LITELLM_MASTER_KEY")
    assert [(a.model, a.service, a.slot, a.when_absent) for a in found.absentees] == [("qwen", "q", "gpu0", "wait")]


@pytest.mark.parametrize("text", ["", "a: 1\n", "agentd: 1\n", "agentd: {expected_models: x}\n", "[1]\n"])
def test_a_file_of_somebody_else_has_none(text: str) -> None:
    assert read_section(parse(text, "f")) is None
