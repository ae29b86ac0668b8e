"""What our runtime takes from the configuration: its own section, the aliases and the fallbacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .ending import Refusal, one_line

SECTION = "agentd"
ANSWER_LIMIT, ABSENT_WAIT = 300.0, 60.0
WAYS = ("fallback", "wait", "switch", "refuse")
_DIGEST = re.compile(r"^#.*?\bdigest\b.*?\b(?:sha256:)?([0-9a-f]{64})\b", re.IGNORECASE)


@dataclass(frozen=True)
class SlotModel:
    """A model that is there only while its slot holds it."""

    service: str
    slot: str
    when_absent: str
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """`answer_limit` 0: none. `digest`: of the header, "" for a file that is none of ours."""

    answer_limit: float = ANSWER_LIMIT
    absent_wait: float = ABSENT_WAIT
    slots: Mapping[str, SlotModel] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digest: str = ""
    models: int = 0


def read(path: str) -> Section:
    """Raises Refusal: no such file, no YAML, not a configuration."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise Refusal(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Refusal(f"cannot read the configuration {path}: it is no UTF-8 ({error.reason})") from None
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        what = one_line(str(getattr(error, "problem", None) or "no YAML"))
        raise Refusal(f"cannot read the configuration {place}: {what}") from None
    if not isinstance(document, dict):
        raise Refusal(f"cannot read the configuration {path}: it is no mapping")
    return of_document(document, digest(text))


def digest(text: str) -> str:
    """The digest that the header names; the header is the comment lines at the top."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return ""
        found = _DIGEST.match(line)
        if found:
            return found.group(1).lower()
    return ""


def of_document(document: Mapping[str, Any], digest: str = "") -> Section:
    """What is missing or of a wrong type is as if it were not there: validation is done before a file is written."""
    own = _mapping(document.get(SECTION))
    router, litellm = _mapping(document.get("router_settings")), _mapping(document.get("litellm_settings"))
    models = document.get("model_list")
    return Section(
        answer_limit=_seconds(own.get("answer_limit"), ANSWER_LIMIT),
        absent_wait=_seconds(own.get("absent_wait"), ABSENT_WAIT),
        slots={str(name): made for name, value in _mapping(own.get("slots")).items() if (made := _slot(value))},
        aliases=_aliases(router.get("model_group_alias")),
        fallbacks={**_fallbacks(litellm.get("fallbacks")), **_fallbacks(router.get("fallbacks"))},
        digest=digest,
        models=len(models) if isinstance(models, list) else 0,
    )


def _slot(value: object) -> SlotModel | None:
    fields = _mapping(value)
    service, slot, way = (str(fields.get(key) or "") for key in ("service", "slot", "when_absent"))
    if not service or not slot:
        return None
    return SlotModel(service, slot, way if way in WAYS else WAYS[0], _names(fields.get("fallbacks")))


def _aliases(value: object) -> dict[str, str]:
    """Of `model_group_alias`: a name, or a mapping with `model`."""
    found = {}
    for alias, target in _mapping(value).items():
        name = target.get("model") if isinstance(target, dict) else target
        if isinstance(name, str):
            found[str(alias)] = name
    return found


def _fallbacks(value: object) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for entry in value if isinstance(value, list) else ():
        found.update({str(name): _names(targets) for name, targets in _mapping(entry).items()})
    return found


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    return tuple(item for item in value if isinstance(item, str))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _seconds(value: object, default: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return default
    return float(value) if value >= 0 else default
