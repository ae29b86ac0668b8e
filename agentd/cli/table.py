"""What a command is: the one description that the parser, the help and the completions are made from."""

from __future__ import annotations

from collections.abc import Sequence

MODELS, SERVICES, SLOTS, CHANGES, STORES = "models", "services", "slots", "changes", "stores"
PROFILES = "profiles"
DIRECTORIES, FILES = "directories", "files"
"""What a value may be completed from; names are asked of the daemon."""


class Arg:
    """A positional argument; `many` "?" makes it optional, "--" takes what follows a "--"."""

    __slots__ = ("choices", "complete", "help", "many", "name")

    def __init__(
        self, name: str, text: str, *, many: str = "", complete: str = "", choices: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.help = text
        self.many = many
        self.complete = complete
        self.choices = tuple(choices)


class Opt:
    """An option; without `value` (the name of its value in the help) it is a flag. `kind`: text, seconds, count
    or port."""

    __slots__ = ("choices", "complete", "default", "flags", "help", "kind", "value")

    def __init__(
        self,
        *flags: str,
        text: str,
        value: str = "",
        kind: str = "text",
        default: object = None,
        complete: str = "",
        choices: Sequence[str] = (),
    ) -> None:
        self.flags = flags
        self.help = text
        self.value = value
        self.kind = kind
        self.default = default
        self.complete = complete
        self.choices = tuple(choices)


class Command:
    """`words` are what is typed ("switch", "status"); `module` in this package has `run(context) -> int`."""

    __slots__ = ("args", "examples", "group", "module", "opts", "own_parser", "summary", "words")

    def __init__(
        self,
        words: str,
        summary: str,
        module: str,
        *,
        group: str,
        args: Sequence[Arg] = (),
        opts: Sequence[Opt] = (),
        examples: Sequence[str] = (),
        own_parser: bool = False,
    ) -> None:
        self.words = tuple(words.split())
        self.summary = summary
        self.module = module
        self.group = group
        self.args = tuple(args)
        self.opts = () if own_parser else (*opts, *COMMON)
        self.examples = tuple(examples)
        self.own_parser = own_parser
        """The module brings `add_arguments(parser)` and takes the parsed arguments."""

    @property
    def name(self) -> str:
        return " ".join(self.words)


COMMON = (
    Opt("--json", text="print JSON"),
    Opt("--socket", value="PATH", text="agentd's socket (default: $AGENTD_SOCKET, else the user's own agentd)"),
)

NO_WAIT = Opt("--no-wait", text="return as soon as the change has begun")
WAIT = Opt("--timeout", value="TIME", kind="seconds", text="stop waiting after so long; the change goes on")
"""Of every command that begins a change."""
