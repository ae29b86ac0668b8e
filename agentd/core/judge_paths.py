"""What a process sees of paths: read-only, hidden, exempted, another file system. And which paths have to be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentd.core.directives_spec import Check, Kind
from agentd.core.judge_context import Context, Item, Outcome, has_user_namespace, same_namespace, unreadable
from agentd.core.loaded_lists import Asked, bind, normal
from agentd.core.unitfile import words
from agentd.evidence import Mount, ProcessEvidence

SYSTEM_PATHS = {
    "yes": ("/usr", "/boot", "/efi"),
    "full": ("/usr", "/boot", "/efi", "/etc"),
    # Homes stay as they are: they are the business of ProtectHome=.
    "strict": ("/", "/usr", "/boot", "/etc", "/var", "/opt"),
}
HOME_PATHS = ("/home", "/root", "/run/user")
_FIXED: dict[Check, tuple[str, ...]] = {
    Check.PROTECT_HOME: HOME_PATHS,
    Check.PRIVATE_TMP: ("/tmp", "/var/tmp"),
    Check.PRIVATE_DEVICES: ("/dev",),
    Check.KERNEL_TUNABLES: ("/proc/sys",),
    Check.KERNEL_MODULES: ("/usr/lib/modules",),
    Check.KERNEL_LOGS: ("/proc/kmsg",),
    Check.CONTROL_GROUPS: ("/sys/fs/cgroup",),
    Check.ROOT: ("/",),
}


def needed(asked: Asked, credentials: str) -> Iterator[str]:
    """Paths whose evidence the directive wants; `credentials`: the folder of the unit's."""
    check = asked.spec.check
    yield from _FIXED.get(check, ())
    if check is Check.PROTECT_SYSTEM:
        yield from SYSTEM_PATHS.get(asked.setting.text, SYSTEM_PATHS["yes"])
    elif check in (Check.READ_WRITE, Check.READ_ONLY, Check.INACCESSIBLE, Check.NO_EXEC):
        yield from (bare(word) for word in asked.words())
    elif check is Check.BIND:
        for source, target in map(bind, asked.words()):
            yield from (bare(source), target)
    elif check is Check.TMPFS:
        yield from (normal(word.partition(":")[0]) for word in asked.words())
    elif check is Check.CREDENTIAL:
        yield from (f"{credentials}/{value.partition(':')[0]}" for value in asked.setting.values)


def bare(path: str) -> str:
    """Without the "-" (may be missing) and "+" (below the root directory)."""
    return normal(path.lstrip("-+"))


def optional(path: str) -> bool:
    return "-" in path[: len(path) - len(path.lstrip("-+"))]


def below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def exemptions(context: Context) -> list[str]:
    """What other directives of the unit make writable on purpose."""
    found = []
    for key in ("ReadWritePaths", "BindPaths", "TemporaryFileSystem"):
        loaded = context.view.properties.get(key)
        setting = context.setting(key)
        if isinstance(loaded, list | tuple):
            at = 1 if key == "BindPaths" else 0
            found += [str(item if isinstance(item, str) else item[at]) for item in loaded]
        elif setting is not None:
            found += [word.partition(":")[0] for value in setting.values for word in words(value)]
    return [bare(path) for path in found if path.lstrip("-+").startswith("/")]


def void(context: Context, process: ProcessEvidence) -> Outcome | None:
    """Nothing was mounted for the process at all."""
    if same_namespace(context, process, "mnt"):
        return Outcome(False, "it has no mount namespace of its own")
    if context.unprivileged and has_user_namespace(context, process) is False:
        return Outcome(False, "it has no user namespace, so nothing could be mounted for it")
    return None


def read_only(context: Context, process: ProcessEvidence, paths: Iterable[str]) -> Outcome:
    """Every path that there is, except for what other directives exempt."""
    nothing = void(context, process)
    exempt = exemptions(context)
    writable: list[str] = []
    kept: list[str] = []
    for path in paths:
        if any(below(path, other) for other in exempt):
            continue
        seen = process.paths.get(path)
        if seen is None or seen.problem:
            if seen is not None and hidden_above(process, path):
                continue
            return nothing or unreadable(process, path)
        if seen.exists:
            (kept if seen.readonly else writable).append(path)
    if nothing is not None:
        return Outcome(False, f"{' '.join(writable)} writable" if writable else nothing.text)
    if writable:
        return Outcome(False, f"{' '.join(writable)} writable")
    if not kept:
        return Outcome(None, "nothing to see", "none of the paths exists, or other directives exempt all of them")
    return Outcome(True, f"{' '.join(kept)} read-only")


def hidden(context: Context, process: ProcessEvidence, path: str) -> bool | None:
    """The process cannot get at it; None when that cannot be said."""
    seen, own = process.paths.get(path), context.own(path)
    if seen is None:
        return None
    if seen.problem:
        return True if hidden_above(process, path) else None
    if not seen.exists:
        return True if own is not None and own.exists else None
    if seen.mode != 0:
        return False
    same = own is not None and own.exists and (own.device, own.inode) == (seen.device, seen.inode)
    return None if same else True


def hidden_above(process: ProcessEvidence, path: str) -> bool:
    """A folder above is one of systemd's inaccessible ones."""
    above = (other for other in process.paths if other != path and below(path, other))
    return any(process.paths[other].exists and process.paths[other].mode == 0 for other in above)


def mount_at(process: ProcessEvidence, point: str) -> Mount | None:
    """The uppermost one, which is the last in the list."""
    return next((mount for mount in reversed(process.mounts) if mount.point == point), None)


def mount_over(process: ProcessEvidence, path: str) -> Mount | None:
    best: Mount | None = None
    for mount in process.mounts:
        if below(path, mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def listed(item: Item) -> tuple[str, ...]:
    """The entries of a path list, prefixes and all; of a bind "SOURCE:TARGET"."""
    if item.spec.kind not in (Kind.PATHS, Kind.BINDS, Kind.FIRST) or not isinstance(item.loaded.value, tuple):
        return ()
    if item.spec.kind is Kind.BINDS:
        return tuple(":".join(pair) for pair in item.loaded.value)
    return tuple(entry if isinstance(entry, str) else entry[0] for entry in item.loaded.value)
