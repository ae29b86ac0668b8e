"""The files that `agentctl host-setup` owns: where they lie, and how ours are told from others'. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.core import dropin

DELEGATE = "/etc/systemd/system/user@.service.d/50-agentd-delegate.conf"
LIMITS = "/etc/systemd/system/user@.service.d/50-agentd-limits.conf"
PAM = "/etc/security/limits.d/zz-agentd.conf"
SYSCTL = "/etc/sysctl.d/zz-agentd.conf"
"""Of several files that set the same thing the last one by name counts, here and in limits.d."""
FILES = (DELEGATE, LIMITS, PAM, SYSCTL)

_HEADER = "# Written by `agentctl host-setup`, removed by `agentctl host-setup --undo`. Changed by hand, it is kept.\n"


@dataclass(frozen=True, slots=True)
class Present:
    """The texts of FILES that are there, by path, and when one that a user's manager meets at its start was
    last changed."""

    texts: Mapping[str, str | None] = field(default_factory=dict)
    changed: float = 0.0


def owned(body: str) -> str:
    """A whole file, with the mark by which a change is noticed."""
    return f"{_HEADER}# agentd: purpose=host sha256={dropin.digest(body)}\n{body}"


def is_foreign(text: str | None) -> bool:
    """Somebody else's, or changed by somebody since."""
    return text is not None and (not dropin.is_ours(text) or dropin.edited(text))


def kept(path: str) -> str:
    return f"{path} was changed by somebody and is kept; remove it, or write the lines yourself"


def entries(text: str | None) -> dict[str, str]:
    """The assignments of a file of ours by key."""
    rows = (line.partition("=") for line in (text or "").splitlines() if line and line[0] not in "#[")
    return {key.strip(): value.strip() for key, equals, value in rows if equals}


def undoing(present: Present) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths to remove, and paths that are kept: of ours those that somebody changed."""
    ours = [path for path in FILES if dropin.is_ours(present.texts.get(path) or "")]
    changed = tuple(path for path in ours if dropin.edited(present.texts[path] or ""))
    return tuple(path for path in ours if path not in changed), changed
