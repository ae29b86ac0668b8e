"""The completions, in the real shells where they are installed (bash always is)."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.serving import Served, served

from agentd.cli.commands import COMMANDS
from agentd.cli.completion import script


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with `agentctl` on its path, its three scripts, and a daemon to ask for names."""
    directory = tmp_path_factory.mktemp("completion")
    with served(directory) as server:
        make(directory, server)
        yield directory


def make(directory: Path, server: Served) -> None:
    server.call(lambda ops: setattr(ops, "instant", True))
    program = directory / "agentctl"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m agentd.cli.main "$@"\n')
    program.chmod(0o755)
    for shell in ("bash", "zsh", "fish"):
        (directory / f"agentctl.{shell}").write_text(script(shell))


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "AGENTD_SOCKET": str(home / "agentd.sock"), "PATH": f"{home}:{os.environ['PATH']}"}


def bash(home: Path, line: str) -> list[str]:
    """What Tab offers at the end of the line; words are split as readline does it ("=" stands alone)."""
    words = ["="] if line == "=" else [w for part in line.split(" ") for w in _split(part)]
    quoted = " ".join(shlex.quote(w) for w in words)
    code = (
        f"set -eu; source {shlex.quote(str(home / 'agentctl.bash'))}; set +eu\n"
        f"COMP_WORDS=({quoted}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        "function=$(complete -p agentctl); [[ $function == *'-F _agentctl '* ]] || exit 9\n"
        "_agentctl; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return run(["bash", "--norc", "-c", code], environment(home)).split()


def run(argv: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=30, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def _split(word: str) -> list[str]:
    name, equals, value = word.partition("=")
    return [name, equals, value] if equals and value else [name, equals] if equals else [name]


CASES = [
    ("agentctl swi", ["switch-model", "switch"]),
    ("agentctl switch ", ["status", "cancel"]),
    ("agentctl switch-model ", ["qwen", "dolphin"]),
    ("agentctl switch-model --drain 5s d", ["dolphin"]),
    ("agentctl switch-model qwen ", []),
    ("agentctl switch-model qwen --on-busy ", ["abort", "refuse"]),
    ("agentctl switch-model --dr", ["--drain", "--dry-run"]),
    ("agentctl switch-model --drain ", []),
    ("agentctl lease --slot ", ["gpu0"]),
    ("agentctl lease --slot gpu0 e", ["end"]),
    ("agentctl logs r", ["redis"]),
    ("agentctl config ch", ["check"]),
    ("agentctl redis v", ["verify"]),
    ("agentctl redis enforce ", ["redis"]),
    ("agentctl redis enforce --acc", ["--accept-loss"]),
    ("agentctl redis backup --keep ", []),
    ("agentctl redis restore --store ", ["redis"]),
    ("agentctl config show --prov", ["--provenance"]),
    ("agentctl completion z", ["zsh"]),
    ("agentctl sandbox --b", ["--bare"]),
    ("agentctl nonsense ", []),
]


@pytest.mark.parametrize(("line", "expected"), [*CASES, ("agentctl switch-model --on-busy=re", ["refuse"])])
def test_bash(home: Path, line: str, expected: list[str]) -> None:
    assert sorted(bash(home, line)) == sorted(expected)


def test_bash_offers_files_and_directories(home: Path, tmp_path: Path) -> None:
    (tmp_path / "redis.conf").touch()
    (tmp_path / "backups").mkdir()
    assert bash(home, f"agentctl redis persist {tmp_path}/r") == [f"{tmp_path}/redis.conf"]
    assert bash(home, f"agentctl redis restore {tmp_path}/") == [f"{tmp_path}/backups"]
    assert bash(home, f"agentctl redis backup --to {tmp_path}/") == [f"{tmp_path}/backups"]


def test_bash_knows_every_command_and_option(home: Path) -> None:
    firsts = set(bash(home, "agentctl "))
    assert firsts == {c.words[0] for c in COMMANDS}
    for command in COMMANDS[:3]:
        flags = {flag for opt in command.opts for flag in opt.flags}
        assert set(bash(home, f"agentctl {command.name} -")) == flags | {"--help", "-h"}


def test_completion_is_quiet_without_a_daemon(home: Path, tmp_path: Path) -> None:
    env = {**environment(home), "AGENTD_SOCKET": str(tmp_path / "none"), "AGENTD_CONFIG_DIR": str(tmp_path)}
    for kind in ("models", "services", "slots", "changes", "stores", "nonsense"):
        run([str(home / "agentctl"), "__complete", kind], env)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(home: Path) -> None:
    for line, expected in CASES:
        code = f"source {shlex.quote(str(home / 'agentctl.fish'))}; complete -C {shlex.quote(line)}"
        out = run(["fish", "--no-config", "-c", code], environment(home))
        assert (line, sorted(row.split("\t")[0] for row in out.splitlines())) == (line, sorted(expected))


_ZSH = r"""
autoload -Uz compinit; compinit -u -d {dump}
compadd() {{
  local -a plain; local i array=
  for ((i = 1; i <= $#; i++)); do
    case ${{@[i]}} in
      -a) array=${{@[i+1]}}; i=$((i + 1)) ;;
      -*) ;;
      *) plain+=("${{@[i]}}") ;;
    esac
  done
  [[ -n $array ]] && plain+=("${{(@P)array}}")
  print -l -- $plain
}}
_describe() {{ local -a all; all=("${{(@P)2}}"); print -l -- ${{all%%:*}}; }}
_files() {{ : }}
_call_program() {{ shift; "$@"; }}
source {script}
words=({words}); CURRENT=${{#words}}
_agentctl
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(home: Path, tmp_path: Path) -> None:
    """zsh itself filters by what is typed, so what it is offered may be more."""
    for line, expected in CASES:
        typed = line.split(" ")
        words = " ".join(shlex.quote(w) for w in typed)
        code = _ZSH.format(dump=tmp_path / "dump", script=home / "agentctl.zsh", words=words)
        out = run(["zsh", "-f", "-c", code], environment(home))
        assert (line, sorted(w for w in out.split() if w.startswith(typed[-1]))) == (line, sorted(expected))
