"""The fish script: one `complete` line per word and option, each with its condition."""

from __future__ import annotations

from agentd.cli.table import DIRECTORIES, FILES, Command, Opt

_HEAD = r"""# agentctl completions for fish; made by: agentctl completion fish
# The words so far without options and their values.
function __agentctl_words
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
            continue
        end
        switch $word
            case @VALUE_OPTIONS@
                set skip 1
            case '-*'
            case '*'
                echo $word
        end
    end
end
# True when exactly these words stand there; with "..." last, when they are how it begins.
function __agentctl_at
    set -l words (__agentctl_words)
    set -l wanted $argv
    if test (count $wanted) -gt 0; and test "$wanted[-1]" = ...
        set -e wanted[-1]
        test "$words[1..$(count $wanted)]" = "$wanted" 2>/dev/null
    else
        test "$words" = "$wanted"
    end
end
complete -c agentctl -f
"""


def script(commands: list[tuple[Command, list[Opt]]]) -> str:
    flags = sorted({flag for _, opts in commands for o in opts if o.value for flag in o.flags})
    lines = [_HEAD.replace("@VALUE_OPTIONS@", " ".join(flags)).rstrip("\n")]
    seen: set[tuple[str, ...]] = set()
    for command, opts in commands:
        for depth in range(len(command.words)):
            path = command.words[: depth + 1]
            if path not in seen:
                seen.add(path)
                text = command.summary if len(command.words) == depth + 1 else ""
                lines.append(_line(" ".join(path[:-1]), f"-a {path[-1]}", text))
        for arg in command.args[:1]:
            source = _source(arg.complete, arg.choices)
            lines += [_line(command.name, f"-a {source}", arg.help)] if source else []
        lines += [_option(command, opt) for opt in opts]
    return "\n".join([*lines, ""])


def _option(command: Command, opt: Opt) -> str:
    names = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in opt.flags)
    source = _source(opt.complete, opt.choices) if opt.value else ""
    if opt.value == "PATH":
        value = "-r -F"
    elif source:
        value = f"-x -a {source}"
    else:
        value = "-x" if opt.value else ""
    return _line(f"{command.name} ...", f"{names} {value}".rstrip(), opt.help)


def _line(words: str, rest: str, text: str) -> str:
    condition = _quoted(f"__agentctl_at {words}".rstrip())
    return f"complete -c agentctl -n {condition} {rest}" + (f" -d {_quoted(text)}" if text else "")


def _source(complete: str, choices: tuple[str, ...]) -> str:
    if choices:
        return _quoted(" ".join(choices))
    if complete == DIRECTORIES:
        return _quoted("(__fish_complete_directories)")
    if complete == FILES:
        return _quoted("(__fish_complete_path)")
    return _quoted(f"(agentctl __complete {complete})") if complete else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
