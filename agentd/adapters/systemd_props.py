"""systemd's names and properties as ours: object paths, match rules, UnitState. Nothing here talks to the bus."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from agentd.core.vram_budget import expanded
from agentd.errors import AgentdError
from agentd.types import ActiveState, UnitState

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "org.freedesktop.systemd1.Unit"
SERVICE = "org.freedesktop.systemd1.Service"
JOB = "org.freedesktop.systemd1.Job"
PROPERTIES = "org.freedesktop.DBus.Properties"
BUS = "org.freedesktop.DBus"

UNIT_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Description",
    "UnitFileState",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
    "InvocationID",
    "ActiveEnterTimestamp",
    "Conflicts",
    "After",
    "LoadError",
)
SERVICE_PROPERTIES = (
    "MainPID",
    "ExecMainPID",
    "ControlGroup",
    "Result",
    "ExecMainCode",
    "ExecMainStatus",
    "NRestarts",
    "ExecStart",
    "Environment",
    "MemoryMax",
)
_UNLIMITED = 2**64 - 1

_SUFFIXES = (
    ".service",
    ".socket",
    ".target",
    ".timer",
    ".path",
    ".slice",
    ".scope",
    ".mount",
    ".automount",
    ".swap",
    ".device",
)
_LONGEST_NAME = 255
_ALLOWED = frozenset(string.ascii_letters + string.digits + ":-_.\\@")
_UNIT_PATH = PATH + "/unit/"


def checked_name(unit: str) -> str:
    """The name itself. Raises AgentdError("unit-invalid") for what systemd would not take as a unit's name."""
    stem = unit.removesuffix(next((end for end in _SUFFIXES if unit.endswith(end)), unit))
    if not stem or len(unit) > _LONGEST_NAME or not all(char in _ALLOWED for char in stem):
        raise AgentdError(
            "unit-invalid", f"cannot use {unit!r} as a unit: not a full unit name", hint="write it as NAME.service"
        )
    return unit


def unit_path(unit: str) -> str:
    """The object path of a unit. systemd answers on it for units that are not loaded, too."""
    escaped = "".join(
        char if char in string.ascii_letters or (char in string.digits and index > 0) else f"_{ord(char):02x}"
        for index, char in enumerate(unit)
    )
    return _UNIT_PATH + escaped


def manager_rule(member: str) -> str:
    return f"type='signal',sender='{NAME}',path='{PATH}',interface='{MANAGER}',member='{member}'"


def owner_rule() -> str:
    return f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{NAME}'"


def unit_rule(path: str) -> str:
    """Property changes of one object only: filtering in the dbus-daemon costs us nothing."""
    return f"type='signal',sender='{NAME}',path='{path}',interface='{PROPERTIES}',member='PropertiesChanged'"


def unit_state(name: str, unit: Mapping[str, Any], service: Mapping[str, Any]) -> UnitState:
    """`service` is empty for units of other types."""
    error = unit.get("LoadError") or ("", "")
    return UnitState(
        name=name,
        load_state=unit.get("LoadState", "not-found"),
        active_state=ActiveState.parse(unit.get("ActiveState", "")),
        sub_state=unit.get("SubState", ""),
        description=unit.get("Description", ""),
        unit_file_state=unit.get("UnitFileState", ""),
        fragment_path=unit.get("FragmentPath", ""),
        dropin_paths=tuple(unit.get("DropInPaths", ())),
        need_daemon_reload=bool(unit.get("NeedDaemonReload", False)),
        main_pid=service.get("MainPID", 0),
        exec_pid=service.get("ExecMainPID", 0),
        control_group=service.get("ControlGroup", ""),
        result=service.get("Result", "success"),
        exec_code=service.get("ExecMainCode", 0),
        exec_status=service.get("ExecMainStatus", 0),
        restarts=service.get("NRestarts", 0),
        invocation_id=bytes(unit.get("InvocationID", b"")).hex(),
        active_since=unit.get("ActiveEnterTimestamp", 0) / 1e6,
        conflicts=frozenset(unit.get("Conflicts", ())),
        after=frozenset(unit.get("After", ())),
        load_error=error[1],
        exec_start=_command(service),
        memory_max=_limit(service.get("MemoryMax", _UNLIMITED)),
    )


def _command(service: Mapping[str, Any]) -> tuple[str, ...]:
    """argv of the last ExecStart=, which of a service that is no oneshot is the only one."""
    commands = service.get("ExecStart") or ()
    argv = commands[-1][1] if commands else ()
    return expanded(tuple(argv), tuple(service.get("Environment") or ()))


def _limit(value: int) -> int | None:
    return value if value < _UNLIMITED else None


def brief_state(name: str, row: Sequence[Any]) -> UnitState:
    """A row of ListUnitsByNames."""
    return UnitState(
        name=name,
        description=row[1],
        load_state=row[2],
        active_state=ActiveState.parse(row[3]),
        sub_state=row[4],
        job=row[8],
    )
