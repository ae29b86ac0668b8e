"""Hard limits and priorities of the manager, beyond which no service of it gets. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from agentd.core.hostneeds import INFINITY, LIMITS, Need, kernel_limit, limit_of
from agentd.core.hostwords import in_user_unit, problem, setup_and_restart
from agentd.evidence import HostEvidence
from agentd.findings import Finding, Severity, Verdict
from agentd.types import Scope

NR_OPEN = "fs.nr_open"
MANY_FILES = 2**20
"""The kernel's own bound, fs.nr_open, where nobody has raised it."""
REALTIME = frozenset({"fifo", "rr"})


def limits(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    """One for each kind of limit that a unit wants more of than it can get; systemd cuts it silently."""
    for key, offenders in clamped(host, found).items():
        # What the kernel refuses even to root ends at the manager's own limit too.
        own = kernel_limit(host.hard_limits.get(LIMITS[key], ""))
        effective = _text(ceiling(host, key) if own is None else own)
        if privileged(host) or (key == "LimitNOFILE" and _above_nr_open(host, offenders)):
            cause = (
                f"no process may have more than {NR_OPEN}={host.sysctls.get(NR_OPEN)} open files; what asks for more "
                f"gets the manager's own hard limit, {effective}"
            )
            fix = f"sudo sysctl -w {NR_OPEN}=N, with N in a file of /etc/sysctl.d to keep it"
            if not privileged(host):
                fix = setup_and_restart(host)
        else:
            cause = f'the user\'s manager has the hard limit "{LIMITS[key]}" {effective}: services get no more'
            fix = setup_and_restart(host)
        aspect, verdict = f"limit {key.removeprefix('Limit')}", Verdict.NOT_EFFECTIVE
        yield problem(aspect, verdict, cause, fix, declared=offenders, effective=effective)


def clamped(host: HostEvidence, found: Sequence[Need]) -> Mapping[str, tuple[Need, ...]]:
    """Directive -> the wishes that cannot be met."""
    out: dict[str, tuple[Need, ...]] = {}
    for key in LIMITS:
        most = ceiling(host, key)
        over = tuple(need for need in found if need.key == key and _over(limit_of(key, need.value), most, key))
        if over:
            out[key] = over
    return out


def ceiling(host: HostEvidence, key: str) -> float | None:
    """The largest value that a service can get; None when it is not known or has no bound."""
    nr_open = kernel_limit(host.sysctls.get(NR_OPEN, "")) if key == "LimitNOFILE" else None
    if privileged(host):
        return nr_open
    return kernel_limit(host.hard_limits.get(LIMITS[key], ""))


def _over(value: float | None, most: float | None, key: str) -> bool:
    if value is None or most is None:
        return False
    # As many open files as the kernel allows anybody is what systemd itself makes of "infinity".
    return value > most and not (key == "LimitNOFILE" and value == INFINITY and most >= MANY_FILES)


def _above_nr_open(host: HostEvidence, offenders: Sequence[Need]) -> bool:
    bound = kernel_limit(host.sysctls.get(NR_OPEN, ""))
    values = (limit_of(need.key, need.value) for need in offenders)
    return bound is not None and any(value is not None and bound < value < INFINITY for value in values)


def _text(limit: float | None) -> str:
    if limit is None:
        return "unknown"
    return "infinity" if limit == INFINITY else str(int(limit))


def priorities(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    """What an unprivileged manager may not ask for."""
    if privileged(host):
        return
    yield from _oom_score(host, found)
    yield from _nice(host, found)
    yield from _realtime(host, found)


def privileged(host: HostEvidence) -> bool:
    """Root's managers raise limits and priorities as they like."""
    return host.scope is Scope.SYSTEM or host.uid == 0


def _oom_score(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    floor = host.manager_oom_score_adj
    below = [n for n in found if n.key == "OOMScoreAdjust" and floor is not None and _below(n.value, floor)]
    if floor is not None and below:
        cause = f"the user's manager has oom_score_adj {floor}, and no service of it gets below that"
        fix = f"remove the line or use {floor} or more; else {in_user_unit(host, 'OOMScoreAdjust=' + below[0].value)}"
        yield problem("OOM score", Verdict.NOT_EFFECTIVE, cause, fix, declared=below, effective=str(floor))


def _nice(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    hard, own = kernel_limit(host.hard_limits.get(LIMITS["LimitNICE"], "")), host.manager_nice
    if hard is None or own is None:
        return
    floor = min(own, int(20 - min(hard, 40)))
    below = [need for need in found if need.key == "Nice" and _below(need.value, floor)]
    if below:
        cause = f"a user's manager with LimitNICE={int(min(hard, 40))} gives no service a nice level below {floor}"
        fix = f"remove the line; else {in_user_unit(host, f'LimitNICE={below[0].value}', f'* - nice {below[0].value}')}"
        yield problem("nice level", Verdict.NOT_EFFECTIVE, cause, fix, declared=below, effective=str(floor))


def _realtime(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    hard = kernel_limit(host.hard_limits.get(LIMITS["LimitRTPRIO"], ""))
    wanted = [need for need in found if need.key == "CPUSchedulingPolicy" and need.value in REALTIME]
    if hard == 0 and wanted:
        cause = "an unprivileged manager with LimitRTPRIO=0 gives no realtime: the service fails with 214/SETSCHEDULER"
        fix = f"remove the line; else {in_user_unit(host, 'LimitRTPRIO=1', '* - rtprio 1')}"
        severity, verdict = Severity.ERROR, Verdict.NOT_ENFORCEABLE
        yield problem("realtime", verdict, cause, fix, declared=wanted, effective="0", severity=severity)


def _below(value: str, floor: int) -> bool:
    return re.fullmatch(r"[+-]?\d{1,5}", value) is not None and int(value) < floor
