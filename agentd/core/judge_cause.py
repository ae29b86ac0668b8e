"""Why a process has not got what its unit declares: the known reasons, most telling first.

Evidence has decided before that it has not. What is known of systemd's versions only explains it here.
"""

from __future__ import annotations

from agentd.core.directives_spec import Check
from agentd.core.exit_status import STATUS
from agentd.core.judge_context import Context, Item, Look, Outcome, has_user_namespace
from agentd.core.unitfile import Directive
from agentd.evidence import ProcessEvidence
from agentd.findings import Verdict
from agentd.types import ActiveState

_OWN_NAMESPACE = 253
"""The first version after 252, whose user manager makes a user namespace where mounts are asked for."""
_COMMANDS = ("ExecStart", "ExecStartPre", "ExecStartPost", "ExecCondition", "ExecReload", "ExecStop")
_PREFIXES = "@-:+!|"
_FREE = (Check.RLIMIT, Check.OOM_SCORE, Check.NICE, Check.SCHEDULER, Check.AFFINITY, Check.UMASK, Check.CREDENTIAL)
"""What a command with "+" has all the same."""

Reason = tuple[Verdict, str, str]
"""(verdict, cause, fix)"""


def explain(look: Look, outcome: Outcome) -> Reason:
    """For an outcome that says no."""
    if outcome.verdict is not None:
        return outcome.verdict, outcome.cause, outcome.fix
    for why in (_plus, _no_user_namespace, _older_than_file, _stranger, _older_than_reload):
        reason = why(look)
        if reason is not None:
            return reason
    if outcome.cause:
        return Verdict.NOT_EFFECTIVE, outcome.cause, outcome.fix
    return _network(look) or _unknown(look)


def _plus(look: Look) -> Reason | None:
    """A command with "+" runs with full privileges, outside of the sandbox."""
    if look.item.spec.check in _FREE:
        return None
    main = look.process.pid == look.context.processes[0].pid
    names = ("ExecStart",) if main else _COMMANDS
    command = next((found for name in names for found in _privileged(look.context, name)), None)
    if command is None:
        return None
    who = "it" if main else _who(look.process)
    cause = f"{command.place} starts a command with '+', which undoes the sandbox for it"
    if not main:
        cause = f"{who} runs outside of the sandbox: {cause}"
    return Verdict.NOT_EFFECTIVE, cause, f"take the '+' away in {command.place}, then: {look.context.restart}"


def _privileged(context: Context, name: str) -> list[Directive]:
    setting = context.setting(name)
    if setting is None:
        return []
    return [d for d in setting.where if "+" in d.value[: len(d.value) - len(d.value.lstrip(_PREFIXES))]]


def _who(process: ProcessEvidence) -> str:
    return f"process {process.pid} ({process.comm})"


def _no_user_namespace(look: Look) -> Reason | None:
    """In a user manager nothing can be mounted, and no capability dropped, without one."""
    context = look.context
    if not look.item.spec.mounts or not context.unprivileged:
        return None
    if context.has("PrivateUsers") or has_user_namespace(context, context.processes[0]) is not False:
        return None
    fix = f"add PrivateUsers=yes, then: {context.systemctl('daemon-reload')} && {context.restart}"
    if context.host.userns_allowed is False:
        why = context.host.userns_reason or "by the kernel"
        cause = f"unprivileged user namespaces are denied ({why}); without PrivateUsers=yes the unit starts anyway"
        return Verdict.NOT_EFFECTIVE, cause, "agentctl host-setup"
    if 0 < context.host.systemd < _OWN_NAMESPACE:
        cause = (
            f"the user manager of systemd {context.host.systemd} skips directives that need mounts without a word, "
            "unless the unit has PrivateUsers=yes"
        )
        return Verdict.NOT_EFFECTIVE, cause, fix
    if _older_than_file(look) is not None or _older_than_reload(look) is not None:
        return None
    cause = "the user manager could not make a user namespace and started the unit without the sandbox"
    return Verdict.NOT_EFFECTIVE, cause, f"{fix}; the start then fails rather than going on unprotected"


def _older_than_file(look: Look) -> Reason | None:
    context, process = look.context, look.process
    newest = max(look.item.setting.where, key=lambda d: context.changed.get(d.path, 0.0))
    if not process.started or context.changed.get(newest.path, 0.0) <= process.started:
        return None
    return Verdict.NEEDS_RESTART, f"{_subject(look)} was started before {newest.path} was written", context.restart


def _older_than_reload(look: Look) -> Reason | None:
    """The file may have kept an old time."""
    if not look.process.started or look.context.view.loaded_at <= look.process.started:
        return None
    cause = f"{_subject(look)} was started before systemd last read its unit files"
    return Verdict.NEEDS_RESTART, cause, look.context.restart


def written_after(look: Look) -> Reason | None:
    """For what cannot be seen: the process is older than the file that asks for it."""
    found = _older_than_file(look)
    return None if found is None else (found[0], f"{found[1]}; whether it has it cannot be seen", found[2])


def _subject(look: Look) -> str:
    return "the process" if look.process.pid == look.context.processes[0].pid else _who(look.process)


def _stranger(look: Look) -> Reason | None:
    """Not the main process, which is as it should be."""
    context = look.context
    if look.process.pid == context.processes[0].pid or context.view.state.main_pid != context.processes[0].pid:
        return None
    if look.process.started and look.process.started < context.processes[0].started:
        cause = f"{_who(look.process)} is left over from an earlier start of the unit"
    else:
        cause = f"{_who(look.process)} was moved into the unit's cgroup, or has changed itself"
    return Verdict.NOT_EFFECTIVE, cause, f"see: ps -fp {look.process.pid}; then: {context.restart}"


def _network(look: Look) -> Reason | None:
    context = look.context
    if look.item.spec.key not in ("PrivateNetwork", "PrivateIPC") or not context.user:
        return None
    other = next((s for name in _COMMANDS[1:] if (s := context.setting(name)) is not None), None)
    if other is None:
        return None
    cause = f"in a user unit with another command ({other.place}) the main process stays in the host's namespace"
    return Verdict.NOT_EFFECTIVE, cause, "take the other commands away, or run the unit in the system manager"


def _unknown(look: Look) -> Reason:
    context = look.context
    if look.item.spec.mounts and context.unprivileged and has_user_namespace(context, look.process) is False:
        cause = (
            "the process has no user namespace although PrivateUsers=yes is loaded; everything that is mounted is void"
        )
    elif look.item.spec.check is Check.PRIVATE_USERS:
        cause = "the process has no user namespace of its own; everything that is mounted is void"
    else:
        cause = "the process has not got it, for no reason that is known here"
    journal = "journalctl --user" if context.user else "journalctl"
    return Verdict.NOT_EFFECTIVE, cause, f"see: {journal} -u {context.unit} -b"


def start_failure(context: Context) -> str:
    """ "218/CAPABILITIES" when systemd could not set the last main process up; "" otherwise."""
    state = context.view.state
    waiting = state.active_state is ActiveState.ACTIVATING and not context.processes
    if state.exec_code != 1 or not (state.active_state is ActiveState.FAILED or waiting):
        return ""
    known = STATUS.get(state.exec_status)
    return f"{state.exec_status}/{known.name}" if known is not None else ""


def failed_start(context: Context, item: Item) -> Reason | None:
    """The unit does not start because of this directive."""
    failure = start_failure(context)
    if not failure or context.view.state.exec_status not in item.spec.exits:
        return None
    cause, fix = f"the unit does not start: {failure}", f"see: {context.systemctl(f'status {context.unit}')}"
    status, userns = context.view.state.exec_status, "add PrivateUsers=yes, which gives the unit a user namespace"
    alone = context.unprivileged and not context.has("PrivateUsers")
    if status == 217 and context.host.userns_allowed is False:
        why = context.host.userns_reason or "by the kernel"
        cause, fix = f"{cause}; unprivileged user namespaces are denied ({why})", "agentctl host-setup"
    elif status == 218 and alone:
        cause, fix = f"{cause}; a user manager can drop capabilities only in a user namespace", userns
    elif status == 226 and alone and context.host.systemd < _OWN_NAMESPACE:
        cause, fix = f"{cause}; a user manager can mount only in a user namespace", userns
    elif status == 226:
        cause, fix = f"{cause}; often a path that does not exist", "write '-' before paths that may be missing"
    elif status == 214 and context.unprivileged:
        cause, fix = f"{cause}; only root may ask for this scheduling policy", "leave it out"
    elif status == 243:
        cause, fix = f"{cause}; the source of a credential is missing or cannot be read", "create it"
    return Verdict.NOT_EFFECTIVE, cause, fix
