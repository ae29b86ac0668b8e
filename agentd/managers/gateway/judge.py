"""What is wrong with a LiteLLM that answers, or does not: compared with what its file promises. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agentd.ports_gateway import ProxyState
from agentd.types import UnitState

SHOWN = 5
LOADS = {"masked": "is masked", "not-found": "does not exist", "": "does not exist"}
RUNTIME = "agentd gateway: "
"""How its lines begin."""
NOT_ASKED = 0
"""Without a key."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a proxy has to be. `digest` "": any; `expected` None: any models; without `has_key` no key is tried."""

    digest: str = ""
    expected: tuple[str, ...] | None = None
    has_key: bool = True


def fault(state: ProxyState, wanted: Wanted) -> str:
    """The first thing that is wrong, in one sentence; "" when it is as wanted."""
    if not state.alive:
        return state.error or "it does not answer"
    if wanted.digest and state.digest != wanted.digest:
        return f"it runs configuration {short(state.digest)}, not {short(wanted.digest)}"
    if state.open_status == 200:
        return "it answers without a key"
    if state.open_status not in (NOT_ASKED, 401):
        return f"without a key /v1/models answers {state.open_status}, not 401"
    if wanted.has_key and state.key_status != 200:
        return f"it does not take our key: /v1/models answers {state.key_status}"
    if wanted.has_key and wanted.expected is not None:
        return wrong_models(state.models, wanted.expected)
    return ""


def wrong_models(listed: Collection[str], expected: Collection[str]) -> str:
    missing, more = sorted(set(expected) - set(listed)), sorted(set(listed) - set(expected))
    parts = []
    if missing:
        parts.append(f"it does not list {_names(missing)}")
    if more:
        parts.append(f"it lists {_names(more)}, which its file does not promise")
    return "; ".join(parts)


def unloadable(state: UnitState) -> str:
    """Why systemd cannot start this unit, whether or not it runs now; "" when it can."""
    if state.load_state == "loaded":
        return ""
    detail = f": {state.load_error}" if state.load_error and state.load_state not in LOADS else ""
    return f"{state.name} {LOADS.get(state.load_state, 'could not be loaded')}{detail}"


def own_words(lines: Sequence[str]) -> tuple[str, ...]:
    """What our runtime in the process says last is why it ended; without it, all that was said."""
    said = [line.removeprefix(RUNTIME) for line in lines if line.startswith(RUNTIME)]
    return tuple(said[-1:]) or tuple(lines)


def short(digest: str) -> str:
    return digest[:8] or "of an unknown file"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
