"""What LiteLLM's own metrics say about breakers and fallbacks: a few families out of its exposition. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from agentd.gateway import GatewayFigures

MOST = 200
"""Label values of each family; what is beyond counts as OTHER."""
OTHER = "other"

STATE = "litellm_deployment_state"
COOLED = ("litellm_deployment_cooled_down_total", "litellm_deployment_cooled_down")
FELL_BACK = "litellm_deployment_successful_fallbacks_total"
FAILED = "litellm_deployment_failed_fallbacks_total"
WANTED = (STATE, *COOLED, FELL_BACK, FAILED)

_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)\{(.*)\}\s+(\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}


def figures(text: str, models: Collection[str]) -> GatewayFigures:
    """`models`: the names that the gateway lists; others, which clients may invent, count as OTHER."""
    states: dict[str, int] = {}
    cooled: Counter[str] = Counter()
    fell_back: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    known = frozenset(models)
    for name, labels, value in _samples(text):
        deployment = labels.get("model_id") or labels.get("litellm_model_name") or OTHER
        asked = labels.get("requested_model") or labels.get("model_group") or OTHER
        if name == STATE:
            key = _bounded(deployment, states)
            states[key] = max(states.get(key, 0), value)
        elif name in COOLED:
            cooled[_bounded(deployment, cooled)] += value
        else:
            counts = fell_back if name == FELL_BACK else failed
            counts[asked if asked in known else OTHER] += value
    return GatewayFigures(states, dict(cooled), dict(fell_back), dict(failed))


def _bounded(name: str, seen: Mapping[str, int]) -> str:
    return name if name in seen or len(seen) < MOST else OTHER


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], int]]:
    """Of the families that are wanted; a line that is none is passed over."""
    for line in text.splitlines():
        if not line.startswith(WANTED):
            continue
        found = _LINE.match(line)
        value = _number(found[3]) if found else None
        if found is not None and found[1] in WANTED and value is not None:
            yield found[1], {name: _unescaped(text) for name, text in _LABEL.findall(found[2])}, value


def _number(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and value >= 0 else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text)
