"""The smallest edit after which redis.conf says what is wanted, and what CONFIG REWRITE would spoil instead. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentd.core.redis_conf import Decision, decide
from agentd.core.redis_directives import DEFAULTS, PASSWORDS, SECRET, normal
from agentd.core.redis_edits import argument, rewritten, text_of, ways
from agentd.core.redis_lines import Line, parse
from agentd.core.redis_reading import read
from agentd.stores import ConfFile, ConfTree

_ALL_READ = 0o004


@dataclass(frozen=True, slots=True)
class Edit:
    text: str | None
    """The new one of the main file; None when nothing is to be changed, or nothing can be."""
    changes: tuple[str, ...] = ()
    """A sentence for each line."""
    impossible: tuple[str, ...] = ()
    """A sentence for each wanted value that no line of the main file can bring."""


def edit(tree: ConfTree, argv: Sequence[str], wanted: Mapping[str, str]) -> Edit:
    """`argv` as for `effective`. Save points count as the same in any order, as they do to Redis.

    Raises ValueError for a value that Redis would refuse, and for a directive that holds secrets.
    """
    main = tree.main
    if main is None or main.text is None:
        why = f"{main.path}: {main.problem or 'cannot be read'}" if main else "there is no configuration file"
        return Edit(None, impossible=(f"{why}, so it cannot be edited",))
    lines = parse(main.text, main.path)
    changes: list[str] = []
    impossible: list[str] = []
    for name, value in wanted.items():
        lines, told, why = _bring(tree, argv, lines, name, _wish(name, value))
        changes += told
        impossible += [why] if why else []
    text = text_of(lines)
    return Edit(text if text != main.text else None, tuple(changes), tuple(impossible))


def _wish(name: str, value: str) -> str:
    found = None if name in SECRET else normal(name, value)
    if found is None:
        raise ValueError(f"{name} cannot be edited" if name in SECRET else f"{name} cannot be {value!r}")
    return found


def _bring(
    tree: ConfTree, argv: Sequence[str], lines: tuple[Line, ...], name: str, value: str
) -> tuple[tuple[Line, ...], tuple[str, ...], str]:
    """The new lines and what was done; or the old ones, and why no edit helps."""
    now = _decision(tree, argv, lines, name)
    if _says(now, name, value):
        return lines, (), ""
    for way in ways(lines, name, value):
        now = _decision(tree, argv, way.lines, name)
        if _says(now, name, value):
            return way.lines, way.told, ""
    return lines, (), _why(now, name)


def _decision(tree: ConfTree, argv: Sequence[str], lines: Sequence[Line], name: str) -> Decision:
    return decide(read(tree, argv, lines).steps, name)


def _says(decision: Decision, name: str, value: str) -> bool:
    if not decision.certain or decision.value is None:
        return False
    return _meaning(name, decision.value) == _meaning(name, value)


def _meaning(name: str, value: str) -> object:
    words = value.split()
    return sorted(zip(words[::2], words[1::2], strict=False)) if name == "save" else value


def _why(decision: Decision, name: str) -> str:
    """Not even a line at the very end helped."""
    if not decision.certain:
        return f"{name}: the command line includes a file that cannot be read, and it wins over every line of this one"
    step = decision.steps[-1] if decision.steps else None
    if step is None or not step.argument:
        return f"{name}: no line of the file brings the wanted value"
    if step.line.number:
        return f"{name}: {step.line.source} decides, which the unit's ExecStart= includes: change it there"
    said = f"--{name} {argument(name, ' '.join(step.line.args))}"
    return f'{name}: the unit\'s ExecStart= says "{said}", which wins over the file: take it out there'


def persist_hazards(tree: ConfTree, argv: Sequence[str], running: Mapping[str, str], started: float) -> tuple[str, ...]:
    """What CONFIG REWRITE would spoil, a sentence each; () when it does what is meant.

    `running`: CONFIG GET now, which is what it writes; `started`: when the process was, 0 for not known. What the
    command line decides is no matter here: a rewrite changes that as little as an edit does.
    """
    main = tree.main
    if main is None or main.text is None:
        return ()
    found = list(_of_the_file(main))
    changed = (file.path for file in tree.files if 0 < started < file.mtime)
    found += [f"{path} was changed after the server's start, and a rewrite takes the change back" for path in changed]
    lines = parse(main.text, main.path)
    for file in tree.files:
        found += _of_secrets(main, file, lines if file is main else parse(file.text or "", file.path))
    found += _of_values(tree, argv, rewritten(lines, _known(running)), running)
    return tuple(found)


def _known(running: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in running.items() if name in DEFAULTS and name != "dir"}


def _of_the_file(main: ConfFile) -> Iterator[str]:
    if main.link:
        yield f"{main.path} is a symbolic link: a rewrite puts a file in its place, and {main.link} stays as it is"
    if main.mounted:
        yield f"{main.path} is a mount point, so that no new file can take its place"


def _of_secrets(main: ConfFile, file: ConfFile, lines: Sequence[Line]) -> Iterator[str]:
    if not any(line.name in PASSWORDS for line in lines):
        return
    if file is not main:
        yield f"{file.path} holds passwords, and a rewrite copies them to {main.path}"
    elif file.mode and not file.mode & _ALL_READ:
        yield f"{file.path} holds passwords, and after a rewrite everybody may be able to read it (now {file.mode:04o})"


def _of_values(tree: ConfTree, argv: Sequence[str], lines: Sequence[Line], running: Mapping[str, str]) -> Iterator[str]:
    """What the next start would read from the rewritten file."""
    steps = read(tree, argv, lines).steps
    for name, value in _known(running).items():
        decision = decide(steps, name)
        step = decision.steps[-1] if decision.steps else None
        if _says(decision, name, value) or (step is not None and step.argument):
            continue
        if not decision.certain:
            yield f"what is included after {name} cannot be read, and a rewrite does not change it"
        elif step is not None and step.line.path != lines[0].path:
            yield f'{step.line.source} would still say {name} "{decision.value}": a rewrite changes no included file'
        else:
            yield f'{name} would become "{decision.value}": of the lines that a rewrite makes, only the last counts'
