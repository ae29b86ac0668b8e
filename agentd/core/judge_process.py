"""Verdicts from /proc/PID: status, limits, oom_score_adj, priorities, and what seccomp shows of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentd.core.directives_spec import Check
from agentd.core.judge_context import Look, Outcome, has_user_namespace, unreadable
from agentd.core.judge_limits import rlimit
from agentd.core.loaded_text import ranges
from agentd.core.loaded_values import SCHEDULERS, bitmap, capability_names
from agentd.findings import Verdict

_MDWE_BY_PRCTL = 253
"""From about this version MemoryDenyWriteExecute= is a prctl where the kernel has it, and no seccomp filter."""
_DYNAMIC_UIDS = range(61184, 65520)
PROVE = "agentctl dropins prove"


def no_new_privileges(look: Look) -> Outcome:
    value = look.process.status.get("NoNewPrivs")
    if value is None:
        return unreadable(look.process, "its status")
    text = f"NoNewPrivs: {value}"
    return Outcome(value == "1", text)


def private_users(look: Look) -> Outcome:
    own = has_user_namespace(look.context, look.process)
    if own is None:
        return unreadable(look.process, "its user namespace")
    return Outcome(own, f"uid_map {look.process.uid_map}" if own else "no user namespace of its own")


def seccomp(look: Look) -> Outcome:
    mode = look.process.status.get("Seccomp")
    if mode is None:
        return unreadable(look.process, "its status")
    if mode == "0":
        return Outcome(False, "Seccomp: 0, no filter at all")
    count = look.process.status.get("Seccomp_filters", "?")
    return Outcome(
        None,
        f"Seccomp: {mode}, {count} filters",
        "the kernel shows that there are seccomp filters, not what they forbid",
        PROVE + " " + look.context.unit,
    )


def write_execute(look: Look) -> Outcome:
    if look.context.host.systemd < _MDWE_BY_PRCTL:
        return seccomp(look)
    return Outcome(
        None,
        "not visible",
        "the kernel does not show PR_SET_MDWE of another process",
        PROVE + " " + look.context.unit,
    )


def bounding_set(look: Look) -> Outcome:
    text = look.process.status.get("CapBnd")
    if text is None or not isinstance(look.item.loaded.value, int):
        return unreadable(look.process, "its capabilities")
    more = int(text, 16) & ~look.item.loaded.value
    if more:
        return Outcome(False, f"CapBnd {text}: {capability_names(more)} too many")
    return Outcome(True, f"CapBnd {text}")


def ambient_set(look: Look) -> Outcome:
    text = look.process.status.get("CapAmb")
    if text is None or not isinstance(look.item.loaded.value, int):
        return unreadable(look.process, "its capabilities")
    missing = look.item.loaded.value & ~int(text, 16)
    context = look.context
    if context.unprivileged or has_user_namespace(context, look.process):
        return Outcome(
            False,
            f"CapAmb {text}",
            "a capability of a user namespace counts for what belongs to that namespace only: bind() to a port below "
            "1024 is still refused",
            "run the unit in the system manager without PrivateUsers=, or do without the capability",
            Verdict.NOT_ENFORCEABLE,
        )
    if missing:
        return Outcome(False, f"CapAmb {text}: without {capability_names(missing)}")
    return Outcome(True, f"CapAmb {text}")


def umask(look: Look) -> Outcome:
    text = look.process.status.get("Umask")
    if text is None or not isinstance(look.item.loaded.value, int):
        return unreadable(look.process, "its umask")
    if int(text, 8) == look.item.loaded.value:
        return Outcome(True, f"umask {text}")
    return Outcome(None, f"umask {text}", "a program may set its own umask, and this one may have done so")


def _is_main(look: Look) -> bool:
    return look.process.pid == look.context.processes[0].pid


def oom_score(look: Look) -> Outcome:
    found, wanted = look.process.oom_score_adj, look.item.loaded.value
    if found is None or not isinstance(wanted, int):
        return unreadable(look.process, "oom_score_adj")
    text = f"oom_score_adj {found}"
    if found == wanted or (found > wanted and not _is_main(look)):
        return Outcome(True, text)
    floor = look.context.host.manager_oom_score_adj
    if look.context.user and wanted < found and (wanted < 0 or (floor is not None and wanted < floor <= found)):
        return Outcome(
            False,
            text,
            f"only root may lower the score, and the user manager itself has {floor if floor is not None else 'more'}; "
            "it is clamped without a word",
            "set OOMScoreAdjust= in a drop-in of user@.service as root, or run the unit in the system manager",
            Verdict.NOT_ENFORCEABLE,
        )
    return Outcome(False, text)


def nice(look: Look) -> Outcome:
    found, wanted = look.process.nice, look.item.loaded.value
    if found is None or not isinstance(wanted, int):
        return unreadable(look.process, "its nice level")
    text = f"nice {found}"
    if found == wanted or (found > wanted and not _is_main(look)):
        return Outcome(True, text)
    floor = look.context.host.manager_nice or 0
    if look.context.user and wanted < found and wanted < floor:
        return Outcome(
            False,
            text,
            f"only root may go below the nice level of the user manager, {floor}; it is ignored without a word",
            "set Nice= in a drop-in of user@.service as root, or run the unit in the system manager",
            Verdict.NOT_ENFORCEABLE,
        )
    return Outcome(False, text)


def scheduler(look: Look) -> Outcome:
    found = look.process.scheduler
    if found is None:
        return unreadable(look.process, "its scheduling policy")
    name = next((name for name, number in SCHEDULERS.items() if number == found), str(found))
    return Outcome(found == look.item.loaded.value, f"scheduling policy {name}")


def affinity(look: Look) -> Outcome:
    text, wanted = look.process.status.get("Cpus_allowed_list"), look.item.loaded.value
    if text is None or not isinstance(wanted, frozenset):
        return unreadable(look.process, "its CPUs")
    more = bitmap((text,)) - wanted
    return Outcome(not more, f"CPUs {text}" + (f", {ranges(more)} too many" if more else ""))


def dynamic_user(look: Look) -> Outcome:
    text = look.process.status.get("Uid")
    if text is None:
        return unreadable(look.process, "its uid")
    uid = int(text.split()[0])
    if uid in _DYNAMIC_UIDS:
        return Outcome(True, f"uid {uid}")
    if look.context.user:
        return Outcome(
            False,
            f"uid {uid}",
            "a user manager runs everything as its own user",
            "run the unit in the system manager",
            Verdict.NOT_ENFORCEABLE,
        )
    return Outcome(None, f"uid {uid}", "there may be a user of that name, which then takes its place")


PROCESS: Mapping[Check, Callable[[Look], Outcome]] = {
    Check.NO_NEW_PRIVILEGES: no_new_privileges,
    Check.PRIVATE_USERS: private_users,
    Check.SECCOMP: seccomp,
    Check.WRITE_EXECUTE: write_execute,
    Check.BOUNDING_SET: bounding_set,
    Check.AMBIENT_SET: ambient_set,
    Check.UMASK: umask,
    Check.RLIMIT: rlimit,
    Check.OOM_SCORE: oom_score,
    Check.NICE: nice,
    Check.SCHEDULER: scheduler,
    Check.AFFINITY: affinity,
    Check.DYNAMIC_USER: dynamic_user,
}
