"""`agentctl host-setup`: looks at a user's manager, and as root carries out what core/hostsetup.py finds.

Imported only when that command runs. Everything that is written lies below `root`, another directory only in tests.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd import paths, resources
from agentd.adapters.config_files import load
from agentd.adapters.files import LocalFiles
from agentd.adapters.inspect_host import read_host
from agentd.adapters.user_manager import Account, look, rights_of, told_by_files
from agentd.adapters.user_manager import account as account
from agentd.core.dropin import DropIn
from agentd.core.hostcheck import host_findings
from agentd.core.hostfiles import FILES, SYSCTL, Present, undoing
from agentd.core.hostsetup import RELOAD, HostStep, steps
from agentd.core.profile import desired
from agentd.errors import AgentdError, ConfigError
from agentd.evidence import HostEvidence
from agentd.findings import Finding
from agentd.types import Scope
from agentd.wire import plain

COMMAND_TIMEOUT = 120.0
"""Seconds; a restart of a user's manager stops every service of the user first."""
_JOURNAL = "run/agentd-host-setup/intent.json"

Runner = Callable[[Sequence[str]], None]
"""Runs a command as root. Raises AgentdError("command-failed")."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found, and what is to be done about it."""

    account: Account
    host: HostEvidence
    steps: tuple[HostStep, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Files that somebody changed."""
    ran: tuple[str, ...] = ()
    restarts: tuple[str, ...] = ()
    """Units that still have to be restarted."""


def survey(who: Account, directory: str | None = None, *, root: Path = Path("/")) -> Survey:
    """`directory`: the configuration's, as of --config. Raises AgentdError when our files cannot be read."""
    host = look(who, root=root)
    declared, scope, notes = _declared(who, host, directory)
    if scope is Scope.SYSTEM:
        host = read_host(Scope.SYSTEM, told_by_files(""))
    elif not host.manager_pid:
        notes = (*notes, f"the manager of {who.name} does not run: its limits could not be looked at")
    findings = host_findings(host, declared or ())
    return Survey(who, host, steps(host, declared, who.name, present(root)), findings, notes)


def recover(*, root: Path = Path("/")) -> tuple[str, ...]:
    """Before looking, where something is to be written: undo the files of a run that was killed among them, since only
    a whole set can be judged. The paths that got their old text back. Raises AgentdError."""
    return asyncio.run(_files(root).recover())


def present(root: Path = Path("/")) -> Present:
    texts: dict[str, str | None] = {}
    changed = 0.0
    files = _files(root)
    for path in FILES:
        texts[path] = asyncio.run(files.read(_below(root, path)))
        if texts[path] is not None and path != SYSCTL:
            changed = max(changed, Path(_below(root, path)).stat().st_mtime)
    return Present(texts, changed)


def apply(
    todo: Sequence[HostStep], *, restart: bool = False, root: Path = Path("/"), run: Runner | None = None
) -> Applied:
    """All files as one set, then the commands, each once. After any failure: `recover`, look again, apply again.
    Raises AgentdError."""
    run = run or run_command
    texts = {path: text for step in todo for path, text in step.files.items()}
    asyncio.run(_files(root).apply({_below(root, path): text for path, text in texts.items()}))
    ran = []
    for command in dict.fromkeys(command for step in todo for command in step.commands):
        run(shlex.split(command))
        ran.append(command)
    units = tuple(dict.fromkeys(unit for step in todo for unit in step.restarts))
    if restart:
        for unit in units:
            run(["systemctl", "restart", unit])
            ran.append(f"systemctl restart {unit}")
        units = ()
    return Applied(written=tuple(texts), ran=tuple(ran), restarts=units)


def undo(*, root: Path = Path("/"), run: Runner | None = None) -> Applied:
    """Remove our files; what somebody changed is kept. Raises AgentdError."""
    recover(root=root)
    removals, kept = undoing(present(root))
    if not removals:
        return Applied(kept=kept)
    asyncio.run(_files(root).apply({_below(root, path): None for path in removals}))
    (run or run_command)(shlex.split(RELOAD))
    return Applied(removed=removals, kept=kept, ran=(RELOAD,))


def run_command(argv: Sequence[str]) -> None:
    what = shlex.join(argv)
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise AgentdError("command-failed", f"`{what}` did not end within {COMMAND_TIMEOUT:g} s") from None
    except OSError as error:
        raise AgentdError("command-failed", f"cannot run `{what}`: {(error.strerror or '').lower()}") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise AgentdError("command-failed", f"`{what}` failed: {said}", hint="put that right and run host-setup again")


def as_json(found: Survey, done: Applied | None = None) -> dict[str, Any]:
    return {
        "user": found.account.name,
        "uid": found.account.uid,
        "steps": [plain(step) for step in found.steps],
        "findings": [plain(finding) for finding in found.findings],
        "notes": list(found.notes),
        "applied": plain(done),
    }


def _files(root: Path) -> LocalFiles:
    roots = [root / name for name in ("etc/systemd/system", "etc/security/limits.d", "etc/sysctl.d")]
    return LocalFiles(roots, journal=root / _JOURNAL if os.geteuid() == 0 or root != Path("/") else None)


def _below(root: Path, path: str) -> str:
    return str(root / path.lstrip("/"))


def _declared(
    who: Account, host: HostEvidence, directory: str | None
) -> tuple[tuple[DropIn, ...] | None, Scope, tuple[str, ...]]:
    """The drop-ins that the user's configuration declares; None with a note when it cannot be read."""
    env = {**os.environ, "HOME": who.home}
    if who.uid != os.geteuid():
        env.pop("XDG_CONFIG_HOME", None)
    try:
        with rights_of(who):
            override = paths.config_override(directory, env)
            settings = load(paths.config_layers(directory, env), required=override, home=who.home).settings
        scope = Scope(settings.daemon.scope)
        return desired(settings, resources.profile_texts(), host), scope, ()
    except (AgentdError, OSError) as error:
        why = str(error.problems[0]) if isinstance(error, ConfigError) else str(error)
        note = (
            f"the configuration of {who.name} cannot be used ({why}): every controller counts as needed, and hard "
            "limits are not looked at"
        )
        return None, Scope.USER, (note,)
