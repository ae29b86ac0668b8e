"""The verdict about one directive: is it loaded, does it ask for anything, does the unit run, what is the evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentd.core.directives import since
from agentd.core.directives_exec import EXEC
from agentd.core.directives_spec import Check
from agentd.core.judge_bpf import bpf
from agentd.core.judge_cause import explain, failed_start, start_failure, written_after
from agentd.core.judge_cgroup import CGROUP
from agentd.core.judge_context import Context, Item, Look, Outcome
from agentd.core.judge_files import declared_text, finding, not_read
from agentd.core.judge_lists import LISTS
from agentd.core.judge_mounts import MOUNTS
from agentd.core.judge_paths import listed
from agentd.core.judge_process import PROCESS, PROVE
from agentd.core.loaded import Asked, compare
from agentd.core.unitfile import Directive, Setting
from agentd.findings import Finding, Verdict

_AT_START = frozenset(spec.key for spec in EXEC)
"""What a process gets when it is started, and never after."""
_BLIND = (Check.SECCOMP, Check.WRITE_EXECUTE, Check.UNSEEN)
_PER_PROCESS = {**MOUNTS, **PROCESS}


@dataclass(frozen=True, slots=True)
class Ruling:
    verdict: Verdict
    text: str = ""
    cause: str = ""
    fix: str = ""
    source: str = ""


def judge_directive(context: Context, item: Item) -> list[Finding]:
    """One finding; for a path list one for each group of entries that fare alike."""
    before = _not_loaded(context, item)
    if before is not None:
        return [_finding(context, item, before)]
    if item.loaded.off:
        return [_finding(context, item, Ruling(Verdict.EFFECTIVE, "asks for nothing"))]
    idle = _not_running(context, item)
    if idle is not None:
        return [_finding(context, item, idle)]
    if item.spec.check in LISTS:
        return _entries(context, item)
    return [_finding(context, item, _rule(context, item))]


def _finding(context: Context, item: Item, ruling: Ruling, declared: str = "", source: str = "") -> Finding:
    return finding(
        context,
        item.spec.key,
        ruling.verdict,
        "" if ruling.verdict is Verdict.EFFECTIVE else ruling.cause,
        "" if ruling.verdict is Verdict.EFFECTIVE else ruling.fix,
        declared=declared or declared_text(item.spec, item.setting),
        loaded=item.loaded.text,
        effective=ruling.text,
        source=ruling.source or source or item.setting.place,
    )


# -- loaded ---------------------------------------------------------------------------------------------------


def _not_loaded(context: Context, item: Item) -> Ruling | None:
    state, path = context.view.state, item.setting.where[-1].path
    if path not in state.dropin_paths and path != state.fragment_path:
        return Ruling(*_reason(not_read(context, path)))
    newer = _too_new(context, item)
    if newer is not None:
        return newer
    if item.loaded.wrong:
        return Ruling(Verdict.NOT_LOADED, "", item.loaded.wrong, f"correct {item.setting.place}")
    if item.spec.check is Check.BPF and not item.loaded.off:
        found = bpf(context, item)
        if found.verdict is Verdict.NOT_ENFORCEABLE:
            return Ruling(found.verdict, found.text, found.cause, found.fix)
    return _stale(context, item) if item.loaded.agrees is False else None


def _reason(reason: tuple[Verdict, str, str]) -> tuple[Verdict, str, str, str]:
    verdict, cause, fix = reason
    return verdict, "", cause, fix


def _too_new(context: Context, item: Item) -> Ruling | None:
    """A key or value that came with a later systemd. A property of that name shows that this one has it."""
    spec, version = item.spec, context.host.systemd
    came = since(spec.key, item.setting.text)
    if not 0 < version < came:
        return None
    properties = context.view.properties
    value_only = not spec.since
    if (spec.words_in if value_only else spec.property) in properties:
        return None
    what = f"{spec.key}={item.setting.text}" if value_only else f"{spec.key}="
    cause = f"systemd {version} does not know {what} and passes over it; it came with {came} or shortly before"
    return Ruling(Verdict.NOT_ENFORCEABLE, "", cause, "leave it out on this version, or upgrade systemd")


def _stale(context: Context, item: Item) -> Ruling:
    """systemd has another value than the files say."""
    other = _still_loaded(context, item)
    where = item.setting.where[-1]
    reload = context.systemctl("daemon-reload")
    if other is not None and ".control/" in other.path:
        cause = f"systemctl set-property put {other.place} in force; at the next daemon-reload {where.place} wins"
        return Ruling(Verdict.OVERRIDDEN, "", cause, f"rm {other.path}, then: {reload}", other.place)
    cause = f"systemd still has what it read before: {where.path} was changed since"
    if not context.view.state.need_daemon_reload:
        late = 0 < context.view.loaded_at < context.changed.get(where.path, 0.0)
        cause += "" if late else " and kept an old time"
        cause += ", which systemd does not notice; or it refuses the value"
    verify = f"systemd-analyze {'--user ' if context.user else ''}verify {context.unit}"
    return Ruling(Verdict.NOT_LOADED, "", cause, f"{reload}; if that does not help: {verify}")


def _still_loaded(context: Context, item: Item) -> Directive | None:
    """The overridden line whose value systemd has all the same."""
    for directive in reversed(item.setting.lost):
        asked = Asked(
            item.spec, Setting((directive.value,), (directive,)), context.view.properties, context.unit, context.host
        )
        if directive.value and compare(asked).agrees:
            return directive
    return None


# -- running --------------------------------------------------------------------------------------------------


def _not_running(context: Context, item: Item) -> Ruling | None:
    """There is nothing to look at."""
    live = item.spec.check in CGROUP or item.spec.check is Check.BPF
    if context.processes or (live and context.levels):
        return None
    failed = failed_start(context, item)
    if failed is not None:
        return Ruling(*_reason(failed))
    failure = start_failure(context)
    state = context.view.state
    cause = f"the unit does not start: {failure}" if failure else f"the unit is {state.active_state.value}"
    if not failure and state.active_state.up:
        cause += " and has no process"
    command = "status" if failure or state.active_state.up else "start"
    return Ruling(Verdict.NOT_RUNNING, "", cause, context.systemctl(f"{command} {context.unit}"))


# -- evidence -------------------------------------------------------------------------------------------------


def _rule(context: Context, item: Item) -> Ruling:
    check = item.spec.check
    if check in _PER_PROCESS:
        return _over_processes(context, item, _PER_PROCESS[check])
    if check in CGROUP:
        outcome = _careful(lambda: CGROUP[check](context, item))
        verdict = outcome.verdict or _verdict(outcome.ok)
        return Ruling(verdict, outcome.text, outcome.cause, outcome.fix, outcome.source)
    if check is Check.BPF:
        found = bpf(context, item)
        return Ruling(found.verdict or Verdict.NOT_PROVABLE, found.text, found.cause, found.fix)
    return _over_processes(context, item, _unseen)


def _verdict(ok: bool | None) -> Verdict:
    if ok is None:
        return Verdict.NOT_PROVABLE
    return Verdict.EFFECTIVE if ok else Verdict.NOT_EFFECTIVE


def _unseen(look: Look) -> Outcome:
    return Outcome(None, "not visible", f"nothing outside of the unit shows {look.item.spec.arg}",
                   f"{PROVE} {look.context.unit}")  # fmt: skip


def _careful(check: Callable[[], Outcome]) -> Outcome:
    """A text of the kernel that we cannot read proves nothing."""
    try:
        return check()
    except (ValueError, IndexError, KeyError, TypeError) as error:
        return Outcome(None, "not readable", f"the kernel's answer was not understood: {error}")


def _over_processes(context: Context, item: Item, check: Callable[[Look], Outcome], entry: str = "") -> Ruling:
    """The worst counts; the main process speaks first."""
    looks = [Look(context, item, process, entry) for process in context.processes]
    outcomes = [(look, _careful(lambda look=look: check(look))) for look in looks]  # type: ignore[misc]
    failing = [pair for pair in outcomes if pair[1].ok is False]
    unknown = [pair for pair in outcomes if pair[1].ok is None]
    look, outcome = (failing or unknown or outcomes)[0]
    text = _text(context, look, outcome, len(failing))
    if failing:
        verdict, cause, fix = explain(look, outcome)
        return Ruling(verdict, text, cause, fix, outcome.source)
    late = written_after(look) if unknown and item.spec.key in _AT_START and item.spec.check in _BLIND else None
    if late is not None:
        return Ruling(late[0], text, late[1], late[2])
    return Ruling(outcome.verdict or _verdict(outcome.ok), text, outcome.cause, outcome.fix)


def _text(context: Context, look: Look, outcome: Outcome, failing: int) -> str:
    text = outcome.text
    if look.process.pid != context.processes[0].pid:
        text = f"process {look.process.pid} ({look.process.comm}): {text}"
    return f"{text}, and {failing - 1} more" if failing > 1 else text


def _entries(context: Context, item: Item) -> list[Finding]:
    """Entries of a path list, those that fare alike together."""
    groups: dict[tuple[Verdict, str], list[tuple[str, Ruling]]] = {}
    for entry in listed(item):
        ruling = _over_processes(context, item, LISTS[item.spec.check], entry)
        groups.setdefault((ruling.verdict, ruling.cause), []).append((entry, ruling))
    if not groups:
        return [_finding(context, item, Ruling(Verdict.NOT_PROVABLE, "", "it names no path that can be told"))]
    found = []
    for members in groups.values():
        whole = len(groups) == 1
        entries, ruling = [entry for entry, _ in members], members[0][1]
        text = ", ".join(dict.fromkeys(r.text for _, r in members))
        joined = Ruling(ruling.verdict, text, ruling.cause, ruling.fix, ruling.source)
        declared = "" if whole else " ".join(entries)
        found.append(_finding(context, item, joined, declared, _place(item, entries)))
    return found


def _place(item: Item, entries: Sequence[str]) -> str:
    """The line that names the first of the entries."""
    name = entries[0].rpartition("/")[2]
    return next((d.place for d in item.setting.where if name and name in d.value), item.setting.place)
