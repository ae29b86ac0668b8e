"""Verdicts about path lists, one entry at a time: writable, read-only, hidden, bound, covered, not executable."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentd.core.directives_spec import Check
from agentd.core.judge_context import Context, Item, Look, Outcome, unreadable
from agentd.core.judge_paths import bare, hidden, mount_at, mount_over, optional, void
from agentd.evidence import PathEvidence


def read_write(look: Look) -> Outcome:
    path = bare(look.entry)
    nothing, seen = void(look.context, look.process), look.process.paths.get(path)
    if nothing is not None:
        return nothing
    if seen is None or seen.problem:
        return unreadable(look.process, path)
    if not seen.exists:
        return _absent(look.context, path, "nothing can be written there")
    if not seen.readonly:
        return Outcome(True, f"{path} writable")
    own = look.context.own(path)
    if own is not None and own.readonly:
        return Outcome(False, f"{path} read-only", "its file system is read-only for the whole host", "remount it")
    if optional(look.entry):
        return Outcome(
            False, f"{path} read-only",
            "it did not exist when the unit was started, and with '-' the start goes on without it",
            f"create it before the start, then: {look.context.restart}",
        )  # fmt: skip
    return Outcome(False, f"{path} read-only")


def _absent(context: Context, path: str, what: str) -> Outcome:
    return Outcome(
        None,
        f"{path} does not exist",
        f"it does not exist, so {what}; the '-' lets the unit start without it",
        f"if the unit needs it, create it, then: {context.restart}",
    )


def read_only_path(look: Look) -> Outcome:
    path = bare(look.entry)
    nothing, seen = void(look.context, look.process), look.process.paths.get(path)
    if nothing is not None:
        return Outcome(False, nothing.text)
    if seen is None or seen.problem:
        return unreadable(look.process, path)
    if not seen.exists:
        return _gone(look.context, path)
    return Outcome(seen.readonly, f"{path} {'read-only' if seen.readonly else 'writable'}")


def inaccessible(look: Look) -> Outcome:
    path = bare(look.entry)
    nothing, seen = void(look.context, look.process), look.process.paths.get(path)
    if nothing is not None:
        return nothing
    state = hidden(look.context, look.process, path)
    if state is True:
        return Outcome(True, f"{path} hidden")
    if state is None:
        absent = seen is not None and not seen.exists and not seen.problem
        return _gone(look.context, path) if absent else unreadable(look.process, path)
    cause = "it did not exist when the unit was started" if optional(look.entry) else ""
    return Outcome(False, f"{path} can be opened", cause, look.context.restart if cause else "")


def _gone(context: Context, path: str) -> Outcome:
    cause = "it does not exist; created while the unit runs, it would not be protected until the next start"
    return Outcome(None, f"{path} does not exist", cause, context.restart)


def no_exec(look: Look) -> Outcome:
    path = bare(look.entry)
    nothing, seen = void(look.context, look.process), look.process.paths.get(path)
    if nothing is not None:
        return nothing
    if seen is not None and not seen.exists and not seen.problem:
        return _gone(look.context, path)
    mount = mount_over(look.process, path)
    if mount is None:
        return unreadable(look.process, "its mounts")
    forbidden = "noexec" in mount.options
    text = f"{path} {'not ' if forbidden else ''}executable"
    return Outcome(forbidden == (look.item.spec.arg == "noexec"), text)


def bound(look: Look) -> Outcome:
    """The entry is "SOURCE:TARGET"."""
    origin, _, target = look.entry.partition(":")
    path = bare(origin)
    nothing = void(look.context, look.process)
    if nothing is not None:
        return nothing
    source = look.context.own(path)
    mount = mount_at(look.process, target)
    if mount is None:
        if not look.process.mounts:
            return unreadable(look.process, "its mounts")
        if optional(origin) and source is not None and not source.exists:
            return _absent(look.context, path, "nothing is bound")
        return Outcome(False, f"nothing is mounted on {target}")
    if look.item.spec.arg == "ro" and "ro" not in mount.options:
        return Outcome(False, f"{target} mounted writable")
    if _differs(source, look.process.paths.get(target)):
        return Outcome(None, f"{target} shows another file than {path}", "something else may be mounted over it")
    return Outcome(True, f"{target} bound {'read-only' if look.item.spec.arg == 'ro' else 'writable'}")


def _pairs(item: Item) -> tuple[tuple[str, str], ...]:
    return item.loaded.value if isinstance(item.loaded.value, tuple) else ()


def _differs(source: PathEvidence | None, target: PathEvidence | None) -> bool:
    if source is None or target is None or not source.exists or not target.exists:
        return False
    return (source.device, source.inode) != (target.device, target.inode)


def tmpfs(look: Look) -> Outcome:
    nothing = void(look.context, look.process)
    if nothing is not None:
        return nothing
    mount = mount_at(look.process, bare(look.entry))
    if mount is None and not look.process.mounts:
        return unreadable(look.process, "its mounts")
    if mount is None or mount.fstype != "tmpfs":
        return Outcome(False, f"no tmpfs on {bare(look.entry)}")
    options = dict(_pairs(look.item)).get(look.entry, "").split(",")
    if "ro" in options and "ro" not in mount.options:
        return Outcome(False, f"the tmpfs on {bare(look.entry)} is writable")
    return Outcome(True, f"tmpfs on {bare(look.entry)}")


def credential(look: Look) -> Outcome:
    path = f"{credentials(look.context)}/{look.entry}"
    seen = look.process.paths.get(path)
    if seen is None or seen.problem:
        return unreadable(look.process, path)
    if not seen.exists:
        return Outcome(False, f"{path} is missing", "systemd has not put the credential there")
    return Outcome(True, f"{path} is there")


def credentials(context: Context) -> str:
    """The unit's folder of credentials."""
    runtime = context.host.runtime_dir if context.user else "/run"
    return f"{runtime}/credentials/{context.unit}"


LISTS: Mapping[Check, Callable[[Look], Outcome]] = {
    Check.READ_WRITE: read_write,
    Check.READ_ONLY: read_only_path,
    Check.INACCESSIBLE: inaccessible,
    Check.NO_EXEC: no_exec,
    Check.BIND: bound,
    Check.TMPFS: tmpfs,
    Check.CREDENTIAL: credential,
}
