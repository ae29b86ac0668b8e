"""Another user's manager, or our own, looked at for `agentctl host-setup`: by the bus where it answers us, else by the
files that root may read without one."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agentd.adapters.bus_transport import bus_address, socket_path
from agentd.adapters.inspect_host import read_host, user_namespaces
from agentd.adapters.systemd import SystemdControl
from agentd.errors import AgentdError
from agentd.evidence import HostEvidence
from agentd.types import Scope

_BUS_PATIENCE = 2.0
_LINGER = "var/lib/systemd/linger"


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int
    home: str


def account(name: str) -> Account:
    """By name or number. Raises AgentdError("user-not-found")."""
    try:
        found = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError, ValueError):
        raise AgentdError("user-not-found", f'no user "{name}" on this host', hint="see: getent passwd") from None
    return Account(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)


def look(who: Account, *, root: Path = Path("/")) -> HostEvidence:
    """The user's manager: asked over the user's own bus, else by its files, which root reads without a bus."""
    asked = asyncio.run(_ask_manager()) if who.uid == os.geteuid() else None
    group = f"/user.slice/user-{who.uid}.slice/user@{who.uid}.service"
    host = read_host(Scope.USER, asked if asked is not None else told_by_files(group))
    if who.uid == os.getuid():
        return replace(host, linger=_lingers(who, root))
    allowed, reason = user_namespaces(who.uid, host.sysctls)
    return replace(
        host, uid=who.uid, home=who.home, linger=_lingers(who, root), userns_allowed=allowed, userns_reason=reason
    )


@contextmanager
def rights_of(who: Account) -> Iterator[None]:
    """Root reads the user's files with the user's rights: a link there must not lead further than the user may go."""
    if os.geteuid() != 0 or who.uid == 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(who.gid)
    os.seteuid(who.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def told_by_files(control_group: str) -> dict[str, object]:
    """What the manager would say of itself, as far as it can be known without it."""
    said: list[str] = []
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=10, check=False)
        said = done.stdout.splitlines()
    version = said[0].split()[1] if said and len(said[0].split()) > 1 else ""
    features = said[1] if len(said) > 1 else ""
    return {"ControlGroup": control_group, "Version": version, "Features": features}


def _lingers(who: Account, root: Path) -> bool | None:
    try:
        return who.name in os.listdir(root / _LINGER)  # noqa: PTH208 - names are all there is to it
    except FileNotFoundError:
        return False
    except OSError:
        return None


async def _ask_manager() -> Mapping[str, object] | None:
    """None when there is no bus to ask."""
    if not os.path.exists(socket_path(bus_address(Scope.USER))):  # noqa: ASYNC240, PTH110  (nothing else runs here)
        return None
    control = SystemdControl(Scope.USER)
    try:
        await control.start_up(_BUS_PATIENCE)
        return await control.manager() if control.connected else None
    except AgentdError:
        return None
    finally:
        await control.close()
