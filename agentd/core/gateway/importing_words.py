"""What an import gathers besides the sources: notes, and the keys that stood in the file with a variable for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentd.core.gateway.read_base import NAME
from agentd.core.gateway.secret_words import HIDDEN, is_variable, looks_secret

REFERENCE = "os.environ/"
_SECRET_FIELD = re.compile(
    r"(^|_)(key|secret|token|password|passwd|credentials?|authorization)$|^(database_url|redis_url|vertex_credentials)$",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"none|null|empty|dummy|fake|x{1,8}|any(thing)?|ollama|vllm|lm-studio|local|placeholder|unused|(api[-_]?)?key"
    r"|(no|fake|dummy)[-_]?(api[-_]?)?key|not[-_ ]?(needed|used|required)|sk-(x+|none|dummy|fake|no-key)",
    re.IGNORECASE,
)
"""What people write for a server that wants no key."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A key that stood in the file. `where`: "api_key of provider openai"."""

    variable: str
    where: str
    value: str = field(repr=False)


class Gathered:
    """Notes and secrets of one import."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.secrets: list[Secret] = []
        self.taken: set[str] = set()
        """Names of variables that the file refers to; none of them is proposed for a key."""

    def note(self, text: str) -> None:
        """A name in it that looks like a key is hidden."""
        text = " ".join(HIDDEN if looks_secret(word.strip(",:")) else word for word in text.split(" "))
        if text not in self.notes:
            self.notes.append(text)

    def variables(self, section: Mapping[str, Any]) -> None:
        """The variables that the file itself sets: a key among them moves to the environment file, under its name."""
        for name, value in section.items():
            if isinstance(value, str) and is_variable(str(name)) and is_key(str(name), value):
                self.secrets.append(Secret(str(name), f"{name} of environment_variables", value))
                self.note(f"{name} of environment_variables moves to the environment file")
            self.taken.add(str(name))

    def variable_for(self, value: str, proposed: str, where: str) -> str:
        """The variable that holds this key from now on: the same for the same key."""
        known = next((secret.variable for secret in self.secrets if secret.value == value), "")
        if known:
            return known
        name = re.sub(r"[^A-Z0-9]+", "_", proposed.upper()).strip("_")
        name = name if name[:1].isalpha() else f"KEY_{name}"
        used = self.taken | {secret.variable for secret in self.secrets}
        number = 2
        variable = name
        while variable in used:
            variable, number = f"{name}_{number}", number + 1
        self.secrets.append(Secret(variable, where, value))
        return variable

    def without_keys(self, value: Any, name: str, where: str, inside: str = "") -> Any:
        """The value with every literal key replaced by a reference. `name`: of its field, `inside`: of the field around
        it."""
        if isinstance(value, Mapping):
            return {k: self.without_keys(inner, str(k), f"{k} of {where}", name) for k, inner in value.items()}
        if isinstance(value, list):
            return [self.without_keys(inner, name, where, inside) for inner in value]
        if isinstance(value, str) and is_key(name, value):
            return REFERENCE + self.variable_for(value, f"{inside}_{name}" if inside else name, where)
        return value


def is_key(name: str, value: str) -> bool:
    """Is it a key that stands there itself? References and placeholders are none."""
    if not value or value.startswith(REFERENCE) or is_placeholder(value):
        return False
    return looks_secret(value) or _SECRET_FIELD.search(name) is not None


def is_placeholder(value: str) -> bool:
    return _PLACEHOLDER.fullmatch(value.strip()) is not None


def is_good_name(name: object) -> bool:
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def references(value: Any) -> set[str]:
    """The variables that a document refers to."""
    if isinstance(value, Mapping):
        return set().union(*(references(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(references(inner) for inner in value))
    return {value.removeprefix(REFERENCE)} if isinstance(value, str) and value.startswith(REFERENCE) else set()
