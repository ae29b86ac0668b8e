"""A new configuration told to the managers, and the TCP door at the start: one failure does not hold up the rest."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import cast

from agentd.api.server import ApiServer
from agentd.core.schema import Settings
from agentd.door import Door
from agentd.errors import AgentdError, BusError
from agentd.reload import tell


class Manager:
    def __init__(self, name: str, error: AgentdError | None = None) -> None:
        self.name = name
        self.told: list[Settings] = []
        self._error = error

    async def apply(self, settings: Settings) -> None:
        self.told.append(settings)
        if self._error is not None:
            raise self._error


async def test_every_manager_is_told_and_what_failed_is_said() -> None:
    settings = Settings()
    managers: Sequence[Manager] = (
        Manager("dropins", AgentdError("file-write", "cannot write x")),
        Manager("units", BusError("bus-down", "cannot reach systemd")),
        Manager("models", AgentdError("slot", "no such slot")),
        Manager("hardening"),
    )
    assert await tell(managers, settings) == "dropins: cannot write x; models: no such slot"
    assert all(manager.told == [settings] for manager in managers)
    assert await tell(managers[1::2], settings) == "", "what lacks systemd is made up for later"


class Api:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.taken = True

    async def listen(self, address: str) -> None:
        self.asked.append(address)
        if self.taken:
            raise AgentdError("listen-failed", f"cannot listen on {address}: address already in use")


async def test_a_taken_port_is_said_and_tried_again_by_every_pass() -> None:
    api, settings = Api(), Settings()
    door = Door(cast(ApiServer, api), (), lambda: settings)
    await door.ensure()
    assert api.asked == [], "the API has not started"
    assert await door.start() == f"cannot listen on {settings.daemon.listen}: address already in use"
    api.taken = False
    await door.ensure()
    assert api.asked == [settings.daemon.listen] * 2
    assert await Door(cast(ApiServer, api), (), lambda: settings).start() == ""


async def test_a_closed_door_opens_nothing_and_asks_no_closed_socket() -> None:
    api, settings = Api(), Settings()
    api.taken = False
    with socket.create_server(("127.0.0.1", 0)) as given:
        door = Door(cast(ApiServer, api), (given,), lambda: settings)
    await door.start()
    assert api.asked == [settings.daemon.listen], "systemd's socket was closed meanwhile, which is no error of ours"
    door.close()
    await door.ensure()
    await door.open(settings)
    assert api.asked == [settings.daemon.listen]
