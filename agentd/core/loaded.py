"""What systemd has loaded of one directive, beside what was declared. Pure.

A property is compared by value: a size as bytes, a list as a set, "65536" against soft and hard limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentd.core import loaded_values as values
from agentd.core.directives_spec import Kind
from agentd.core.loaded_lists import DECLARED_COUNTS, LISTS, Asked
from agentd.core.loaded_text import human
from agentd.core.loaded_values import ALL_CAPABILITIES, INFINITY

__all__ = ["Asked", "Loaded", "compare"]

_SAME = {"self": "yes", "connected": "yes"}
"""Words by which newer versions say "yes"."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """`agrees` is None where nothing can be compared: no such property, an empty value, a percentage."""

    agrees: bool | None
    text: str
    """What systemd has, for a reader; "" when unknown."""
    value: object
    """What to look for in the kernel: the loaded value, or the declared one where there is no property."""
    off: bool = False
    """It asks for nothing."""
    wrong: str = ""
    """Why systemd would not take the declared text."""


def compare(asked: Asked) -> Loaded:
    """Never raises: what cannot be read as a value is `wrong`."""
    spec, setting = asked.spec, asked.setting
    found = asked.properties.get(spec.property)
    try:
        if spec.kind in LISTS:
            declared, agrees, loaded = LISTS[spec.kind](asked)
        elif spec.kind is Kind.CHOICE:
            declared, agrees, loaded = _choice(asked, found)
        else:
            declared, agrees, loaded = _scalar(asked, found)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        return Loaded(False, human(spec.kind, found), None, wrong=f'systemd cannot read "{setting.text}": {error}')
    value = declared if loaded is None or spec.kind in DECLARED_COUNTS else loaded
    return Loaded(agrees, human(spec.kind, loaded), value, _asks_nothing(asked, declared))


def _asks_nothing(asked: Asked, declared: object) -> bool:
    spec, setting = asked.spec, asked.setting
    if spec.kind is Kind.CAPABILITIES:
        return declared == (ALL_CAPABILITIES if spec.key == "CapabilityBoundingSet" else 0)
    if spec.kind is Kind.NAMESPACES:
        return declared == values.ALL_NAMESPACES
    if not setting.text:
        return True
    if spec.kind in (Kind.BOOL, Kind.DELEGATE):
        return declared is False
    return spec.kind is Kind.CHOICE and (declared == "no" or declared in spec.off)


def _choice(asked: Asked, found: object) -> tuple[object, bool | None, object]:
    spec, text = asked.spec, asked.setting.text
    declared = _word(text)
    if declared not in ("yes", "no", "", *map(_word, spec.words)):
        raise ValueError("it knows " + ", ".join(("yes", "no", *spec.words)))
    exact = asked.properties.get(spec.words_in) if spec.words_in else None
    raw = exact if isinstance(exact, str) else found
    loaded = _word(raw) if isinstance(raw, str) else None
    if isinstance(raw, bool):
        loaded = "yes" if raw else "no"
    if not text or loaded is None:
        return declared, None, loaded
    return declared, declared == loaded, loaded


def _word(text: str) -> str:
    if values.is_boolean(text):
        return "yes" if values.boolean(text) else "no"
    return _SAME.get(text, text)


def _scalar(asked: Asked, found: object) -> tuple[object, bool | None, object]:
    spec, text = asked.spec, asked.setting.text
    if spec.kind is Kind.LIMIT:
        return _limit(asked, text)
    if not text:
        return None, None, found if isinstance(found, int) else None
    declared = _SCALARS[spec.kind](text)
    if spec.kind is Kind.DELEGATE:
        return declared, _delegates(asked, text, found), found
    if spec.kind is Kind.ANY or found is None or declared is None:
        plausible = declared is not None or not isinstance(found, int) or found < INFINITY
        return declared, None if plausible else False, found if isinstance(found, int) else None
    return declared, declared == found, found


def _limit(asked: Asked, text: str) -> tuple[object, bool | None, object]:
    declared = values.limit(asked.spec.key.removeprefix("Limit"), text) if text else None
    hard, soft = (asked.properties.get(name) for name in asked.spec.properties)
    if not isinstance(hard, int) or not isinstance(soft, int):
        return declared, None, None
    return declared, None if declared is None else declared == (soft, hard), (soft, hard)


def _delegates(asked: Asked, text: str, found: object) -> bool | None:
    if not isinstance(found, bool):
        return None
    listed = asked.properties.get("DelegateControllers")
    if values.is_boolean(text) or not isinstance(listed, list | tuple):
        return found == _delegate(text)
    return found and set(text.split()) <= set(listed)


def _delegate(text: str) -> bool:
    return values.boolean(text) if values.is_boolean(text) else True


def _number(text: str) -> int:
    return int(text)


def _scheduler(text: str) -> int:
    if text not in values.SCHEDULERS:
        raise ValueError(f"it knows {', '.join(values.SCHEDULERS)}")
    return values.SCHEDULERS[text]


def _any(_: str) -> None:
    return None


_SCALARS: Mapping[Kind, Callable[[str], object]] = {
    Kind.BOOL: values.boolean,
    Kind.SIZE: values.size,
    Kind.TASKS: values.size,
    Kind.QUOTA: values.quota,
    Kind.WEIGHT: values.weight,
    Kind.NUMBER: _number,
    Kind.OCTAL: values.octal,
    Kind.SPAN: values.span,
    Kind.SCHEDULER: _scheduler,
    Kind.ERRNO: values.error_number,
    Kind.DELEGATE: _delegate,
    Kind.ANY: _any,
}
