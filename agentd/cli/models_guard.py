"""agentctl models guard UNIT -- OTHER=URL...: for ExecStartPre=, so that a start leaves at most one model awake.

Needs no daemon. Each other unit that is up is asked whether it sleeps; one that does not say so is stopped. A start
that systemd makes by itself, after a crash, has no right to stop anybody: it is refused while another model is awake.
Of two guards at once each would stop the other's unit, and none would be left: the first by name goes on.
"""

from __future__ import annotations

import json
import re
import subprocess

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.direct import fetch
from agentd.cli.parser import UsageError
from agentd.errors import AgentdError

ASK_SECONDS = 2.0
SYSTEMCTL_SECONDS = 10.0
STOP_SECONDS = 600.0
"""A unit's own TimeoutStopSec= ends sooner; this only ends a systemctl that hangs."""
AWAKE = re.compile(rb'^vllm:engine_sleep_state\{[^}]*sleep_state="awake"[^}]*\} 1', re.MULTILINE)
DOWN = ("inactive", "failed")


def run(ctx: Context) -> int:
    unit, urls = ctx.args.unit, dict(map(_pair, ctx.args.others))
    systemctl = ["systemctl"] if ctx.args.system else ["systemctl", "--user"]
    up = [other for other, state in zip(urls, _show(systemctl, "ActiveState", list(urls)), strict=True)
          if state not in DOWN]  # fmt: skip
    awake = [other for other in up if not _sleeps(urls[other])]
    if awake and _automatic(systemctl, unit):
        raise AgentdError("busy", f"{unit} is not restarted while {', '.join(awake)} has the GPU")
    if first := _starting_before(systemctl, unit, awake):
        raise AgentdError("busy", f"{unit} is not started: {', '.join(first)} is being started at the same moment")
    if awake:
        ctx.out.line(f"stopping {', '.join(awake)}, so that {unit} can have the GPU")
        _systemctl([*systemctl, "stop", *awake], STOP_SECONDS)
    return exits.OK


def _pair(text: str) -> tuple[str, str]:
    unit, sign, url = text.partition("=")
    if not unit or not sign or "://" not in url:
        raise UsageError(f'cannot read "{text}"', "write it as UNIT=URL")
    return unit, url


def _sleeps(url: str) -> bool:
    """A server that is only paused says so, too; the metric tells one from the other."""
    status, body = fetch(url.rstrip("/") + "/is_sleeping", ASK_SECONDS)
    try:
        said = status == 200 and json.loads(body)["is_sleeping"] is True
    except (ValueError, KeyError, TypeError):
        return False
    return said and not AWAKE.search(fetch(url.rstrip("/") + "/metrics", ASK_SECONDS)[1])


def _starting_before(systemctl: list[str], unit: str, others: list[str]) -> list[str]:
    """Those whose own guard may be asking just now. One that is further on, or waits for its restart, has none."""
    states = _show(systemctl, "SubState", others)
    return [other for other, state in zip(others, states, strict=True) if state == "start-pre" and other < unit]


def _automatic(systemctl: list[str], unit: str) -> bool:
    return _show(systemctl, "NRestarts", [unit])[0] not in ("", "0")


def _show(systemctl: list[str], name: str, units: list[str]) -> list[str]:
    """One value for each unit; "" for one that systemd does not know."""
    if not units:
        return []
    text = _systemctl([*systemctl, "show", f"--property={name}", *units], SYSTEMCTL_SECONDS)
    values = [block.strip().partition("=")[2] for block in text.strip().split("\n\n")]
    if len(values) != len(units):
        raise AgentdError("systemctl", f"cannot read the states of {', '.join(units)}: systemctl said {text[:200]!r}")
    return values


def _systemctl(command: list[str], timeout: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentdError("systemctl", f"cannot run {' '.join(command[:3])}: {error}") from error
    if done.returncode != 0:
        why = done.stderr.strip() or f"status {done.returncode}"
        raise AgentdError("systemctl", f"{' '.join(command)} failed: {why}")
    return done.stdout
