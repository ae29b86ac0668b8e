"""What the journal has to know of a change of the profile, as words that a person reads, too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentd.core.use_plan import ProfilePlan, Running
from agentd.types import Change

_STOPS, _STARTS, _BRINGS, _SERVED = _WORDS = ("stops", "starts", "switches to", "served")


@dataclass(frozen=True, slots=True)
class Noted:
    stops: tuple[str, ...] = ()
    """What ran and was to be stopped."""
    starts: tuple[str, ...] = ()
    """What was to be started."""
    brings: tuple[str, ...] = ()
    """Models that were to be resident."""
    served: tuple[str, ...] = ()
    """Models that were resident before."""


def noted(plan: ProfilePlan, now: Running) -> str:
    parts = {
        _STOPS: plan.stop,
        _STARTS: plan.start,
        _BRINGS: plan.switch,
        _SERVED: tuple(name for name in now.residents.values() if name),
    }
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in parts.items() if names) or "settings alone"


def read_back(change: Change, step: str) -> Noted | None:
    """From the record of the step `step`; None when the change did not come to it."""
    detail = next((phase.detail for phase in change.phases if phase.phase == step), None)
    if detail is None:
        return None
    parts = dict(part.partition(": ")[::2] for part in detail.split("; "))
    return Noted(*(tuple(_names(parts.get(word, ""))) for word in _WORDS))


def _names(text: str) -> Iterable[str]:
    return filter(None, text.split(", "))
