"""The `agentd` program: check the configuration, or run the daemon until systemd stops it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence

from agentd import __version__, logs, paths
from agentd.adapters.config_files import load
from agentd.core.render import render_check
from agentd.core.settings import LoadedConfig
from agentd.errors import AgentdError, ConfigError

EX_CONFIG = 78
"""sysexits.h: the configuration is wrong; the unit's RestartPreventExitStatus= names it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 stopped as asked, 1 cannot run, 2 usage, 78 configuration invalid."""
    options = _parser().parse_args(argv)
    override = paths.config_override(options.config)

    def read() -> LoadedConfig:
        return load(paths.config_layers(options.config), required=override, home=str(paths.home()))

    try:
        config = read()
    except ConfigError as error:
        print(f"agentd: {error.message}", file=sys.stderr)  # noqa: T201
        return 1 if options.check else EX_CONFIG
    if options.check:
        return _say(render_check(config))
    os.umask(0o077)
    logs.set_up(options.log_level or config.settings.daemon.log_level, config.settings.daemon.log_format)
    try:
        asyncio.run(_run(config, read, options.log_level or "", options.config))
    except AgentdError as error:
        hint = f" ({error.hint})" if error.hint else ""
        print(f"agentd: {error.message}{hint}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _say(text: str) -> int:
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # `agentd --check | head`: what Python flushes at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _run(config: LoadedConfig, read: Callable[[], LoadedConfig], log_level: str, config_dir: str | None) -> None:
    # Imported here: `agentd --check` needs none of it.
    from agentd.daemon import Daemon

    await Daemon(config, read, log_level=log_level, config_dir=config_dir).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agentd", description="System agent for model servers under systemd.")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--config", metavar="DIR", help="directory that replaces /etc/agentd and the user's own")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="override daemon.log_level")
    parser.add_argument("--version", action="version", version=f"agentd {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
