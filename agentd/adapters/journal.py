"""The last journal lines of a unit, by journalctl: it knows every place and format that journald uses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from agentd.core.redact import redact
from agentd.types import Scope

log = logging.getLogger(__name__)

TIMEOUT = 5.0
LONGEST = 2000
"""Characters of one message that are kept."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class JournalctlReader:
    """The JournalReader port. Values that look like secrets are hidden before anybody sees a line."""

    def __init__(self, scope: Scope = Scope.USER, *, command: Sequence[str] = ("journalctl",)) -> None:
        self._scope = scope
        self._command = tuple(command)

    async def tail(self, unit: str, *, lines: int, invocation: str = "") -> tuple[str, ...]:
        if lines <= 0:
            return ()
        output = await self._run(["-n", str(lines), *matches(self._scope, unit, invocation)])
        texts = [message(entry) for entry in output.splitlines()]
        return tuple(text for text in texts if text)[-lines:]

    async def _run(self, arguments: list[str]) -> bytes:
        options = ("--no-pager", "--quiet", "--output=json", "--output-fields=MESSAGE", "--all")
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *options,
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            )
        except OSError as error:
            log.debug("cannot run journalctl: %s", error.strerror)
            return b""
        try:
            async with asyncio.timeout(TIMEOUT):
                return (await process.communicate())[0]
        except TimeoutError:
            log.warning("cannot read the journal: journalctl did not finish within %g s", TIMEOUT)
            return b""
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def matches(scope: Scope, unit: str, invocation: str) -> list[str]:
    """journalctl's match expression: what the unit's processes said, or what systemd said of the unit.

    Where journald cannot tell a user unit from the cgroup it files the line under _SYSTEMD_UNIT, so that is
    looked at too, for our own uid only.
    """
    if scope is Scope.SYSTEM:
        said, told, told_invocation = ["_SYSTEMD_UNIT"], "UNIT", "INVOCATION_ID"
        own: list[str] = []
    else:
        said, told, told_invocation = ["_SYSTEMD_USER_UNIT", "_SYSTEMD_UNIT"], "USER_UNIT", "USER_INVOCATION_ID"
        own = [f"_UID={os.getuid()}"]
    groups = [[f"{field}={unit}", *([f"_SYSTEMD_INVOCATION_ID={invocation}"] if invocation else [])] for field in said]
    groups.append([f"{told}={unit}", *([f"{told_invocation}={invocation}"] if invocation else [])])
    expression: list[str] = []
    for group in groups:
        expression += [*(["+"] if expression else []), *group, *own]
    return expression


def message(entry: bytes) -> str:
    """The MESSAGE of one JSON entry as clean text; "" when there is none."""
    try:
        value = json.loads(entry)["MESSAGE"]
    except (ValueError, KeyError, TypeError):
        return ""
    text = _CONTROL.sub(" ", _ESCAPES.sub("", _text(value))).strip()
    return redact(text[:LONGEST])


def _text(value: Any) -> str:
    """journalctl writes text as a string, other bytes as a list of numbers, a repeated field as a list of both."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, int) and 0 <= item < 256 for item in value):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, list):
        return "\n".join(_text(item) for item in value)
    return ""
