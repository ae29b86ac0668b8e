"""`agentctl redis persist`: what a redis.conf makes effective, and the edit that brings it to the policy.

Imported only when that command runs, as a rule by root under sudo. The policy, and the way to reach the server, are
those of the user who called sudo, read with that user's rights.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

from agentd import paths
from agentd.adapters import redis_launch
from agentd.adapters.config_files import load
from agentd.adapters.credentials import password_source
from agentd.adapters.redis_files import LocalDataFiles
from agentd.adapters.systemd_props import NAME, SERVICE, unit_path
from agentd.adapters.user_manager import Account, account, rights_of
from agentd.core.redis_conf import Effective, effective
from agentd.core.redis_conf_edit import Edit, edit
from agentd.core.redis_layout import LAYOUT_NAMES
from agentd.core.redis_policy import drift, wanted
from agentd.core.schema import Settings
from agentd.core.schema_redis import RedisPolicy
from agentd.errors import AgentdError
from agentd.offline_redis_server import ADDRESS_NAMES, Server, ask, unsafe
from agentd.stores import ConfFile, ConfTree, Launch

NAMES = (*wanted(RedisPolicy()), *LAYOUT_NAMES, *ADDRESS_NAMES)
BUSCTL_SECONDS = 10.0
Password = Callable[[], str] | None


@dataclass(frozen=True, slots=True)
class FileLine:
    """One setting as the next start would read it. `source`: "FILE:LINE", "ExecStart=" or "default"."""

    name: str
    value: str
    wanted: str
    source: str
    ok: bool


@dataclass(frozen=True, slots=True)
class FileReport:
    file: str
    unit: str
    server: str
    """What is known of the running server, in one sentence."""
    lines: tuple[FileLine, ...]
    edits: tuple[str, ...] = ()
    """What has to be changed; what was, when `applied`."""
    impossible: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Why the values are not certain, or dangerous as they are."""
    refused: str = ""
    """Why the edits must not be made now."""
    notes: tuple[str, ...] = ()
    applied: bool = False
    backup: str = ""
    """Where the old text is kept."""


@dataclass(frozen=True, slots=True)
class _Look:
    """The file and everything that decides what it leads to."""

    main: ConfFile
    tree: ConfTree
    launch: Launch
    found: Effective
    server: Server


def check(file: str, unit: str = "", apply: bool = False) -> FileReport:
    """Raises AgentdError, ConfigError; "redis-refused-state" when `apply` would make the next start begin empty, or
    when what the file says is not certain. Then nothing was changed."""
    who = _caller()
    settings = _settings(who)
    path = os.path.abspath(file)  # noqa: PTH100  (no link is to be resolved)
    asked = _launch_of(unit) if unit else None
    password = _password(settings.redis, who)
    return asyncio.run(_check(path, asked, settings, password, apply=apply))


async def _check(path: str, asked: Launch | None, settings: Settings, password: Password, *, apply: bool) -> FileReport:
    files, policy = LocalDataFiles(), settings.redis
    look = await _look(files, path, asked, settings, password)
    plan = edit(look.tree, look.launch.argv, wanted(policy))
    refused, problems = await _dangers(files, look, plan)
    report = _report(look, policy, plan, (*look.found.problems, *problems))
    if refused or not apply or plan.text is None:
        if refused and apply:
            hint = "nothing was changed; the order that loses nothing is: agentctl redis enforce first"
            raise AgentdError("redis-refused-state", f"cannot change {path}: {refused}", hint=hint)
        return replace(report, refused=refused)
    backup = await files.patch(path, look.main.text or "", plan.text)
    after = await _look(files, path, look.launch, settings, password)
    left = edit(after.tree, after.launch.argv, wanted(policy))
    done = _report(after, policy, replace(left, changes=plan.changes), after.found.problems)
    return replace(done, applied=True, backup=backup)


async def _look(
    files: LocalDataFiles, path: str, asked: Launch | None, settings: Settings, password: Password
) -> _Look:
    tree = await files.configuration(path)
    main = tree.main
    if main is None or main.text is None:
        problem = main.problem if main is not None else "it is not there"
        hint = "" if os.geteuid() == 0 else "only root or the server's own user may read it; use sudo"
        raise AgentdError("file-unreadable", f"cannot read {path}: {problem}", hint=hint)
    argv = asked.argv if asked is not None else ()
    server = await ask(settings, path, effective(tree, argv, NAMES), password)
    launch = asked or await _launch(files, server)
    return _Look(main, tree, launch, effective(tree, launch.argv, NAMES), server)


async def _launch(files: LocalDataFiles, server: Server) -> Launch:
    if server.state is None:
        return Launch(problem="the arguments of its unit are not known: name it by --unit")
    return await files.launch(server.state.pid)


async def _dangers(files: LocalDataFiles, look: _Look, plan: Edit) -> tuple[str, tuple[str, ...]]:
    """(why the edit must not be made; what is dangerous already)."""
    before = look.found.values["appendonly"].value
    after = before
    if plan.text is not None:
        changed = replace(look.tree, files=(replace(look.main, text=plan.text), *look.tree.files[1:]))
        after = effective(changed, look.launch.argv, NAMES).values["appendonly"].value
    danger = await unsafe(files, look.server, look.found) if "yes" in (before, after) else ""
    if before == "yes" and danger and look.server.state is not None:
        return "", (f"do not restart it now: {danger}",)
    if before != "yes" and danger:
        return danger, ()
    if plan.text is not None and look.found.problems:
        return f"what it says is not certain: {look.found.problems[0]}", ()
    return "", ()


def _report(look: _Look, policy: RedisPolicy, plan: Edit, problems: Sequence[str]) -> FileReport:
    values = {name: setting.value for name, setting in look.found.values.items()}
    wrong = {item.name for item in drift(policy, values)}
    lines = tuple(
        FileLine(name, values[name], value, look.found.values[name].source, name not in wrong)
        for name, value in wanted(policy).items()
        if name in values
    )
    notes = (look.launch.problem,) if look.launch.problem else ()
    return FileReport(
        look.main.path,
        look.launch.unit,
        look.server.words,
        lines,
        plan.changes,
        plan.impossible,
        tuple(dict.fromkeys(problems)),
        notes=notes,
    )


# -- who calls, and which unit ----------------------------------------------------------------------------------------


def _caller() -> Account | None:
    """The user behind sudo; None when nobody else is."""
    name = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    return account(name) if name not in ("", "root") else None


def _settings(who: Account | None) -> Settings:
    if who is None:
        return load(paths.config_layers(), required=paths.config_override(), home=str(paths.home())).settings
    env = {**os.environ, "HOME": who.home}
    env.pop("XDG_CONFIG_HOME", None)
    with rights_of(who):
        return load(paths.config_layers(env=env), required=paths.config_override(env=env), home=who.home).settings


def _password(policy: RedisPolicy, who: Account | None) -> Password:
    """Read at once, since rights are those of the whole process."""
    source = password_source(policy.password_file, policy.password_credential)
    if source is None:
        return None
    try:
        with rights_of(who) if who is not None else nullcontext():
            secret = source()
    except AgentdError as error:
        return partial(_fail, error)
    return lambda: secret


def _fail(error: AgentdError) -> str:
    raise error


def _launch_of(unit: str) -> Launch:
    """Of a unit by name, whether it runs or not; the system's manager first. Raises AgentdError("unit-not-found")."""
    name = unit if "." in unit else f"{unit}.service"
    for scope in ("system", "user"):
        found = redis_launch.parse_busctl(_busctl(scope, name))
        if found is not None and found.commands:
            process = redis_launch.Process(Launch(unit=name, scope=scope))
            return redis_launch.judged(process, found.main_pid, found)
    raise AgentdError("unit-not-found", f"no unit {name} that starts something", hint="see: systemctl list-unit-files")


def _busctl(scope: str, unit: str) -> str:
    words = ("--json=short", "get-property", NAME, unit_path(unit), SERVICE, "ExecStart", "MainPID")
    env = {**os.environ, "XDG_RUNTIME_DIR": str(paths.user_runtime_dir()), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["busctl", f"--{scope}", *words],
            capture_output=True,
            text=True,
            timeout=BUSCTL_SECONDS,
            env=env,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
