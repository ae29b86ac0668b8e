"""Runs LiteLLM's own command in this process, with our server in place of uvicorn's."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import (
    absence,
    asking,
    control,
    cooldowns,
    deadline,
    ending,
    flight,
    hook,
    mending,
    previous_key,
    routes,
    section,
    server,
    sockets,
    stream_start,
)
from . import waiting as waiting_module
from .arguments import Options, parse
from .ending import Refusal
from .notify import Notifier

SPECIAL_PORT = 4000
"""LiteLLM silently takes a random port instead when this one is in use. It only prints what it is told."""


def run(argv: Sequence[str]) -> int:
    """The exit status; the last line on standard error says why."""
    notifier = Notifier()
    ending.prepare()
    made: list[server.Plan] = []
    try:
        options = parse(argv)
        settings = section.read(options.config)
        plan = _plan(options, notifier)
        made.append(plan)
        _litellm(options, settings, plan)
    except BaseException as error:
        return _ended(error, notifier, made)
    finally:
        _tidy(made)
    return _ended(None, notifier, made)


def _ended(error: BaseException | None, notifier: Notifier, made: list[server.Plan]) -> int:
    started = bool(made) and made[0].started
    if error is None or (isinstance(error, SystemExit) and error.code in (0, None)):
        if started and made[0].flight.draining:
            ending.say_last("stopped: drained")
            return ending.STOPPED
        return ending.STOPPED if error is not None else ending.REFUSED
    why = (made[0].why if made else "") or ending.reason(error)
    status = ending.BROKEN if started else ending.REFUSED
    text = why if isinstance(error, Refusal) else f"{'ended' if started else 'cannot start'}: {why or 'LiteLLM ended'}"
    notifier.status(ending.one_line(text))
    ending.say_last(text)
    return status


def _plan(options: Options, notifier: Notifier) -> server.Plan:
    """Sockets first: what is taken is found before LiteLLM is imported. Raises Refusal."""

    def bind() -> Any:
        return sockets.bound(options.host, options.port)

    state = flight.Flight()
    public = sockets.inherited()
    plan = server.Plan(state, notifier, None, public, bind, options.standby, options.grace)
    server.catch_signals(plan)
    if not public and not options.standby:
        plan.public = [bind()]
    if options.control:
        plan.control = sockets.control(options.control)
        plan.control_path = (options.control, Path(options.control).stat().st_ino)
    return plan


def _litellm(options: Options, settings: section.Section, plan: server.Plan) -> None:
    """LiteLLM's command reads the configuration and calls uvicorn.run, which is ours. Raises what it raises."""
    plan.notifier.status("imports LiteLLM")
    os.environ.setdefault("GRACEFUL_SHUTDOWN_TIMEOUT", f"{options.grace:g}")
    try:
        uvicorn: Any = importlib.import_module("uvicorn")
        command = importlib.import_module("litellm.proxy.proxy_cli").run_server
    except ImportError as error:
        raise Refusal(f"cannot start: {sys.executable} has no LiteLLM proxy: {ending.reason(error)}") from None

    def serve(app: Any, **arguments: Any) -> None:
        _serve(uvicorn, app, arguments, settings, plan)

    uvicorn.run = serve
    port = options.port if options.port != SPECIAL_PORT else SPECIAL_PORT + 1
    words = ["--config", options.config, "--host", options.host, "--port", str(port), "--num_workers", "1"]
    command(args=words, prog_name="litellm", standalone_mode=False)


def _serve(uvicorn: Any, app: Any, arguments: dict[str, Any], settings: section.Section, plan: server.Plan) -> None:
    inner = Startup(previous_key.wrapped(_import(app)), plan)
    limited = deadline.Deadline(inner, plan.flight, settings.answer_limit)
    counted = flight.Counted(limited, plan.flight)
    version = importlib.metadata.version("litellm")
    watched = control.Control(counted, plan.flight, settings.digest, version)
    for unused in ("host", "port", "workers"):
        arguments.pop(unused, None)
    config = uvicorn.Config(counted, timeout_graceful_shutdown=max(1, int(plan.grace)), **arguments)
    mending.mend()
    stream_start.install()
    plan.ready = lambda: _hook(settings, plan)
    logging.getLogger("uvicorn.access").addFilter(_from_outside)
    server.build(plan, config, watched).run()


def _from_outside(record: logging.LogRecord) -> bool:
    """Leaves agentd's looks out of the access log: the peer of a unix socket has no address."""
    return not (isinstance(record.args, tuple) and record.args and record.args[0] == "")


def _import(app: Any) -> Any:
    """uvicorn takes "module:name" as well."""
    if not isinstance(app, str):
        return app
    module, _, name = app.partition(":")
    return getattr(importlib.import_module(module), name)


def _hook(settings: section.Section, plan: server.Plan) -> None:
    """After LiteLLM has read its configuration, which may set its callbacks anew."""
    if not settings.slots:
        return
    litellm: Any = importlib.import_module("litellm")
    known = routes.Routes(routes.places())
    absent = absence.Absence(settings, known)
    known.now()

    def changed(before: routes.Slots, after: routes.Slots) -> None:
        for model in absent.arrived(before, after):
            cooldowns.clear(model)

    known.on_change = changed
    ask = asking.Asking(asking.socket_path())
    litellm.callbacks.append(hook.make(absent, waiting_module.Waiting(absent, ask, plan.flight, settings.absent_wait)))


class Startup:
    """ASGI: keeps the reason when LiteLLM refuses to start; uvicorn only logs it."""

    def __init__(self, app: Any, plan: server.Plan) -> None:
        self._app = app
        self._plan = plan

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def listening(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed":
                self._plan.why = ending.of_traceback(message.get("message", ""))
                # uvicorn logs it; the traceback of LiteLLM's start has a frame for each of its routers.
                message = {**message, "message": self._plan.why}
            await send(message)

        await self._app(scope, receive, listening)


def _tidy(made: list[server.Plan]) -> None:
    for plan in made:
        if plan.control_path is not None:
            sockets.remove(*plan.control_path)
