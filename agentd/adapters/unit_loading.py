"""The user's manager, asked by a short-lived command: whether it knows a unit, and to load what was written."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from agentd.adapters.bus_transport import bus_address, socket_path
from agentd.adapters.systemd import SystemdControl
from agentd.errors import AgentdError
from agentd.types import Scope, UnitState

BUS_PATIENCE = 5.0
NO_SYSTEMD = "systemd could not be asked; once it runs: systemctl --user daemon-reload"

TRY_SECONDS = 20.0
_SEEN = 'test -s "$CREDENTIALS_DIRECTORY/key"'
_Answer = TypeVar("_Answer")


def reachable() -> bool:
    return os.path.exists(socket_path(bus_address(Scope.USER)))  # noqa: PTH110 - also an abstract one


async def _with_systemd(ask: Callable[[SystemdControl], Awaitable[_Answer]]) -> _Answer | None:
    """None when there is no manager to ask."""
    if not reachable():
        return None
    control = SystemdControl(Scope.USER)
    try:
        await control.start_up(BUS_PATIENCE)
        return await ask(control) if control.connected else None
    finally:
        await control.close()


def states(*units: str) -> Mapping[str, UnitState]:
    """What systemd says of them; nothing when it cannot be asked: then nothing runs that it would know."""

    async def ask(control: SystemdControl) -> Mapping[str, UnitState]:
        return {unit: await control.show(unit) for unit in units}

    return asyncio.run(_with_systemd(ask)) or {}


def load(unit: str, *, only_due: bool = False) -> tuple[str, ...]:
    """daemon-reload, and the unit has to be one that systemd takes. Raises AgentdError("unit-not-loaded")."""

    async def ask(control: SystemdControl) -> tuple[str, ...]:
        state = await control.show(unit) if unit else None
        if only_due and state is not None and state.load_state == "loaded" and not state.need_daemon_reload:
            return ()
        await control.reload()
        state = await control.show(unit) if unit else None
        if state is not None and state.load_state != "loaded":
            why = f"{state.load_state}{': ' + state.load_error if state.load_error else ''}"
            raise AgentdError("unit-not-loaded", f"systemd does not take {unit}: {why}; nothing was changed")
        return ()

    done = asyncio.run(_with_systemd(ask))
    return (NO_SYSTEMD,) if done is None else done


def hands_over(credential: str) -> bool:
    """Whether a service of the user's manager finds this file as a credential: some managers give an empty directory.
    True when there is no manager to try it on."""
    if not reachable():
        return True
    told = f"--property=LoadCredential=key:{credential.replace('%', '%%')}"
    command = ["systemd-run", "--user", "--wait", "--collect", "--quiet", told, "/bin/sh", "-c", _SEEN]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TRY_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
