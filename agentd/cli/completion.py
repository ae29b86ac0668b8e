"""agentctl completion bash|zsh|fish: made from the table of commands; only names are asked for while one types."""

from __future__ import annotations

from importlib import import_module

from agentd.cli import exits
from agentd.cli.commands import COMMANDS
from agentd.cli.context import Context
from agentd.cli.parser import for_command
from agentd.cli.table import Command, Opt

HELP = Opt("--help", "-h", text="show this command's help")


def run(ctx: Context) -> int:
    text = script(ctx.args.shell)
    ctx.print_json({"shell": ctx.args.shell, "script": text}) if ctx.json else ctx.out.write(text)
    return exits.OK


def script(shell: str) -> str:
    from agentd.cli import completion_bash, completion_fish, completion_zsh

    makers = {"bash": completion_bash.script, "zsh": completion_zsh.script, "fish": completion_fish.script}
    return makers[shell]([(command, options(command)) for command in COMMANDS])


def options(command: Command) -> list[Opt]:
    """Those of the table, or what a command that brings its own parser tells that."""
    if not command.own_parser:
        return [HELP, *command.opts]
    parser = for_command(command)
    import_module(f"agentd.cli.{command.module}").add_arguments(parser)
    actions = [a for a in parser._actions if a.option_strings and a.dest != "help"]
    return [HELP, *(Opt(*a.option_strings, text=a.help or "", value="" if a.nargs == 0 else "VALUE") for a in actions)]
