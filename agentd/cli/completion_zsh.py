"""The zsh script: the same decisions as in bash, with a description beside every word."""

from __future__ import annotations

from agentd.cli.table import DIRECTORIES, FILES, Command, Opt

_HEAD = r"""#compdef agentctl
# agentctl completions for zsh; made by: agentctl completion zsh
_agentctl_names() {
    local -a found
    found=(${(f)"$(_call_program names ${words[1]} __complete $1 2>/dev/null)"})
    (( ${#found} )) && compadd -a found
}
_agentctl() {
    local -a given list
    local i word skip command previous=${words[CURRENT-1]}
    for ((i = 2; i < CURRENT; i++)); do
        word=${words[i]}
        if [[ $word == -- ]]; then return; fi
        if [[ -n $skip ]]; then skip=; continue; fi
        case $word in
            @VALUE_OPTIONS@) skip=1 ;;
            -*) ;;
            *) given+=("$word") ;;
        esac
    done
    command=${given[1]}
    case "$command ${given[2]}" in
        @PAIRS@) command="$command ${given[2]}"; shift 2 given ;;
        *) (( ${#given} )) && shift given ;;
    esac
    case "$command:$previous" in
"""
_TAIL = r"""
if [[ ${funcstack[1]} == _agentctl ]]; then _agentctl "$@"; else compdef _agentctl agentctl; fi
"""


def script(commands: list[tuple[Command, list[Opt]]]) -> str:
    flags = sorted({flag for _, opts in commands for o in opts if o.value for flag in o.flags})
    pairs = [f"'{c.name}'" for c, _ in commands if len(c.words) == 2]
    lines = [_HEAD.replace("@VALUE_OPTIONS@", "|".join(flags)).replace("@PAIRS@", "|".join(pairs)).rstrip("\n")]
    for command, opts in commands:
        for opt in (o for o in opts if o.value):
            action = _source(opt.complete, opt.choices) or ("_files" if opt.value == "PATH" else ":")
            names = "|".join(f"'{command.name}:{flag}'" for flag in opt.flags)
            lines.append(f"        {names}) {action}; return ;;")
    lines += ["    esac", "    if [[ ${words[CURRENT]} == -* ]]; then", '        case "$command" in']
    for command, opts in commands:
        words = " ".join(_described(flag, opt.help) for opt in opts for flag in opt.flags)
        lines.append(f"            '{command.name}') list=({words}) ;;")
    lines += ["        esac", "        _describe option list", "        return", "    fi"]
    lines.append('    case "$command:${#given}" in')
    firsts: dict[str, str] = {}
    for command, _ in commands:
        firsts.setdefault(command.words[0], command.summary if len(command.words) == 1 else f"{command.words[0]} ...")
    lines.append(
        f"        :0) list=({' '.join(_described(n, s) for n, s in firsts.items())}); _describe command list ;;"
    )
    for command, _ in commands:
        actions = [_source(arg.complete, arg.choices) for arg in command.args[:1]]
        lines += [f"        '{command.name}:0') {action} ;;" for action in actions if action]
    for first in firsts:
        below = [(c.words[1], c.summary) for c, _ in commands if c.words[0] == first and len(c.words) == 2]
        if below:
            words = " ".join(_described(n, s) for n, s in below)
            lines.append(f"        '{first}:0') list=({words}); _describe command list ;;")
    return "\n".join([*lines, "    esac", "}"]) + _TAIL


def _source(complete: str, choices: tuple[str, ...]) -> str:
    if choices:
        return f"compadd {' '.join(choices)}"
    if complete == DIRECTORIES:
        return "_files -/"
    if complete == FILES:
        return "_files"
    return f"_agentctl_names {complete}" if complete else ""


def _described(word: str, text: str) -> str:
    """word:text for _describe, in single quotes."""
    return "'" + f"{word}:{text}".replace("'", "'\\''") + "'"
