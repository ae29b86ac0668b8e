"""Resource limits of a process (LimitNOFILE= and the like): what it has, and who clamped it."""

from __future__ import annotations

from agentd.core.judge_context import Look, Outcome, unreadable
from agentd.core.loaded_values import INFINITY
from agentd.findings import Verdict

_NOFILE = "Max open files"


def rlimit(look: Look) -> Outcome:
    found, wanted = look.process.limits.get(look.item.spec.arg), look.item.loaded.value
    if found is None or not isinstance(wanted, tuple):
        return unreadable(look.process, "its limits")
    (soft, hard), (want_soft, want_hard) = (_number(found[0]), _number(found[1])), wanted
    text = f"{look.item.spec.arg.lower()} {found[0] if found[0] == found[1] else ':'.join(found)}"
    if (soft, hard) == (want_soft, want_hard):
        return Outcome(True, text)
    if hard < want_hard:
        return _clamped(look, text, found[1], hard)
    if hard == want_hard:
        return Outcome(
            None, text, "a program may move its soft limit up to the hard one, and this one may have done so"
        )
    return Outcome(False, text)


def _clamped(look: Look, text: str, shown: str, hard: int) -> Outcome:
    """Also a process may lower its own limit, so that the manager's must be the same to be the reason."""
    name, host = look.item.spec.arg, look.context.host
    ceiling = host.hard_limits.get(name)
    if look.context.user and ceiling is not None and _number(ceiling) == hard:
        key = look.item.spec.key
        return Outcome(
            False,
            text,
            f"clamped to {shown} by the hard limit of the manager, without a word",
            f"agentctl host-setup (as root {key}= for user@.service), then restart the user manager",
            Verdict.NOT_ENFORCEABLE,
        )
    most = host.sysctls.get("fs.nr_open", "")
    if name == _NOFILE and most.isdigit() and int(most) == hard:
        return Outcome(
            False,
            text,
            f"clamped to {shown} by the kernel: fs.nr_open = {most}",
            "raise it as root: sysctl fs.nr_open=NUMBER",
            Verdict.NOT_ENFORCEABLE,
        )
    return Outcome(False, text)


def _number(text: str) -> int:
    return INFINITY if text == "unlimited" else int(text)
