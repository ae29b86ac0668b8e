"""What of the host keeps declared hardening and limits from taking effect, each with its cause and the fix. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from agentd.core import hostlimits, hostmemory
from agentd.core.dropin import DropIn
from agentd.core.hostneeds import BPF, CONTROLLERS, OFF, SECCOMP, Need, joined, needs, of_controller, of_namespaces
from agentd.core.hostwords import fine, manager_unit, problem, setup_and_restart, setup_command
from agentd.evidence import HostEvidence
from agentd.findings import Finding, Severity, Verdict
from agentd.types import Scope

OLDEST_SYSTEMD = 252
"""The oldest on which the directives were tried."""
GIVEN = ("cpu", "memory", "pids")
"""Delegate= of user@.service as systemd 252 and 257 bring it."""
OLDEST_KERNEL = (5, 3)
"""pidfd_open(2): without it the end of a process is not seen."""

UNIFIED = (
    "boot with cgroup v2 alone: remove systemd.unified_cgroup_hierarchy=0 and cgroup_no_v1= from the kernel's command "
    "line (GRUB_CMDLINE_LINUX in /etc/default/grub), run sudo update-grub, and reboot"
)


def host_findings(host: HostEvidence, declared: Sequence[DropIn]) -> tuple[Finding, ...]:
    """One for each aspect that matters: what is right is said as well, what nobody declared is left out."""
    found = needs(declared)
    parts = (
        _cgroup(host, found),
        _controllers(host, found),
        _namespaces(host, found),
        _lingering(host),
        hostlimits.limits(host, found),
        hostlimits.priorities(host, found),
        hostmemory.memory(host, found),
        hostmemory.ancestors(host, found),
        _versions(host),
        _features(host, found),
    )
    return tuple(finding for part in parts for finding in part)


def offered(host: HostEvidence) -> frozenset[str]:
    """Controllers that the user manager's cgroup has, used or not; when it does not run, what systemd gives unasked."""
    if host.scope is Scope.USER and not host.manager_pid:
        return frozenset(GIVEN).intersection(host.available)
    known = host.ancestors[0].files.get("cgroup.controllers", "").split() if host.ancestors else ()
    return frozenset(known) | frozenset(host.delegated)


def _cgroup(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    missing = [name for name in CONTROLLERS if name not in host.delegated]
    limits = [need for name in missing for need in of_controller(found, name)]
    # A host that keeps one controller in v1 may well hand down those that matter: the evidence counts, not the name.
    if host.cgroup == "v2" or (host.cgroup == "hybrid" and not limits):
        yield fine("cgroup", host.cgroup)
        return
    if host.scope is Scope.USER:
        verdict = Verdict.NOT_EFFECTIVE
        cause = (
            f"the host runs cgroup {host.cgroup}: no controller held by v1 reaches a user's manager, so that none of "
            "its limits is enforced, although systemd shows the values"
        )
    else:
        verdict = Verdict.NOT_PROVABLE
        cause = f"the host runs cgroup {host.cgroup}: only limits of cgroup v2 are read, those of v1 are not"
    severity = Severity.ERROR if limits and verdict is Verdict.NOT_EFFECTIVE else Severity.WARNING
    yield problem("cgroup", verdict, cause, UNIFIED, declared=limits, effective=host.cgroup, severity=severity)


def _controllers(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    for name in CONTROLLERS:
        wanted = of_controller(found, name)
        if name in host.delegated:
            yield fine(f"controller {name}", "delegated" if host.scope is Scope.USER else "in use")
        elif wanted:
            verdict, cause, fix = _missing(host, name)
            there = f"in use: {' '.join(host.delegated) or 'none'}"
            yield problem(f"controller {name}", verdict, cause, fix, declared=wanted, effective=there)


def _missing(host: HostEvidence, name: str) -> tuple[Verdict, str, str]:
    """Verdict, cause and fix of a controller that no unit can be seen to have."""
    if host.cgroup != "v2":
        verdict = Verdict.NOT_EFFECTIVE if host.scope is Scope.USER else Verdict.NOT_PROVABLE
        return verdict, f"controller {name} is not delegated: the host runs cgroup {host.cgroup}, not v2", UNIFIED
    if name not in host.available:
        cause = (
            f"controller {name} is not delegated to anybody: the kernel's cgroup v2 hierarchy has none; it is not "
            "built in, disabled by cgroup_disable= on the kernel's command line, or held by a cgroup v1 mount"
        )
        fix = f"look for {name} in /proc/cgroups and for cgroup_disable= in /proc/cmdline; a change needs a reboot"
        return Verdict.NOT_EFFECTIVE, cause, fix
    if host.scope is Scope.SYSTEM:
        cause = f"no unit uses controller {name} yet; systemd enables it when the first one starts"
        return Verdict.NOT_PROVABLE, cause, ""
    if not host.manager_pid:
        cause = f"the user's manager ({manager_unit(host)}) does not run"
        return Verdict.NOT_RUNNING, cause, f"sudo systemctl start {manager_unit(host)}"
    if name in offered(host):
        cause = (
            f"controller {name} may be used and is not: systemd enables it when a unit that asks for it starts, but a "
            "manager that was started before the delegation never does"
        )
        fix = f"when a unit that asks for it runs already: sudo systemctl restart {manager_unit(host)}"
        return Verdict.NOT_PROVABLE, cause, fix
    cause = f"controller {name} is not delegated to the user's manager: systemd shows the values, nothing enforces them"
    return Verdict.NOT_EFFECTIVE, cause, setup_and_restart(host)


def _namespaces(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    aspect, wanted = "user namespaces", of_namespaces(found)
    if host.scope is Scope.SYSTEM:
        # Root needs no permission for one, only that the number of them is not 0.
        wanted = tuple(need for need in wanted if need.key == "PrivateUsers")
        if "max_user_namespaces" not in host.userns_reason or not wanted:
            return
    if host.userns_allowed:
        yield fine(aspect, "allowed")
    elif host.userns_allowed is None and wanted:
        cause = "it could not be tried whether a user namespace can be made here"
        fix = "unshare --user true (it says nothing where it can)"
        yield problem(aspect, Verdict.NOT_PROVABLE, cause, fix, declared=wanted)
    elif host.userns_allowed is False and wanted:
        cause = f"user namespaces are denied ({host.userns_reason or 'the kernel refuses them'}): {_cost(host, wanted)}"
        fix = f"{setup_command(host)}, then restart the services: a sandbox is made at the start"
        yield problem(aspect, Verdict.NOT_EFFECTIVE, cause, fix, declared=wanted, effective="denied")


def _cost(host: HostEvidence, wanted: Sequence[Need]) -> str:
    explicit = {need.unit for need in wanted if need.key == "PrivateUsers"}
    silent = {need.unit for need in wanted} - explicit
    costs = []
    if explicit:
        costs.append(f"{joined(sorted(explicit))} will not start (217/USER, since PrivateUsers= asks for one)")
    if silent:
        told = "without a word in the journal" if host.systemd < 257 else "with one line in the journal"
        costs.append(f"{joined(sorted(silent))} without PrivateUsers=yes will start outside of its sandbox, {told}")
    return "; ".join(costs)


def _lingering(host: HostEvidence) -> Iterator[Finding]:
    if host.scope is Scope.SYSTEM:
        return
    if host.linger:
        yield fine("lingering", "yes")
    elif host.linger is None:
        cause = "it could not be read whether the user lingers"
        yield problem("lingering", Verdict.NOT_PROVABLE, cause, f"loginctl show-user {host.uid} --property=Linger")
    else:
        cause = "without lingering the user's services end with the last logout, and none starts at boot"
        fix = f"{setup_command(host)}, or sudo loginctl enable-linger {host.uid} (either restarts nothing)"
        verdict = Verdict.NOT_EFFECTIVE
        yield problem("lingering", verdict, cause, fix, effective="no", severity=Severity.WARNING)


def _versions(host: HostEvidence) -> Iterator[Finding]:
    if 0 < host.systemd < OLDEST_SYSTEMD:
        cause = f"systemd {host.systemd} is older than {OLDEST_SYSTEMD}, the oldest on which the directives were tried"
        fix = "upgrade the distribution; until then trust only what is shown as effective"
        shown, verdict = str(host.systemd), Verdict.NOT_PROVABLE
        yield problem("systemd", verdict, cause, fix, effective=shown, severity=Severity.WARNING)
    version = re.match(r"(\d+)\.(\d+)", host.kernel)
    if version is not None and (int(version[1]), int(version[2])) < OLDEST_KERNEL:
        cause = f"kernel {host.kernel} is older than 5.3: the end of a process cannot be watched (pidfd_open)"
        fix, verdict = "install a newer kernel and reboot", Verdict.NOT_ENFORCEABLE
        yield problem("kernel", verdict, cause, fix, effective=host.kernel, severity=Severity.ERROR)


def _features(host: HostEvidence, found: Sequence[Need]) -> Iterator[Finding]:
    built = host.features.split()
    seccomp = [need for need in found if need.key in SECCOMP and need.value.lower() not in OFF]
    if "-SECCOMP" in built and seccomp:
        cause = "this systemd was built without seccomp (-SECCOMP) and ignores these"
        fix, verdict = "use the distribution's own systemd package", Verdict.NOT_ENFORCEABLE
        yield problem("seccomp", verdict, cause, fix, declared=seccomp, severity=Severity.ERROR)
    bpf = [need for need in found if need.key in BPF]
    # In a user's manager they never work, however it was built: that is told for each unit.
    if "-BPF_FRAMEWORK" in built and bpf and host.scope is Scope.SYSTEM:
        cause = "this systemd was built without BPF programs of its own (-BPF_FRAMEWORK) and ignores these"
        fix = "remove them and filter by nftables, or upgrade (Debian 13 has them)"
        yield problem("BPF framework", Verdict.NOT_ENFORCEABLE, cause, fix, declared=bpf)
