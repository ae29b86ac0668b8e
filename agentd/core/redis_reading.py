"""Everything that a server's configuration says, in the order in which the server reads it. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agentd.core.redis_args import CommandLine, command_line
from agentd.core.redis_directives import refusal
from agentd.core.redis_lines import Line, joined, parse
from agentd.stores import ConfFile, ConfTree

ARGUMENTS = "ExecStart="
"""The source of what the command line says."""
MOST_INCLUDES = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """One directive in the order in which the server reads them."""

    line: Line
    argument: bool
    """On the command line, or in a file that is included there."""
    after_include: bool
    """An include stands before it in its file. From there on Redis takes a `save` line as CONFIG SET would: it replaces
    what was said before, where otherwise it adds to it."""
    unknown: bool = False
    """A file that cannot be read: it may say anything."""


@dataclass(frozen=True, slots=True)
class Reading:
    steps: tuple[Step, ...]
    problems: tuple[str, ...]


def read(tree: ConfTree, argv: Sequence[str], lines: Sequence[Line] | None = None) -> Reading:
    """Everything in the server's order. `lines` stand for those of the main file."""
    command = command_line(argv)
    walk = _Walk(tree)
    walk.problems += [*command.problems, *_other_file(tree.main, command, bool(argv))]
    after = False
    if tree.main is not None:
        after = walk.main(tree.main, lines)
    options = (replace(line, number=0) for line in parse(command.text, ARGUMENTS))
    walk.lines(options, argument=True, after=after)
    return Reading(tuple(walk.steps), tuple(dict.fromkeys(walk.problems)))


def _other_file(main: ConfFile | None, command: CommandLine, known: bool) -> list[str]:
    """The next start may read another file than the running server did."""
    if not known or command.problems:
        return []
    if main is None:
        return [f"ExecStart= starts the server with {command.file}, and it was not read"] if command.file else []
    if command.file is None:
        return [f"ExecStart= starts the server without a configuration file, and not with {main.path}"]
    if not command.file.startswith("/") or posixpath.normpath(command.file) in (
        posixpath.normpath(main.path),
        main.link,
    ):
        return []
    return [f"ExecStart= starts the server with {command.file}, and not with {main.path}"]


class _Walk:
    def __init__(self, tree: ConfTree) -> None:
        self.steps: list[Step] = []
        self.problems: list[str] = []
        self._files = {file.path: file for file in tree.files}
        self._included = tree.included
        self._open: list[str] = []
        self._count = 0

    def main(self, file: ConfFile, lines: Sequence[Line] | None) -> bool:
        """Whether it includes something."""
        if file.text is None:
            self.problems.append(f"{file.path}: {file.problem or 'cannot be read'}")
            self._unknown(Line(file.path, 0, ""), argument=False, after=False)
            return False
        self._open.append(file.path)
        return self.lines(parse(file.text, file.path) if lines is None else lines, argument=False, after=False)

    def lines(self, lines: Iterable[Line], *, argument: bool, after: bool) -> bool:
        for line in lines:
            problem = line.problem or (refusal(line.name, line.args) if line.name else "")
            if problem:
                self.problems.append(f"{line.source}: {problem}")
            if line.name == "include" and len(line.args) == 1:
                self._include(line, argument=argument, after=after)
                after = True
            elif line.name:
                self.steps.append(Step(line, argument, after))
        return after

    def _include(self, line: Line, *, argument: bool, after: bool) -> None:
        paths = self._included.get(line.args[0])
        self._count += 1
        problem = ""
        if paths is None:
            problem = f"{line.args[0]} was not looked at"
        elif any(path in self._open for path in paths):
            problem = f"{line.args[0]} includes the file that it stands in, and the server would read them for ever"
        elif self._count > MOST_INCLUDES:
            problem = f"more than {MOST_INCLUDES} includes"
        files = [self._files.get(path) or ConfFile(path, None) for path in paths or ()]
        unread = [f"{file.path}: {file.problem or 'cannot be read'}" for file in files if file.text is None]
        if problem or unread:
            self.problems.append(f"{line.source}: include: {problem or unread[0]}")
            self._unknown(line, argument=argument, after=after)
        elif files:
            self._open += paths or ()
            self.lines(joined(files), argument=argument, after=False)
            del self._open[len(self._open) - len(files) :]

    def _unknown(self, line: Line, *, argument: bool, after: bool) -> None:
        self.steps.append(Step(line, argument, after, unknown=True))
