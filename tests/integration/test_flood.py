"""200 units that flap, 10 of them supervised: the loop stays free and the picture stays right."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest
from privatebus import LIBRARIES, LagMeter
from userunits import UserUnits, eventually, systemctl_aside

from agentd.adapters.systemd import SystemdControl
from agentd.types import ActiveState, UnitState

FLAPPING, SUPERVISED = 200, 10
SECONDS = 5
TEMPLATE = """[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/bin/sleep 1
Restart=always
RestartSec=100ms
"""


class Picture:
    """Reads a unit again when it is said to have changed, as a manager does: never two reads of one at once."""

    def __init__(self, systemd: SystemdControl) -> None:
        self.states: dict[str, UnitState] = {}
        self.reads = 0
        self._systemd = systemd
        self._stale: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        systemd.on_change(self._changed)

    def _changed(self, unit: str | None) -> None:
        if unit is not None:
            self._stale.add(unit)
            if unit not in self._tasks:
                self._tasks[unit] = asyncio.create_task(self._read(unit))

    async def _read(self, unit: str) -> None:
        while unit in self._stale:
            self._stale.discard(unit)
            self.reads += 1
            self.states[unit] = await self._systemd.show(unit)
        del self._tasks[unit]


@pytest.fixture
def units() -> Iterator[UserUnits]:
    made = UserUnits(f"flood{os.getpid()}")
    yield made
    made.remove()


@pytest.mark.parametrize("library", LIBRARIES)
async def test_200_flapping_units(units: UserUnits, library: str) -> None:
    units.write("@.service", TEMPLATE)
    names = [f"{units.prefix}-@{number}.service" for number in range(FLAPPING)]
    supervised = names[:SUPERVISED]
    systemd = SystemdControl(library=library)
    await systemd.start_up()
    picture = Picture(systemd)
    await systemd.watch(supervised)
    await systemctl_aside("daemon-reload")
    await systemctl_aside("start", "--no-block", *names)
    await eventually(lambda: len(picture.states) == SUPERVISED, 20)

    cpu = time.process_time()
    async with LagMeter() as lag:
        await asyncio.sleep(SECONDS)
    cpu = (time.process_time() - cpu) / SECONDS
    seen = {state.restarts for state in picture.states.values()}
    print(
        f"\n{library}: {picture.reads} reads, lag p99 {lag.p99 * 1e3:.0f} ms, worst {lag.worst * 1e3:.0f} ms, "
        f"{cpu:.1%} of a core, restarts seen {min(seen)}-{max(seen)}"
    )
    assert min(seen) >= 1, "the units must really flap, and be seen to"
    assert lag.p99 < 0.5, "a starved loop stands still for as long as the flood lasts, a busy machine for tenths"

    job = await systemd.stop(supervised[0])
    await job.wait(10)
    await systemctl_aside("stop", *names)
    took = await eventually(lambda: all(s.active_state is ActiveState.INACTIVE for s in picture.states.values()), 1)
    assert took < 1
    await systemd.close()
