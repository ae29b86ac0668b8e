"""PRECHECK's look at the target's files, and models that answer on a unix socket; in virtual time on fakes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest
from fakes.rig import Rig, manager_of, rig, settings
from fakes.world import FakeWorld

from agentd.core.schema import Model, Settings
from agentd.errors import AgentdError
from agentd.managers.models.precheck_files import HEADERS_SECONDS
from agentd.ports_models import CheckedFiles, FileProblem
from agentd.types import Outcome
from agentd.wire import SwitchRequest

TORN = FileProblem("/models/dolphin/model.safetensors", "ends after 3 of 4 bytes", "fetch the file again")
SOCKET = "/run/user/1000/vllm/dolphin.sock"


async def files(made: Rig) -> list[tuple[bool, str]]:
    plan = await made.manager.plan(SwitchRequest("dolphin"))
    return [(item.ok, item.detail) for item in plan.checks if item.check == "files"]


def with_model(config: Settings, **values: object) -> Settings:
    """The same with other settings of dolphin's model."""
    service = config.services["dolphin"]
    assert isinstance(service.model, Model)
    changed = msgspec.structs.replace(service, model=msgspec.structs.replace(service.model, **values))
    return msgspec.structs.replace(config, services={**config.services, "dolphin": changed})


async def test_a_torn_file_is_refused_before_the_running_model_is_touched() -> None:
    made = await rig()
    before = made.world.models["qwen"].pid
    made.world.weights.problems["/models/dolphin"] = (TORN,)
    change = await made.switch("dolphin")
    assert change.outcome is Outcome.REFUSED
    assert (
        "the files of dolphin are not whole: /models/dolphin/model.safetensors ends after 3 of 4 bytes"
        in change.message
    )
    assert "agentctl models verify dolphin" in change.message
    assert made.world.models["qwen"].pid == before


async def test_many_problems_are_counted() -> None:
    made = await rig()
    made.world.weights.problems["/models/dolphin"] = tuple(replace(TORN, path=f"/m/{n}") for n in range(9))
    [(ok, detail)] = await files(made)
    assert not ok
    assert "; and 6 more" in detail


async def test_whole_files_are_told_with_their_size() -> None:
    made = await rig()
    made.world.weights.sizes["/models/dolphin"] = 14 * 1024**3
    assert await files(made) == [(True, "the files of dolphin are whole (1 file of weights, 14G)")]
    assert made.world.weights.checked == [("/models/dolphin", False)]


@pytest.mark.parametrize(("mode", "checked"), [("headers", [False]), ("checksums", [True]), ("none", [])])
async def test_the_configuration_says_how_closely(mode: str, checked: list[bool]) -> None:
    made = await rig()
    made.world.weights.problems["/models/dolphin"] = (TORN,)
    await made.manager.apply(with_model(settings(), check_files=mode))
    change = await made.switch("dolphin")
    assert [how for path, how in made.world.weights.checked if path == "/models/dolphin"] == checked
    assert change.outcome is (Outcome.REFUSED if checked else Outcome.DONE)


async def test_a_dry_run_reads_headers_alone() -> None:
    """Somebody waits for its answer, a minute at most."""
    made = await rig()
    made.world.weights.sizes["/models/dolphin"] = 14 * 1024**3
    await made.manager.apply(with_model(settings(), check_files="checksums"))
    [(ok, detail)] = await files(made)
    assert (ok, made.world.weights.checked) == (True, [("/models/dolphin", False)])
    assert detail.endswith("14G); checksums are compared by the switch itself")


async def test_a_dry_run_on_a_slow_disk_ends_as_with_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await rig()
    await made.manager.apply(with_model(settings(), check_files="checksums"))

    async def slow(path: str, *, checksums: bool = False) -> CheckedFiles:
        await asyncio.sleep(600)
        return CheckedFiles(1, 0)

    monkeypatch.setattr(made.world.weights, "check", slow)
    begun = made.world.clock.monotonic()
    await files(made)
    assert made.world.clock.monotonic() - begun < HEADERS_SECONDS + 1


async def test_checksums_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes of reading, where PRECHECK else ends after seconds."""
    made = await rig()
    await made.manager.apply(with_model(settings(), check_files="checksums"))

    async def slow(path: str, *, checksums: bool = False) -> CheckedFiles:
        await asyncio.sleep(600)
        return CheckedFiles(2, 4 * 1024**3, checksums=2)

    monkeypatch.setattr(made.world.weights, "check", slow)
    change = await made.switch("dolphin")
    assert change.outcome is Outcome.DONE, change.message
    assert change.phases[0].seconds >= 600  # type: ignore[operator]


async def test_a_slow_disk_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await rig()

    async def slow(path: str, *, checksums: bool = False) -> CheckedFiles:
        await asyncio.sleep(3600)
        return CheckedFiles(1, 0, (TORN,))

    monkeypatch.setattr(made.world.weights, "check", slow)
    begun = made.world.clock.monotonic()
    assert await files(made) == [(True, f"the files of dolphin could not be checked within {HEADERS_SECONDS:g} s")]
    assert made.world.clock.monotonic() - begun < HEADERS_SECONDS + 1
    assert (await made.switch("dolphin")).outcome is Outcome.DONE


async def test_a_disk_that_hangs_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await rig()

    async def stuck(path: str, *, checksums: bool = False) -> CheckedFiles:
        raise AgentdError("file-stuck", f"cannot check the files of {path}: the kernel did not answer")

    monkeypatch.setattr(made.world.weights, "check", stuck)
    assert await files(made) == [(True, "cannot check the files of /models/dolphin: the kernel did not answer")]


# -- unix sockets ---------------------------------------------------------------------------------------------------


async def socketed(resident: str = "qwen") -> Rig:
    """As `rig`, but dolphin answers on a socket."""
    world = FakeWorld()
    world.add_model("qwen", 8001, vram=14 * 1024**3, load=4.0)
    world.add_model("dolphin", 0, url=f"http+unix://{SOCKET}", vram=14 * 1024**3, load=4.0)
    world.exclusive()
    for name in ("qwen", "dolphin"):
        await world.files.apply({f"/models/{name}": "weights"})
    world.serve_at_once(resident)
    base = settings()
    service = msgspec.structs.replace(base.services["dolphin"], url=f"http+unix://{SOCKET}")
    config = msgspec.structs.replace(base, services={**base.services, "dolphin": service})
    made = manager_of(world, config)
    await made.manager.start(config)
    return made


async def test_there_and_back_over_a_socket() -> None:
    made = await socketed()
    for target in ("dolphin", "qwen", "dolphin"):
        change = await made.switch(target)
        assert change.outcome is Outcome.DONE, change.message
    asked = [request for request in made.world.prober.requests if request.url.startswith("http+unix:")]
    assert {"/health", "/v1/models", "/v1/completions"} <= {request.path for request in asked}


async def test_a_stranger_on_the_socket_is_named() -> None:
    made = await socketed()
    made.world.kernel.sockets[SOCKET] = made.world.kernel.spawn("nc", unit="other.service")
    change = await made.switch("dolphin")
    assert change.outcome is Outcome.REFUSED
    assert f"socket {SOCKET} is taken by nc (pid " in change.message
    assert "other.service" in change.message


async def test_a_socket_that_nobody_may_look_into_is_a_strangers() -> None:
    made = await socketed()
    made.world.kernel.sockets[SOCKET] = 0
    change = await made.switch("dolphin")
    assert (change.outcome, "is taken by a stranger" in change.message) == (Outcome.REFUSED, True)


async def test_an_answer_on_the_socket_by_somebody_else_fails_the_start() -> None:
    made = await socketed()
    world = made.world

    def steal() -> None:
        world.models["dolphin"].ready = True
        world.kernel.sockets[SOCKET] = world.kernel.spawn("thief")

    world.models["dolphin"].never_ready = True
    change, _ = made.manager.switch(SwitchRequest("dolphin"))
    world.units.on_start.append(lambda unit, *_: steal() if "dolphin" in unit else None)
    change = await made.end(change)
    assert change.outcome is Outcome.ROLLED_BACK
    assert f"socket {SOCKET} is answered by thief" in change.message
