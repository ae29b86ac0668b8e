"""agentctl wait-ready NAME: asks agentd; with --url, or when agentd does not run, asks the service itself.

As ExecStartPost= it must be light, and must not outlive the main process: $MAINPID is watched.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.durations import span
from agentd.cli.parser import UsageError
from agentd.errors import AgentdError

FIRST_PAUSE, LAST_PAUSE = 0.01, 0.5
SHARE = 100
"""A pause is this part of the time waited so far: systemd learns of a server that loads for a second within 10 ms, and
asking one that loads for minutes costs next to nothing."""
ASK_SECONDS = 5.0

Ask = Callable[[float], str]
"""Takes a timeout; "" when ready, else why not."""


class GaveUp(Exception):
    """Waiting longer cannot help."""


def run(ctx: Context) -> int:
    name, args = ctx.args.name, ctx.args
    begun = time.monotonic()
    try:
        reason = wait(_asker(ctx), args.timeout)
    except GaveUp as why:
        reason = str(why)
    took = span(time.monotonic() - begun)
    if ctx.json:
        ctx.print_json({"name": name, "ready": not reason, "reason": reason, "seconds": time.monotonic() - begun})
        return exits.FAILED if reason else exits.OK
    if reason:
        raise AgentdError("not-ready", f"{name} is not ready after {took}: {reason}")
    if not ctx.args.quiet:
        ctx.out.line(f"{name} is ready ({took})")
    return exits.OK


def wait(ask: Ask, timeout: float) -> str:
    """Ask until ready or `timeout` seconds have passed; the last reason."""
    begun = time.monotonic()
    deadline = begun + timeout
    main = _main_process()
    while True:
        left = deadline - time.monotonic()
        reason = ask(max(0.05, min(left, ASK_SECONDS)))
        now = time.monotonic()
        left = deadline - now
        if not reason or left <= 0:
            return reason
        pause = min(LAST_PAUSE, max(FIRST_PAUSE, (now - begun) / SHARE))
        if _ended(main, min(pause, left)):
            raise GaveUp(f"its main process has ended; last answer: {reason}")


def _asker(ctx: Context) -> Ask:
    if ctx.args.url:
        return _direct([ctx.args.url], _statuses(ctx.args.expect))
    from agentd.client import Unreachable

    try:
        ctx.client.get("/v1/slots")
    except Unreachable:
        from agentd import offline

        service = offline.service(ctx.args.name, ctx.args.config)
        return _direct([service.check_url], service.expect)
    return _by_daemon(ctx)


def _by_daemon(ctx: Context) -> Ask:
    from agentd.client import Unreachable, quote

    def ask(timeout: float) -> str:
        try:
            service = ctx.client.request("GET", f"/v1/services/{quote(ctx.args.name)}", timeout=timeout)
        except Unreachable as error:
            return error.message
        health, cause = service["health"], service["cause"]
        if health == "ready":
            return ""
        text = f"{health}: {cause}" if cause else str(health)
        if health in ("failed", "missing"):
            raise GaveUp(text)
        return text

    return ask


def _direct(urls: list[str], expect: tuple[int, ...]) -> Ask:
    from agentd.cli.direct import ask

    return lambda timeout: ask(urls[0], expect, timeout)


def _statuses(text: str | None) -> tuple[int, ...]:
    if not text:
        return (200,)
    parts = text.split(",")
    if not all(p.isascii() and p.isdigit() and 100 <= int(p) <= 599 for p in parts):
        raise UsageError(f'--expect "{text}": write HTTP statuses, like 200 or 200,401')
    return tuple(map(int, parts))


def _main_process() -> int | None:
    """A pidfd of the unit's main process when systemd runs us as ExecStartPost=; -1 when it has gone already."""
    text = os.environ.get("MAINPID", "")
    if not text.isdigit() or int(text) <= 1:
        return None
    try:
        return os.pidfd_open(int(text))
    except ProcessLookupError:
        return -1
    except OSError:
        return None


def _ended(main: int | None, pause: float) -> bool:
    """Sleep, or less when the main process ends meanwhile."""
    if main == -1:
        return True
    ready, _, _ = select.select([] if main is None else [main], [], [], pause)
    return bool(ready)
