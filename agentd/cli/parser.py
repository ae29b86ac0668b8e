"""argparse made from the table, for the one command that was typed: errors name it and point to its help."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from agentd.cli import durations
from agentd.cli.commands import COMMANDS, GROUPS
from agentd.cli.table import Arg, Command, Opt
from agentd.errors import AgentdError

MANY = 6
"""Commands that one line can still name."""


class UsageError(AgentdError):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("usage", message, hint=hint)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse makes a formatter for every option that it is told of, and would load shutil each time for the width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_width())


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (in: {self.prog})", f"see: {self.prog} --help")


def parse(command: Command, argv: list[str]) -> argparse.Namespace:
    if argv and not argv[0].startswith("-") and not command.args and _below(command.name):
        raise unknown_command([command.name, *argv])
    rest = next((arg for arg in command.args if arg.many == "--"), None)
    if rest is None:
        return for_command(command).parse_args(argv)
    at = argv.index("--") if "--" in argv else len(argv)
    parsed = for_command(command).parse_args(argv[:at])
    setattr(parsed, rest.name, argv[at + 1 :])
    return parsed


def for_command(command: Command) -> Parser:
    parser = Parser(
        prog=f"agentctl {command.name}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        epilog=_epilog(command) or None,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    for arg in command.args:
        if arg.many != "--":
            _add_arg(parser, arg)
    for opt in command.opts:
        _add_opt(parser, opt)
    return parser


def overview() -> str:
    """What `agentctl --help` prints."""
    width = max(len(c.name) for c in COMMANDS)
    lines = ["usage: agentctl COMMAND [OPTION]...", "", "Model servers under systemd: see them, switch them.", ""]
    for group in GROUPS:
        lines += [f"{group}:", *(f"  {c.name:<{width}}  {c.summary}" for c in COMMANDS if c.group == group), ""]
    lines += ["Every command: --help, --json, --socket PATH. Exit codes: 0 done, 1 failed, 2 usage, 3 refused before"]
    lines += ["anything was touched, 4 requests still run, 5 failed and rolled back, 6 failed and the slot is empty,"]
    lines += ["7 GPU memory never freed, 8 busy with another change, 9 cancelled, 130 interrupted."]
    return "\n".join(lines)


def overview_of(word: str) -> str:
    """What `agentctl gateway --help` prints, of a word that begins several commands; "" for any other."""
    below = _below(word)
    if not below:
        return ""
    lines = [f"usage: agentctl {word} COMMAND [OPTION]...", "", *_listed(below)]
    return "\n".join([*lines, "", f"More of each: agentctl {below[0].name} --help"])


def _below(word: str) -> list[Command]:
    return [c for c in COMMANDS if c.words[0] == word and len(c.words) > 1]


def _listed(commands: list[Command]) -> list[str]:
    width = max(len(c.name) for c in commands)
    return [f"  {c.name:<{width}}  {c.summary}" for c in commands]


def unknown_command(argv: list[str]) -> UsageError:
    from difflib import get_close_matches

    word = argv[0]
    below = [c for c in COMMANDS if c.words[0] == word]
    if below:
        what = " or ".join(f'"agentctl {c.name}"' for c in below)
        if word == "switch" and len(argv) > 1:
            return UsageError(
                f'no command "switch {argv[1]}"', f'did you mean "agentctl switch-model {argv[1]}"? (or {what})'
            )
        if len(argv) == 1 or argv[1].startswith("-"):
            few = len(below) <= MANY
            return UsageError(
                f'"{word}" needs one more word', f"it is {what}" if few else f"see: agentctl {word} --help"
            )
        name = f"{word} {argv[1]}"
        close = get_close_matches(argv[1], [c.words[1] for c in below if len(c.words) > 1], n=1)
        return UsageError(
            f'no command "{name}"', f'did you mean "{word} {close[0]}"?' if close else f"see: agentctl {word} --help"
        )

    close = get_close_matches(word, [*(c.name for c in COMMANDS), *(c.words[0] for c in COMMANDS)], n=1)
    return UsageError(f'no command "{word}"', f'did you mean "{close[0]}"?' if close else "see: agentctl --help")


def _epilog(command: Command) -> str:
    lines = [f"after --: {arg.help}\n" for arg in command.args if arg.many == "--"]
    if len(command.words) == 1 and (below := _below(command.name)):
        lines += ["commands:", *_listed(below), ""]
    return "\n".join([*lines, "examples:", *(f"  {e}" for e in command.examples)]) if command.examples else ""


def _add_arg(parser: Parser, arg: Arg) -> None:
    if arg.many:
        parser.add_argument(arg.name, help=arg.help, metavar=arg.name.upper(), nargs=arg.many)
    elif arg.choices:
        parser.add_argument(arg.name, help=arg.help, metavar=arg.name.upper(), choices=arg.choices)
    else:
        parser.add_argument(arg.name, help=arg.help, metavar=arg.name.upper())


def _add_opt(parser: Parser, opt: Opt) -> None:
    if not opt.value:
        parser.add_argument(*opt.flags, action="store_true", help=opt.help)
    elif opt.choices:
        parser.add_argument(*opt.flags, choices=opt.choices, default=opt.default, help=opt.help)
    else:
        kind = _KINDS[opt.kind]
        parser.add_argument(*opt.flags, metavar=opt.value, type=kind, default=opt.default, help=opt.help)


def _width() -> int:
    try:
        return max(60, min(100, os.get_terminal_size(sys.stdout.fileno()).columns - 2))
    except (OSError, ValueError):
        return 100


def _seconds(text: str) -> float:
    try:
        return durations.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 10000:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number from 0 to 10000')
    return int(text)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f'"{text}" is not a port, 1 to 65535')
    return int(text)


_KINDS: dict[str, Callable[[str], object]] = {"text": str, "seconds": _seconds, "count": _count, "port": _port}
