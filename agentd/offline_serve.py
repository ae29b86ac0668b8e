"""Becomes the gateway: LiteLLM's interpreter on our runtime, in place of this process. Works without agentd."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentd.adapters.litellm_install import find_install
from agentd.errors import AgentdError

RUNTIME = Path(__file__).resolve().parent / "gateway_runtime" / "serve.py"
PLAIN = (
    "{program} is not a Python program with a LiteLLM beside it: it runs without agentd's runtime, so the limit of a "
    "whole answer, the routes of slots and the standby are not in force"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of `agentctl gateway serve`."""

    config: str
    host: str
    port: int
    control: str = ""
    standby: bool = False
    litellm: str = ""
    """The program; "" for the one on PATH or in ~/.local/bin."""


@dataclass(frozen=True, slots=True)
class Program:
    argv: tuple[str, ...]
    note: str = ""
    """What to say before; "" when all is as it should be."""


def program(wanted: Wanted, env: Mapping[str, str] = os.environ) -> Program:
    """What to execute. Raises AgentdError: "gateway-config", "litellm-missing", "litellm-unknown"."""
    config = Path(wanted.config).expanduser()
    if not config.is_file():
        what = "is not a file" if config.exists() else "does not exist"
        hint = "agentctl gateway generate writes it"
        raise AgentdError("gateway-config", f"cannot serve {config}: it {what}", hint=hint)
    words = ("--config", str(config.absolute()), "--host", wanted.host, "--port", str(wanted.port))
    try:
        install = find_install(wanted.litellm, env)
    except AgentdError as error:
        found = _executable(wanted.litellm, env)
        # A standby without the runtime would take the port, or not come up at all.
        if error.kind != "litellm-unknown" or wanted.standby or not found:
            raise
        return Program((found, *words), PLAIN.format(program=found))
    ours = ("--control", str(Path(wanted.control).expanduser())) if wanted.control else ()
    standby = ("--standby",) if wanted.standby else ()
    return Program((install.python, str(RUNTIME), *words, *ours, *standby))


def _executable(name: str, env: Mapping[str, str]) -> str:
    home = env.get("HOME", "")
    own = str(Path(home, ".local/bin/litellm"))
    return shutil.which(os.path.expanduser(name) if name else "litellm", path=env.get("PATH", "")) or (  # noqa: PTH111
        own if not name and os.access(own, os.X_OK) else ""
    )


def become(wanted: Program) -> None:
    """Does not return. The process keeps its id, and with it what systemd handed over. Raises OSError."""
    os.execv(wanted.argv[0], wanted.argv)
