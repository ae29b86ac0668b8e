"""The command line, and what of the environment belongs to it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .ending import Refusal

GRACE = 30.0
"""Seconds for requests in flight after SIGTERM; $GRACEFUL_SHUTDOWN_TIMEOUT, which LiteLLM reads as well."""


@dataclass(frozen=True)
class Options:
    config: str
    host: str
    port: int
    """0 with `own` False: only sockets that were handed over."""
    control: str
    """Path of the control socket; "" for none."""
    standby: bool
    grace: float


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refusal(f"cannot read the command line: {message}")


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Options:
    """Raises Refusal."""
    parser = _Parser(prog="agentctl gateway serve", description="LiteLLM under agentd's runtime")
    parser.add_argument("--config", required=True, metavar="FILE", help="the generated configuration")
    parser.add_argument("--host", default="127.0.0.1", help="address, when systemd hands over no socket")
    parser.add_argument("--port", type=int, default=4001, metavar="N", help="port, when systemd hands over no socket")
    parser.add_argument("--control", default="", metavar="PATH", help="unix socket for agentd")
    parser.add_argument("--standby", action="store_true", help="accept on the public socket only after SIGUSR1")
    given = parser.parse_args(list(argv))
    if not 1 <= given.port <= 65535:
        raise Refusal(f"cannot listen on port {given.port}: it has to be from 1 to 65535")
    return Options(given.config, given.host, given.port, given.control, given.standby, grace(environ))


def grace(environ: Mapping[str, str]) -> float:
    try:
        seconds = float(environ.get("GRACEFUL_SHUTDOWN_TIMEOUT", ""))
    except ValueError:
        return GRACE
    return seconds if 0 <= seconds < 86400 else GRACE
