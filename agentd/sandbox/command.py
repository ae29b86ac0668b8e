"""`agentctl sandbox`: its arguments, and what they start."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

DESCRIPTION = """\
Start a private, real `systemd --user` with its own bus, network and home in namespaces, the shipped units with
stand-in servers, and agentd on top. Nothing outside is touched, and nothing is left behind.
"""
EPILOG = """\
examples:
  agentctl sandbox                              a guided run, then stays up until Ctrl-C
  agentctl sandbox --once                       the guided run alone
  agentctl sandbox -- bash                      a shell inside, with agentd and its services running
  agentctl sandbox --bare -- pytest tests/integration
                                                only the manager and its bus
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--bare", action="store_true", help="manager and bus only: no units, no agentd")
    parser.add_argument("--keep", action="store_true", help="keep the sandbox's home directory and say where it is")
    parser.add_argument("--no-guide", action="store_true", help="start everything and stay up, without the guided run")
    parser.add_argument("--once", action="store_true", help="end after the guided run")
    parser.add_argument("--enter", action="store_true", help="a shell (or COMMAND) in the sandbox that is running now")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="run a command inside")


def run(args: argparse.Namespace) -> int:
    """Exit code of the command inside; 1 when the sandbox cannot start."""
    from agentd.sandbox import delegation, requirements
    from agentd.sandbox.namespace import Sandbox

    if args.enter:
        from agentd.sandbox.enter import enter

        return enter(_command(args))
    parent = None
    lacks = requirements.check()
    if not lacks:
        parent = delegation.obtain()
        lacks = [] if parent else [requirements.no_cgroup()]
    if parent is None:
        print("agentctl: cannot start a sandbox:", file=sys.stderr)
        for lack in lacks:
            print(f"- {lack}", file=sys.stderr)
        return 1
    for note in requirements.notes(bare=args.bare):
        print(f"agentctl: note: {note}", file=sys.stderr)
    keep = tempfile.mkdtemp(prefix="agentd-sandbox-home-") if args.keep else ""
    code = Sandbox(parent).run(inner_argv(args), bare=args.bare, keep=keep)
    if keep:
        print(f"the sandbox's home is kept in {keep}", file=sys.stderr)
    return code


def _command(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(args.command[1:] if args.command[:1] == ["--"] else args.command)


def inner_argv(args: argparse.Namespace) -> tuple[str, ...]:
    """What runs inside: the command itself in a bare sandbox, else the guide, which starts everything first."""
    command = _command(args)
    if args.bare:
        return command or (os.environ.get("SHELL", "/bin/sh"),)
    mode = "command" if command else "stay" if args.no_guide else "once" if args.once else "guide"
    return (sys.executable, "-P", "-m", "agentd.sandbox.guide", mode, *command)
