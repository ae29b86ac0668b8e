"""The bash script: a case per command, names from `agentctl __complete`."""

from __future__ import annotations

from agentd.cli.table import DIRECTORIES, FILES, Command, Opt

_HEAD = r"""# agentctl completions for bash; made by: agentctl completion bash
_agentctl_names() { COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" __complete "$1" 2>/dev/null)" -- "$cur")); }
_agentctl_words() { COMPREPLY=($(compgen -W "$1" -- "$cur")); }
_agentctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=() skip= i word command
    # bash takes the "=" of --option=value for a word of its own.
    [[ $cur != = ]] || { cur=; prev="$prev="; }
    [[ $prev != = ]] || prev=${COMP_WORDS[COMP_CWORD-2]}
    prev=${prev%=}
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word != -- ]] || return 0
        if [[ $word == = ]]; then skip=1; elif [[ $skip ]]; then skip=
        else
            case $word in
                @VALUE_OPTIONS@) skip=1 ;;
                -*) ;;
                *) words+=("$word") ;;
            esac
        fi
    done
    command=${words[0]-}
    case "$command ${words[1]-}" in
        @PAIRS@) command="$command ${words[1]}"; words=("${words[@]:2}") ;;
        *) words=("${words[@]:1}") ;;
    esac
    case "$command:$prev" in
"""


def script(commands: list[tuple[Command, list[Opt]]]) -> str:
    flags = sorted({flag for _, opts in commands for o in opts if o.value for flag in o.flags})
    pairs = [f"'{c.name}'" for c, _ in commands if len(c.words) == 2]
    lines = [_HEAD.replace("@VALUE_OPTIONS@", "|".join(flags)).replace("@PAIRS@", "|".join(pairs)).rstrip("\n")]
    for command, opts in commands:
        lines += [_value(command, opt) for opt in opts if opt.value]
    lines += ["    esac", "    if [[ $cur == -* ]]; then", '        case "$command" in']
    for command, opts in commands:
        words = " ".join(flag for opt in opts for flag in opt.flags)
        lines.append(f"            '{command.name}') _agentctl_words '{words}' ;;")
    lines += ["            '') _agentctl_words '--help --version --json --socket' ;;", "        esac"]
    lines += ["        return 0", "    fi", '    case "$command:${#words[@]}" in']
    firsts = list(dict.fromkeys(c.words[0] for c, _ in commands))
    lines.append(f"        :0) _agentctl_words '{' '.join(firsts)}' ;;")
    for first in firsts:
        seconds = " ".join(c.words[1] for c, _ in commands if c.words[0] == first and len(c.words) == 2)
        if seconds:
            lines.append(f"        '{first}:0') _agentctl_words '{seconds}' ;;")
    for command, _ in commands:
        lines += [f"        '{command.name}:0') {found} ;;" for found in _positional(command)]
    lines += ["    esac", "}", "complete -F _agentctl agentctl", ""]
    return "\n".join(lines)


def _value(command: Command, opt: Opt) -> str:
    """What the value of an option may be; one that is free ends the completion."""
    action = _source(opt.complete, opt.choices) or (
        ":" if opt.value != "PATH" else 'COMPREPLY=($(compgen -f -- "$cur"))'
    )
    names = "|".join(f"'{command.name}:{flag}'" for flag in opt.flags)
    return f"        {names}) {action}; return 0 ;;"


def _positional(command: Command) -> list[str]:
    found = [_source(arg.complete, arg.choices) for arg in command.args[:1]]
    return [action for action in found if action]


def _source(complete: str, choices: tuple[str, ...]) -> str:
    if choices:
        return f"_agentctl_words '{' '.join(choices)}'"
    if complete == DIRECTORIES:
        return 'COMPREPLY=($(compgen -d -- "$cur"))'
    if complete == FILES:
        return 'COMPREPLY=($(compgen -f -- "$cur"))'
    return f"_agentctl_names {complete}" if complete else ""
