"""A service that the configuration or a profile of use switches off: looked at, but never missed and never started."""

from __future__ import annotations

import pytest
from fakes.units import Behaviour
from unit.test_units_manager import rig, up, web

from agentd.core.schema import Recovery, Seconds, Service
from agentd.core.status_line import status_line
from agentd.types import Health

SOON = Recovery(base=Seconds(1.0), max=Seconds(1.0))


@pytest.mark.parametrize(("enabled", "health"), [(True, Health.DEGRADED), (False, Health.READY)])
async def test_what_depends_on_it_is_not_degraded(enabled: bool, health: Health) -> None:
    it = await rig({"web": web(depends_on=("store",)), "store": Service(unit="store.service", enabled=enabled)})
    await up(it)
    assert it.service().health is health
    assert it.service("store").enabled is enabled


@pytest.mark.parametrize("enabled", [True, False])
async def test_it_is_not_brought_back(enabled: bool) -> None:
    it = await rig({"web": web(enabled=enabled, recovery=SOON)})
    it.world.units.units["web.service"].behaviour = Behaviour(exit_on_start=1, restart=True, restart_seconds=0.1)
    await it.world.units.start("web.service")
    await it.world.clock.advance(30.0)
    assert it.service().health is Health.FAILED
    assert ("service.backoff" in it.kinds()) is enabled
    assert ("not ready: web" in status_line([], [it.service()], config_invalid=False)) is enabled
