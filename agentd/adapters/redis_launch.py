"""How a process was started: its unit from its cgroup, and what systemd says of that unit.

busctl is asked, not the daemon's own bus: a store's unit may be the other manager's, and offline commands have no bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from agentd import paths
from agentd.adapters.inspect_cgroup import file_text
from agentd.adapters.inspect_process import parse_stat, started_at
from agentd.adapters.systemd_props import NAME, SERVICE, unit_path
from agentd.core import procfs
from agentd.stores import Launch

DEADLINE = 5.0
"""Seconds for each question to systemd."""
SERVERS = ("redis-server", "valkey-server")
_SEARCHED = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_USER_MANAGER = re.compile(r"/user@(\d+)\.service/")
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Process:
    """What procfs shows of it, also to other users; `program` only to its own."""

    launch: Launch
    program: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """A unit's ExecStart= and main process, as systemd has them."""

    commands: tuple[tuple[str, tuple[str, ...]], ...]
    """(program, argv with the program first)."""
    main_pid: int
    exact: bool
    """The words are systemd's own, not guessed from a line of text."""


def look(pid: int, proc: str = "/proc") -> Process:
    """Blocks, as procfs does: hardly. The launch is without its argv."""
    stat = parse_stat(file_text(f"{proc}/{pid}/stat")) if pid > 0 else None
    if stat is None:
        return Process(Launch(problem=f"no process {pid} can be seen on this machine"))
    started = started_at(stat)
    group = procfs.cgroup_path(file_text(f"{proc}/{pid}/cgroup"))
    unit = procfs.unit_of_cgroup(group)
    managers = _USER_MANAGER.findall(group)
    launch = Launch(unit=unit, scope="user" if managers else "system", started=started)
    program = ""
    with contextlib.suppress(OSError):
        program = os.readlink(f"{proc}/{pid}/exe").removesuffix(_DELETED)  # noqa: PTH115
    if not unit:
        launch = Launch(started=started, problem=f"process {pid} belongs to no unit of systemd")
    elif not unit.endswith(".service"):
        launch = replace(launch, problem=f"process {pid} belongs to {unit}, which does not say how it was started")
    elif managers and int(managers[-1]) != os.getuid():
        launch = replace(launch, problem=f"{unit} belongs to the systemd of user {managers[-1]}, which we cannot ask")
    return Process(launch, program)


async def with_arguments(process: Process, pid: int) -> Launch:
    """The launch with the unit's argv, or with the reason why that is not known."""
    launch = process.launch
    if launch.problem:
        return launch
    found = await _by_busctl(launch) or await _by_systemctl(launch)
    if found is None:
        return replace(launch, problem=f"systemd does not say how it starts {launch.unit}")
    return await asyncio.to_thread(judged, process, pid, found)


def judged(process: Process, pid: int, found: Started) -> Launch:
    """Blocks: the program's path is resolved."""
    launch = process.launch
    if len(found.commands) != 1:
        return replace(launch, problem=f"{launch.unit} has {len(found.commands)} ExecStart= commands")
    program, argv = found.commands[0]
    if not _is_server(program, process.program):
        return replace(launch, problem=f"{launch.unit} starts {program}, which starts the server in its own way")
    if found.main_pid and found.main_pid != pid:
        return replace(launch, problem=f"the main process of {launch.unit} is {found.main_pid}, not {pid}")
    problem = ""
    variables = [word for word in argv if "$" in word]
    if variables:
        problem = f"ExecStart= of {launch.unit} holds a variable that systemd replaces: {variables[0]}"
    elif not found.exact:
        problem = f"ExecStart= of {launch.unit} is only known without its quotes, so words may be split wrongly"
    return replace(launch, argv=argv, problem=problem)


def _is_server(program: str, running: str) -> bool:
    """Debian's redis-server is a link to redis-check-rdb, and whether it is the same file only its own user sees."""
    if not running:
        return PurePath(program).name in SERVERS
    # A name alone is looked up by systemd, each time that it starts the unit.
    places = (program,) if program.startswith("/") else tuple(f"{place}/{program}" for place in _SEARCHED)
    return running in map(os.path.realpath, places)


async def _by_busctl(launch: Launch) -> Started | None:
    words = ("--json=short", "get-property", NAME, unit_path(launch.unit), SERVICE, "ExecStart", "MainPID")
    text = await _ask("busctl", f"--{launch.scope}", *words)
    return parse_busctl(text) if text else None


async def _by_systemctl(launch: Launch) -> Started | None:
    words = ("show", "--property=ExecStart", "--property=MainPID", "--", launch.unit)
    text = await _ask("systemctl", f"--{launch.scope}", *words)
    return parse_systemctl(text) if text else None


def parse_busctl(text: str) -> Started | None:
    """Two lines of JSON: {"type": "a(sasbttttuii)", "data": [[PATH, [WORD, ...], ...], ...]} and the main pid."""
    try:
        commands, main = (json.loads(line)["data"] for line in text.splitlines())
        found = tuple((str(path), tuple(map(str, argv))) for path, argv, *_ in commands)
        return Started(found, int(main), exact=True)
    except (ValueError, KeyError, TypeError):
        return None


def parse_systemctl(text: str) -> Started | None:
    """ "ExecStart={ path=P ; argv[]=WORDS ; ignore_errors=no ; ... }", a line for each command. One blank stands
    between two words, so that an empty word can be told, and a blank within one cannot."""
    commands = re.findall(r"^ExecStart=\{ path=(.*?) ; argv\[\]=(.*?) ; ignore_errors=", text, re.MULTILINE | re.DOTALL)
    main = re.search(r"^MainPID=(\d+)$", text, re.MULTILINE)
    if main is None:
        return None
    return Started(tuple((path, tuple(argv.split(" "))) for path, argv in commands), int(main[1]), exact=False)


async def _ask(*argv: str) -> str:
    """What it prints; "" when it is missing, fails, or does not answer in time."""
    return await _output(argv, {**os.environ, "XDG_RUNTIME_DIR": str(paths.user_runtime_dir()), "LC_ALL": "C"})


async def _output(argv: Sequence[str], env: dict[str, str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(DEADLINE):
            out, _ = await process.communicate()
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    return out.decode(errors="replace") if process.returncode == 0 else ""
