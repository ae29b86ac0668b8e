"""Memory and swap of the host, and limits of the cgroups above a manager's units. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from agentd.core.hostneeds import INFINITY, Need, cpus_of, kernel_limit, memory_of, quota_of
from agentd.core.hostwords import problem
from agentd.core.quantities import format_bytes
from agentd.evidence import CgroupLevel, HostEvidence
from agentd.findings import Finding, Severity, Verdict

NARROW = 0.02
"""Between MemoryHigh= and MemoryMax=, as a part of the latter: the kernel's delays grow with the square of the excess;
so near to the limit a process that grows reaches it in seconds."""

_FILES = {
    "MemoryMax": "memory.max",
    "MemoryHigh": "memory.high",
    "MemorySwapMax": "memory.swap.max",
    "TasksMax": "pids.max",
    "CPUQuota": "cpu.max",
    "AllowedCPUs": "cpuset.cpus.effective",
}


def memory(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    by_unit = {(need.unit, need.key): need for need in found}
    stalls = [n for n in found if n.key == "MemoryHigh" and _may_stall(host, n, by_unit.get)]
    if stalls:
        cause = (
            "without swap only cached files can be taken from a process above MemoryHigh=: it is slowed down until "
            "it hardly runs, but not killed before MemoryMax=, and so not restarted"
        )
        fix = (
            "remove MemoryHigh= (MemoryMax= alone kills at once, and Restart= starts again), set it to 99% of "
            "MemoryMax=, or allow swap (a swap file, and no MemorySwapMax=0)"
        )
        swap = f"swap: {format_bytes(host.swap_total)}"
        endless = any(_end(host, need, by_unit.get) == INFINITY for need in stalls)
        severity, verdict = Severity.WARNING if endless else Severity.INFO, Verdict.EFFECTIVE
        yield problem("swap", verdict, cause, fix, declared=stalls, effective=swap, severity=severity)
    useless = [n for n in found if n.key == "MemorySwapMax" and _swap(n, host) and not host.swap_total]
    if useless and host.memory_total:
        cause, fix = "the host has no swap, so there is none to limit", "add swap, or remove the line"
        severity, verdict = Severity.INFO, Verdict.EFFECTIVE
        yield problem("swap limit", verdict, cause, fix, declared=useless, effective="swap: 0", severity=severity)
    yield from _more_than_there_is(host, found)


def _swap(need: Need, host: HostEvidence) -> float:
    """Bytes of swap that MemorySwapMax= leaves."""
    value = memory_of(need.value, host.swap_total)
    return INFINITY if value is None else value


def _may_stall(host: HostEvidence, high: Need, get: Callable[[tuple[str, str]], Need | None]) -> bool:
    swap = get((high.unit, "MemorySwapMax"))
    if not host.memory_total or (host.swap_total and (swap is None or _swap(swap, host) > 0)):
        return False
    start, end = memory_of(high.value, host.memory_total), _end(host, high, get)
    if start is None or end is None or start >= min(end, host.memory_total):
        return False
    return end == INFINITY or end - start > NARROW * end


def _end(host: HostEvidence, high: Need, get: Callable[[tuple[str, str]], Need | None]) -> float | None:
    """Bytes of the unit's MemoryMax=."""
    most = get((high.unit, "MemoryMax"))
    return INFINITY if most is None else memory_of(most.value, host.memory_total)


def _more_than_there_is(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    wanted = [need for need in found if need.key == "MemoryMax"]
    values = ((need, memory_of(need.value, host.memory_total)) for need in wanted)
    over = [need for need, value in values if value is not None and host.memory_total < value < INFINITY]
    if over and host.memory_total:
        cause = "the limit is above the host's memory: the host runs out first, and the kernel kills what it chooses"
        fix = "set MemoryMax= below the host's memory, with room for everything else that runs"
        effective, verdict = f"memory: {format_bytes(host.memory_total)}", Verdict.EFFECTIVE
        severity = Severity.WARNING
        yield problem("memory", verdict, cause, fix, declared=over, effective=effective, severity=severity)


def ancestors(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    """Limits of user@UID.service and above that bite before a unit's own: systemd does not show them for the unit."""
    for level in host.ancestors:
        for key, file in _FILES.items():
            text = level.files.get(file, "")
            over = [need for need in found if need.key == key and text and _beyond(key, need.value, text, host)]
            if over:
                yield _clamp(level, file, text, over)


def _clamp(level: CgroupLevel, file: str, text: str, over: Sequence[Need]) -> Finding:
    name = level.path.rpartition("/")[2]
    cause = f"{name} above the user's manager has {file} {text}, which is less than what the unit declares"
    fix = (
        f"see where it comes from: systemctl cat {name}; then raise it: sudo systemctl set-property {name} "
        f"{over[0].key}={over[0].value} (restarts nothing)"
    )
    verdict, severity = Verdict.NOT_EFFECTIVE, Severity.WARNING
    return problem(f"{file} of {name}", verdict, cause, fix, declared=over, effective=text, severity=severity)


def _beyond(key: str, value: str, text: str, host: HostEvidence) -> bool:
    if key == "AllowedCPUs":
        wanted, have = cpus_of(value), cpus_of(text)
        return wanted is not None and have is not None and not wanted <= have
    if key == "CPUQuota":
        quota, limit = quota_of(value), _cpus_of_file(text)
        return quota is not None and limit is not None and quota > limit
    own = kernel_limit(value) if key == "TasksMax" else memory_of(value, host.memory_total)
    bound = kernel_limit(text)
    # Without a limit of its own a unit lives with the one above; only a number that is not kept is worth a word.
    return own is not None and bound is not None and bound < own < INFINITY


def _cpus_of_file(text: str) -> float | None:
    """CPUs of cpu.max: "150000 100000" is 1.5."""
    words = text.split()
    if len(words) != 2 or words[0] == "max" or not (words[0].isdigit() and words[1].isdigit()):
        return None
    return int(words[0]) / int(words[1])
