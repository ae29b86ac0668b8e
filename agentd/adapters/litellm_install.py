"""Finds the installed LiteLLM: its program, the interpreter behind it, and what that has. Blocks for a moment."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from agentd.adapters.litellm_package import find_package
from agentd.core.gateway.install import Install
from agentd.errors import AgentdError

PROGRAM = "litellm"
_HINT = "install it, for instance with: pipx install 'litellm[proxy]'; or set executable in [gateway] of agentd.toml"
_MOST_STEPS = 8
_LARGEST_SCRIPT = 64 * 1024
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")


def find_install(executable: str = "", env: Mapping[str, str] = os.environ) -> Install:
    """`executable`: a path or a name; "" for `litellm` on the PATH or in ~/.local/bin.

    Follows links and wrapper scripts to the interpreter. Raises AgentdError: "litellm-missing" when there is none,
    "litellm-unknown" when the program is not a Python program with a LiteLLM beside it.
    """
    home = Path(env.get("HOME") or Path.home())
    program = _program(executable, home, env)
    script, python = _behind(program, home, env)
    package = find_package(python, home) or find_package(Path(os.path.realpath(python)), home)
    if package is None:
        raise _unknown(program, f"{python} has no package litellm")
    return Install(str(script), str(python), package.version, package.router_keys, package.prometheus)


def _program(executable: str, home: Path, env: Mapping[str, str]) -> Path:
    if not executable:
        found = _on_path(PROGRAM, env) or _runnable(home / ".local/bin" / PROGRAM)
        if found is None:
            raise AgentdError(
                "litellm-missing", "cannot find LiteLLM: no litellm on PATH or in ~/.local/bin", hint=_HINT
            )
        return found
    if "/" not in executable and not executable.startswith("~"):
        found = _on_path(executable, env)
        if found is None:
            raise AgentdError("litellm-missing", f"cannot find LiteLLM: no {executable} on PATH", hint=_HINT)
        return found
    path = Path(re.sub(r"^~(?=/|$)", str(home), executable))
    found = _runnable(path)
    if found is None:
        why = "is not an executable file" if path.exists() else "does not exist"
        raise AgentdError("litellm-missing", f"cannot find LiteLLM: {path} {why}", hint=_HINT)
    return found


def _on_path(name: str, env: Mapping[str, str]) -> Path | None:
    found = shutil.which(name, path=env.get("PATH") or os.defpath)
    return Path(found).absolute() if found else None


def _runnable(path: Path) -> Path | None:
    return path.absolute() if path.is_file() and os.access(path, os.X_OK) else None


def _behind(program: Path, home: Path, env: Mapping[str, str]) -> tuple[Path, Path]:
    """The script behind links and wrappers, and the Python that runs it. The latter's path is not resolved: by it a
    virtual environment is known."""
    script, at = program, program
    for _ in range(_MOST_STEPS):
        if _PYTHON.fullmatch(at.name):
            return script, at
        script = Path(os.path.realpath(at))
        words = _first_command(script, program, home, env)
        found = _runnable(Path(words[0])) if words[0].startswith("/") else _on_path(words[0], env)
        if found is None:
            raise _unknown(program, f"{words[0]}, which {script} runs, is not there")
        at = found
    raise _unknown(program, "its wrapper scripts lead to each other")


def _first_command(script: Path, program: Path, home: Path, env: Mapping[str, str]) -> list[str]:
    """What runs this script: the interpreter of its first line, or what a shell script executes."""
    try:
        with script.open("rb") as file:
            text = file.read(_LARGEST_SCRIPT).decode(errors="replace")
    except OSError as error:
        raise _unknown(program, f"{script} cannot be read: {error.strerror}") from None
    if not text.startswith("#!"):
        raise _unknown(program, f"{script} is not a script")
    first, _, rest = text.partition("\n")
    words = first[2:].split()
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    if not words:
        raise _unknown(program, f"{script} names no interpreter")
    if _PYTHON.fullmatch(Path(words[0]).name):
        return words
    executed = _executed(rest, home, env)
    if executed is None:
        raise _unknown(
            program, f"{script} is a {Path(words[0]).name} script that executes no program with a fixed path"
        )
    return executed


def _executed(text: str, home: Path, env: Mapping[str, str]) -> list[str] | None:
    """Of `exec /path/litellm "$@"`, and of the line with which pip starts an interpreter with a long path. The last one
    counts: before it a wrapper sets things up."""
    found = None
    for line in text.splitlines():
        match = re.match(r"""\s*(?:'''exec'|exec)\s+(.+)""", line)
        if match is None:
            continue
        try:
            words = shlex.split(match[1], comments=True)
        except ValueError:
            continue
        words = [_expanded(word, home, env) for word in words if not re.fullmatch(r"-a|\w+=.*", word)]
        if words and words[0] == "env":
            words = words[1:]
        if words and "$" not in words[0]:
            found = words
    return found


def _expanded(word: str, home: Path, env: Mapping[str, str]) -> str:
    variables = {**env, "HOME": str(home)}
    word = re.sub(r"^~(?=/|$)", str(home), word)
    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda m: variables.get(m[1] or m[2], m[0]), word)


def _unknown(program: Path, why: str) -> AgentdError:
    return AgentdError("litellm-unknown", f"cannot tell which LiteLLM {program} is: {why}", hint=_HINT)
