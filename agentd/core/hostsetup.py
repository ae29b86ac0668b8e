"""What root has to do once, so that a user's manager can enforce what is declared: files and commands. Pure.

Only what this host lacks becomes a step; no step at all means that there is nothing to do. A file of ours that somebody
changed, and a file of that name that is not ours, is left alone and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agentd.core.dropin import DropIn
from agentd.core.hostcheck import offered
from agentd.core.hostfiles import DELEGATE, LIMITS, PAM, SYSCTL, Present, entries, is_foreign, kept, owned
from agentd.core.hostlimits import NR_OPEN, clamped, privileged
from agentd.core.hostneeds import (
    CONTROLLERS,
    INFINITY,
    Need,
    kernel_limit,
    limit_of,
    needs,
    of_controller,
    of_namespaces,
)
from agentd.core.hostraise import pam_body, raised, unit_body
from agentd.core.hostwords import manager_unit
from agentd.evidence import HostEvidence
from agentd.types import Scope

RELOAD = "systemctl daemon-reload"
LOAD_SYSCTL = f"/usr/lib/systemd/systemd-sysctl {SYSCTL}"

NAMESPACE_SETTINGS: Mapping[str, tuple[str, str]] = {
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "user.max_user_namespaces": ("0", "16384"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
}
"""Setting -> the value that denies user namespaces, and the one that allows them."""

CLOCK_SLACK = 2.0
"""Seconds. A process's start is known in ticks since the boot, a file's change by the wall clock."""


@dataclass(frozen=True, slots=True)
class HostStep:
    title: str
    why: str
    files: Mapping[str, str] = field(default_factory=dict)
    """Absolute path -> the whole text that it is to have."""
    commands: tuple[str, ...] = ()
    """To be run as root after the files are written, in this order."""
    restarts: tuple[str, ...] = ()
    """Units that have to be restarted before it takes effect, and with them all that runs below them."""
    undo: tuple[str, ...] = ()
    """Commands that take the step back."""
    blocked: str = ""
    """Why it cannot be done for you; then there are no files and no commands."""


def steps(
    host: HostEvidence, declared: Sequence[DropIn] | None, user: str, present: Present | None = None
) -> tuple[HostStep, ...]:
    """`declared` None: not known, so that every controller and user namespaces count as needed."""
    there = present or Present()
    found = needs(declared or ())
    parts = [_sysctls(host, found, declared is None, there)]
    if host.scope is Scope.USER:
        parts += [
            _lingering(host, user),
            _delegation(host, found, declared is None, there),
            _limits(host, found, there),
        ]
    done = [step for part in parts for step in part]
    if host.scope is Scope.USER and not any(step.restarts for step in done) and restart_pending(host, there):
        done.append(_restart(host))
    return tuple(done)


def restart_pending(host: HostEvidence, present: Present) -> bool:
    """The user's manager runs, and was started before our files were written."""
    return bool(host.manager_pid) and 0 < host.manager_started < present.changed - CLOCK_SLACK


def _lingering(host: HostEvidence, user: str) -> Iterator[HostStep]:
    if not host.linger:
        yield HostStep(
            f"let the services of {user} run without a login",
            "otherwise they end with the last logout, and none starts at boot",
            commands=(f"loginctl enable-linger {user}",),
            undo=(f"loginctl disable-linger {user}",),
        )


def _delegation(host: HostEvidence, found: Sequence[Need], unknown: bool, present: Present) -> Iterator[HostStep]:
    wanted = [name for name in CONTROLLERS if unknown or of_controller(found, name)]
    missing = [name for name in wanted if name in host.available and name not in offered(host)]
    if not missing:
        return
    body = (
        "# Controllers that a user's manager may hand on to its services. Without one, systemd accepts the limits\n"
        "# that need it, and nothing enforces them.\n"
        "[Service]\n"
        f"Delegate={' '.join(CONTROLLERS)}\n"
    )
    title = f"delegate the controller{'s' if len(missing) > 1 else ''} {' '.join(missing)} to users' managers"
    why = "systemd accepts a limit whose controller it was not given, shows it, and nothing enforces it"
    yield from _files_step(host, present, {DELEGATE: body}, title, why)


def _limits(host: HostEvidence, found: Sequence[Need], present: Present) -> Iterator[HostStep]:
    if privileged(host):
        return
    over = clamped(host, found)
    if not over:
        return
    lines = raised(host, over, entries(present.texts.get(LIMITS)))
    title = f"raise the hard limits of users' managers: {', '.join(over)}"
    wishes = "; ".join(str(need) for group in over.values() for need in group)
    why = f"{wishes}: systemd cuts it to the manager's hard limit without a word"
    yield from _files_step(host, present, {LIMITS: unit_body(lines), PAM: pam_body(lines)}, title, why)


def _sysctls(host: HostEvidence, found: Sequence[Need], unknown: bool, present: Present) -> Iterator[HostStep]:
    lines: dict[str, str] = {}
    whys = []
    if host.userns_allowed is False and (unknown or of_namespaces(found)):
        denying = {
            name: allowed
            for name, (denied, allowed) in NAMESPACE_SETTINGS.items()
            if host.sysctls.get(name) == denied or f"{name}={denied}" in host.userns_reason
        }
        if not denying:
            yield HostStep(
                "allow user namespaces", f"they are denied: {host.userns_reason}", blocked="no setting is known"
            )
        else:
            whys.append(
                "without user namespaces a user's manager starts services unsandboxed, or not at all (217/USER)"
            )
            lines |= denying
    files = _files_wanted(host, found)
    if files:
        whys.append(f"{NR_OPEN} {host.sysctls.get(NR_OPEN)} is the most open files that any process may have")
        lines[NR_OPEN] = str(files)
    if lines:
        yield from _sysctl_step(lines, "; ".join(whys), present)


def _files_wanted(host: HostEvidence, found: Sequence[Need]) -> int:
    """The fs.nr_open that the declared LimitNOFILE= want, 0 when it is high enough."""
    bound = kernel_limit(host.sysctls.get(NR_OPEN, ""))
    values = [limit_of(need.key, need.value) for need in found if need.key == "LimitNOFILE"]
    most = max((value for value in values if value is not None and value < INFINITY), default=0.0)
    return int(most) if bound is not None and most > bound else 0


def _sysctl_step(lines: Mapping[str, str], why: str, present: Present) -> Iterator[HostStep]:
    old = present.texts.get(SYSCTL)
    title = f"set {', '.join(f'{key}={value}' for key, value in lines.items())}"
    if is_foreign(old):
        yield HostStep(title, why, blocked=kept(SYSCTL))
        return
    every = {**entries(old), **lines}
    body = "".join(f"{key} = {value}\n" for key, value in sorted(every.items()))
    text = owned(body)
    yield HostStep(
        title,
        why,
        files={} if text == old else {SYSCTL: text},
        commands=(LOAD_SYSCTL,),
        undo=(f"rm {SYSCTL}", "# the running kernel keeps the values until the next boot"),
    )


def _files_step(
    host: HostEvidence, present: Present, bodies: Mapping[str, str], title: str, why: str
) -> Iterator[HostStep]:
    """For files that a user's manager meets at its start; nothing where they only wait for that."""
    foreign = [path for path in bodies if is_foreign(present.texts.get(path))]
    texts = {path: owned(body) for path, body in bodies.items()}
    writes = {path: text for path, text in texts.items() if text != present.texts.get(path)}
    if foreign:
        yield HostStep(title, why, blocked=kept(foreign[0]))
    elif writes:
        unit = manager_unit(host)
        undo = (*(f"rm {path}" for path in writes), RELOAD)
        yield HostStep(title, why, writes, (RELOAD,), (unit,) if host.manager_pid else (), undo)
    elif host.manager_pid and not restart_pending(host, present):
        there = " and ".join(bodies)
        where = f"systemctl cat {manager_unit(host)}" + (", and in /etc/security" if PAM in bodies else "")
        yield HostStep(title, why, blocked=f"{there} did not help; look for what overrides it: {where}")


def _restart(host: HostEvidence) -> HostStep:
    unit = manager_unit(host)
    return HostStep(
        f"restart {unit}",
        "its new settings are written, but a user's manager takes them at its start only",
        commands=(RELOAD,),
        restarts=(unit,),
    )
