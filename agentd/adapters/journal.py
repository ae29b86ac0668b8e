"""The last journal lines of a unit, by journalctl: it knows every place and format that journald uses."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from agentd.adapters import child
from agentd.core.redact import redact
from agentd.types import Scope

log = logging.getLogger(__name__)

Entry = dict[str, Any]
TIMEOUT = 5.0
LONGEST = 2000
"""Characters of one message that are kept."""
HISTORY = 1000
"""Lines before the present one that following a unit looks at."""
INVOCATIONS = ("_SYSTEMD_INVOCATION_ID", "USER_INVOCATION_ID", "INVOCATION_ID")
FIELDS = ",".join(("MESSAGE", "_PID", *INVOCATIONS))
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class JournalctlReader:
    """The JournalReader port. Values that look like secrets are hidden before anybody sees a line."""

    def __init__(self, scope: Scope = Scope.USER, *, command: Sequence[str] = ("journalctl",)) -> None:
        self._scope = scope
        self._command = tuple(command)

    async def tail(self, unit: str, *, lines: int, invocation: str = "", pid: int = 0) -> tuple[str, ...]:
        if lines <= 0:
            return ()
        # Lines of other runs may lie between: read more than asked for when only one run is wanted.
        wanted = lines * 4 if invocation else lines
        output = await self._run(["-n", str(wanted), *matches(self._scope, unit, pid)])
        entries = [entry for entry in map(_parse, output.splitlines()) if entry is not None]
        if invocation:
            entries = of_invocation(entries, invocation, pid)
        texts = [message(entry) for entry in entries]
        return tuple([text for text in texts if text][-lines:])

    async def follow(self, unit: str, *, invocation: str = "", pid: int = 0) -> AsyncGenerator[str, None]:
        # A process that waits for the next line would not notice that we are gone.
        process = await self._start(
            ["--follow", "-n", str(HISTORY), *matches(self._scope, unit, pid)], before=child.bound_to_us()
        )
        if process is None:
            return
        assert process.stdout is not None
        wanted = Invocation(invocation, pid)
        async with child.killed_after(process), aclosing(child.lines(process.stdout)) as lines:
            async for line in lines:
                entry = _parse(line)
                if entry is not None and wanted.has(entry) and (text := message(entry)):
                    yield text
                # Lines that are there already come without a wait, and everybody else must have a turn.
                await asyncio.sleep(0)

    async def _run(self, arguments: list[str]) -> bytes:
        process = await self._start(arguments)
        if process is None:
            return b""
        async with child.killed_after(process):
            try:
                async with asyncio.timeout(TIMEOUT):
                    return (await process.communicate())[0]
            except TimeoutError:
                log.warning("cannot read the journal: journalctl did not finish within %g s", TIMEOUT)
                return b""

    async def _start(self, arguments: list[str], *, before: Sequence[str] = ()) -> Process | None:
        options = ("--no-pager", "--quiet", "--output=json", f"--output-fields={FIELDS}", "--all")
        program = shutil.which(self._command[0])
        if program is None:
            log.debug("cannot run journalctl: there is none")
            return None
        try:
            return await asyncio.create_subprocess_exec(
                *before,
                program,
                *self._command[1:],
                *options,
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            )
        except OSError as error:
            log.debug("cannot run journalctl: %s", error.strerror)
            return None


def matches(scope: Scope, unit: str, pid: int = 0) -> list[str]:
    """journalctl's match expression: what the unit's processes said, or what systemd said of the unit.

    Where journald cannot tell from the cgroup that it is a user's unit, it files the line under _SYSTEMD_UNIT, so
    that is looked at too, for our own uid only. What a process of a user's unit says just before its end belongs to no
    unit at all, once its cgroup is gone when journald looks: hence `pid`.
    """
    if scope is Scope.SYSTEM:
        return [f"_SYSTEMD_UNIT={unit}", "+", "_PID=1", f"UNIT={unit}"]
    own = f"_UID={os.getuid()}"
    expression: list[str] = []
    for name in ("_SYSTEMD_USER_UNIT", "_SYSTEMD_UNIT", "USER_UNIT"):
        expression += [*(["+"] if expression else []), f"{name}={unit}", own]
    return [*expression, "+", f"_PID={pid}", own] if pid else expression


def of_invocation(entries: Sequence[Entry], invocation: str, pid: int = 0) -> list[Entry]:
    """The entries of one run of the unit. One without an id is of its main process `pid`, or belongs to the run of the
    entry before it."""
    ids = [_invocation(entry) for entry in entries]
    current = next((one for one in ids if one), invocation)
    found: list[Entry] = []
    for entry, one in zip(entries, ids, strict=True):
        current = one or current
        if current == invocation or (not one and pid and entry.get("_PID") == str(pid)):
            found.append(entry)
    return found


class Invocation:
    """As `of_invocation`, line by line. What comes before the first id is taken only when it is of the main process:
    it may be of the run before."""

    def __init__(self, invocation: str, pid: int = 0) -> None:
        self._wanted = invocation
        self._pid = str(pid) if pid else ""
        self._current = ""

    def has(self, entry: Entry) -> bool:
        if not self._wanted:
            return True
        own = _invocation(entry)
        self._current = own or self._current
        return self._current == self._wanted or (not own and bool(self._pid) and entry.get("_PID") == self._pid)


def message(entry: Entry) -> str:
    """The entry's text, clean and without secrets; "" when there is none."""
    text = _CONTROL.sub(" ", _ESCAPES.sub("", _text(entry.get("MESSAGE")))).strip("\n").rstrip()
    return redact(text[:LONGEST])


def _invocation(entry: Entry) -> str:
    return next((str(entry[name]) for name in INVOCATIONS if entry.get(name)), "")


def _parse(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _text(value: Any) -> str:
    """journalctl writes text as a string, other bytes as a list of numbers, a repeated field as a list of both."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, int) and 0 <= item < 256 for item in value):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, list):
        return "\n".join(_text(item) for item in value)
    return ""
