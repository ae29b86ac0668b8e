"""`agentctl`: find the command, run it, and turn whatever happens into one sentence and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from agentd.errors import AgentdError


def main(argv: Sequence[str] | None = None) -> int:
    """Never a traceback: what is expected is told by its message, what is not is called a bug."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except AgentdError as error:
        return _told(error, as_json="--json" in arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has had enough (`agentctl events | head`); what Python flushes at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        return _told(AgentdError("os-error", f"cannot go on: {error}"), as_json="--json" in arguments)
    except Exception as error:
        if os.environ.get("AGENTD_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}"
        hint = "this is a bug in agentctl; AGENTD_DEBUG=1 shows where"
        return _told(AgentdError("internal", f"internal error: {what}", hint=hint), as_json="--json" in arguments)


def _dispatch(arguments: list[str]) -> int:
    from agentd.cli.commands import find

    leading, words = _leading(arguments)
    if words[:1] == ["__complete"]:
        from agentd.cli.complete import complete

        return complete(words[1:])
    if not words or words[0] in ("-h", "--help", "help"):
        return _help(words)
    if words[0] == "--version":
        words = ["version"]
    command, rest = find(words)
    from agentd.cli import parser

    if command is None:
        if words[1:2] in (["-h"], ["--help"]) and (text := parser.overview_of(words[0])):
            print(text)
            return 0
        raise parser.unknown_command(words)
    module = _module(command.module)
    if command.own_parser:
        options = parser.for_command(command)
        module.add_arguments(options)
        return int(module.run(options.parse_args(rest)))
    from agentd.cli.context import Context

    return int(module.run(Context(parser.parse(command, [*leading, *rest]), command.name)))


def _leading(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Options that every command has may stand before its name."""
    taken: list[str] = []
    rest = list(arguments)
    while rest:
        if rest[0] == "--json" or rest[0].startswith("--socket="):
            taken.append(rest.pop(0))
        elif rest[0] == "--socket" and len(rest) > 1:
            taken += [rest.pop(0), rest.pop(0)]
        else:
            break
    return taken, rest


def _help(words: list[str]) -> int:
    from agentd.cli import parser
    from agentd.cli.commands import find

    command, _ = find(words[1:])
    if words[1:] and command is None:
        text = parser.overview_of(words[1]) if len(words) == 2 else ""
        if not text:
            raise parser.unknown_command(words[1:])
        print(text)
        return 0
    if command is None:
        print(parser.overview())
        return 0 if words else 2
    options = parser.for_command(command)
    if command.own_parser:
        _module(command.module).add_arguments(options)
    options.print_help()
    return 0


def _module(name: str) -> Any:
    from importlib import import_module

    return import_module(f"agentd.cli.{name}")


def _told(error: AgentdError, *, as_json: bool) -> int:
    from agentd.cli import exits, terminal

    if as_json:
        import json

        fields = {"kind": error.kind, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": fields}, ensure_ascii=False), file=sys.stderr)
    else:
        terminal.error(error.message, error.hint)
    return exits.of_kind(error.kind)


if __name__ == "__main__":
    sys.exit(main())
