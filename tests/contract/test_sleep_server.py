"""What agentd asks of a server that may sleep, asked of the fake and of the stand-in: the same answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.test_standins import Rig, wait_for
from fakes.rig import sleepers

from agentd.adapters.probe import NetworkProber
from agentd.core.schema import Model
from agentd.errors import AgentdError
from agentd.managers.models.admin import Admin, SleepError
from agentd.managers.models.context import ModelUnit, Ports


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.behave("qwen")
    yield made
    made.close()


async def tells_and_sleeps(admin: Admin, level: int) -> None:
    assert await admin.version() == "0.33.0"
    assert (await admin.sleeping(), await admin.paused()) == (False, False)
    text = await admin.say(5.0)
    assert text
    assert await admin.say(5.0) == text
    await admin.hold("wait", 5.0)
    assert (await admin.sleeping(), await admin.paused()) == (False, True), "paused is not asleep, whatever it says"
    await admin.sleep(level, 5.0)
    assert (await admin.sleeping(), await admin.level()) == (True, level)
    with pytest.raises(AgentdError, match="503"):
        await admin.say(5.0)
    assert await admin.healthy(), "which is why a sleeper is asked, and not believed"
    assert await admin.served_names() == ("qwen",)
    assert (await admin.busy()).requests == 0
    await admin.wake(level, 5.0)
    await admin.resume()
    assert (await admin.sleeping(), await admin.paused()) == (False, False)
    assert await admin.say(5.0) == text


async def has_no_admin_endpoints(admin: Admin) -> None:
    assert (await admin.sleeping(), await admin.paused(), await admin.level()) == (None, None, 0)
    for call in (admin.hold("wait", 5.0), admin.sleep(1, 5.0), admin.wake(1, 5.0)):
        with pytest.raises(SleepError, match="404"):
            await call
    assert await admin.say(5.0)


async def of_the_fake(*, dev_mode: bool) -> Admin:
    r = await sleepers()
    r.world.models["qwen"].dev_mode = dev_mode
    return Admin(r.manager._ports, r.manager._owners["gpu0"].ctx.models["qwen"])


async def of_the_stand_in(rig: Rig, prober: NetworkProber, *, dev_mode: bool) -> Admin:
    rig.vllm("--enable-sleep-mode", VLLM_SERVER_DEV_MODE="1" if dev_mode else "0")
    wait_for(rig.up)
    model = ModelUnit("qwen", "vllm-qwen.service", f"http://127.0.0.1:{rig.port}", Model("gpu0", "qwen"))
    unused = {field.name: None for field in dataclasses.fields(Ports)}
    return Admin(Ports(**{**unused, "prober": prober}), model)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [1, 2, 0])
async def test_the_fake_sleeps_and_wakes(level: int) -> None:
    admin = await of_the_fake(dev_mode=True)
    if level:
        await tells_and_sleeps(admin, level)
    else:
        await admin.sleep(1, 5.0)
        await admin.wake(0, 5.0)
        assert await admin.sleeping() is False


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.allows_blocking
async def test_the_stand_in_sleeps_and_wakes(rig: Rig, level: int) -> None:
    prober = NetworkProber()
    try:
        await tells_and_sleeps(await of_the_stand_in(rig, prober, dev_mode=True), level)
    finally:
        await prober.close()


async def test_the_fake_without_dev_mode() -> None:
    await has_no_admin_endpoints(await of_the_fake(dev_mode=False))


@pytest.mark.allows_blocking
async def test_the_stand_in_without_dev_mode(rig: Rig) -> None:
    prober = NetworkProber()
    try:
        await has_no_admin_endpoints(await of_the_stand_in(rig, prober, dev_mode=False))
    finally:
        await prober.close()
