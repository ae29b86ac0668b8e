"""What the next start of a store would read: the file with its includes, and the unit's arguments. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agentd.core.redis_conf import Effective, Setting
from agentd.core.redis_layout import LAYOUT_NAMES
from agentd.core.redis_policy import drift, wanted
from agentd.core.redis_view import StoreView
from agentd.core.schema_redis import RedisPolicy
from agentd.findings import Finding, Severity, Verdict


def file_findings(view: StoreView, policy: RedisPolicy) -> tuple[bool | None, tuple[Finding, ...]]:
    """(whether the next start is as wanted, None when that cannot be verified; the findings)."""
    if not view.local:
        cause = "it runs on another machine, so its file cannot be read"
        return None, (_unverified(view, cause, "run agentd there, too"),)
    if view.effective is None:
        cause = "it was started without a configuration file, and no unit of it is known"
        return None, (_unverified(view, cause, "start it by a unit with a configuration file"),)
    if view.effective.problems:
        return None, (_unreadable(view, view.effective),)
    found = (
        *_values(view, policy, view.effective),
        *_places(view, view.effective),
        *_empty_start(view, view.effective),
    )
    wrong = any(finding.severity in (Severity.WARNING, Severity.ERROR) for finding in found)
    if wrong:
        return False, found
    if view.launch.problem:
        return None, (_unverified(view, f"the arguments of its unit are not known: {view.launch.problem}", ""),)
    return True, (Finding(view.name, "file", Verdict.EFFECTIVE, Severity.OK, source=view.state.config_file), *found)


def _unverified(view: StoreView, cause: str, fix: str) -> Finding:
    return Finding(view.name, "file", Verdict.NOT_PROVABLE, Severity.WARNING, cause=cause, fix=fix)


def _unreadable(view: StoreView, effective: Effective) -> Finding:
    cause = f"what the next start reads cannot be verified: {effective.problems[0]}"
    fix = f"join the group that may read it, or: sudo agentctl redis persist {view.state.config_file}"
    return _unverified(view, cause, fix)


def _values(view: StoreView, policy: RedisPolicy, effective: Effective) -> Iterator[Finding]:
    values = {name: effective.values[name].value for name in wanted(policy) if name in effective.values}
    for item in drift(policy, values):
        setting = effective.values[item.name]
        yield Finding(
            view.name,
            f"file:{item.name}",
            Verdict.OVERRIDDEN if setting.overridden or setting.argument else Verdict.NOT_EFFECTIVE,
            Severity.ERROR if item.name in ("appendonly", "save") else Severity.WARNING,
            declared=item.wanted,
            loaded=item.found,
            cause=f'the next start would have {item.name} "{item.found}", by {_whence(view, setting)}',
            fix=_fix(view, item.name, setting),
            source=setting.source,
        )


def _whence(view: StoreView, setting: Setting) -> str:
    if setting.argument:
        return f"ExecStart= of {view.launch.unit or 'its unit'}, which beats the file"
    return setting.source if setting.source != "default" else "default: no file says anything else"


def _fix(view: StoreView, name: str, setting: Setting) -> str:
    if setting.argument:
        user = "--user " if view.launch.scope == "user" else ""
        unit = view.launch.unit
        edit = f": systemctl {user}edit --full {unit}" if unit else ""
        return f"take --{name} out of ExecStart= of {unit or 'its unit'}{edit}"
    if not view.state.config_file:
        return "start it with a configuration file"
    return f"agentctl redis enforce {view.name}, or: sudo agentctl redis persist {view.state.config_file} --apply"


def _places(view: StoreView, effective: Effective) -> Iterator[Finding]:
    """These cannot be changed while it runs: another value in the file takes effect at the next start, on no data."""
    for name in LAYOUT_NAMES:
        setting, now = effective.values.get(name), (view.running or {}).get(name)
        if setting is None or not now or setting.value == now:
            continue
        if name == "dir" and (setting.source == "default" or not setting.value.startswith("/")):
            continue  # Relative to wherever it is started.
        if name == "dir" and setting.value.rstrip("/") == now.rstrip("/"):
            continue
        yield Finding(
            view.name,
            f"file:{name}",
            Verdict.NOT_EFFECTIVE,
            Severity.ERROR,
            declared=now,
            loaded=setting.value,
            cause=f'the next start would look for its data elsewhere: {name} is "{setting.value}", now it is "{now}"',
            fix=f'set {name} back to "{now}" in {setting.source}, or move the files while it is stopped',
            source=setting.source,
        )


def _empty_start(view: StoreView, effective: Effective) -> Iterator[Finding]:
    """The classic: `appendonly yes` in the file of a server that has only an RDB."""
    setting = effective.values.get("appendonly")
    if setting is None or setting.value != "yes" or view.running is None or view.running.get("appendonly") != "no":
        return
    yield Finding(
        view.name,
        "restart",
        Verdict.NOT_EFFECTIVE,
        Severity.ERROR,
        loaded="yes",
        effective="no",
        cause="a restart now would lose data: the file says appendonly yes, the running server has it off, so that the "
        "next start would ignore the RDB and read an append-only file that is missing or old",
        fix=f"do not restart it; agentctl redis enforce {view.name}",
        source=setting.source,
    )
