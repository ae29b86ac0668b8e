"""What a generated file promises, read back from it: the models, the slots' models, and the key's variable. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.core.gateway.generated import SECTION
from agentd.core.gateway.tree import Node

REFERENCE = "os.environ/"


@dataclass(frozen=True, slots=True)
class Absentee:
    """A model that may be absent, and what a request for it gets meanwhile."""

    model: str
    service: str
    slot: str
    when_absent: str


@dataclass(frozen=True, slots=True)
class Section:
    expected: tuple[str, ...]
    absentees: tuple[Absentee, ...] = ()
    key_variable: str = ""
    """The environment variable with the gateway's key."""


def read_section(root: Node) -> Section | None:
    """None for a file that is none of ours: it has no `agentd:` section with models."""
    section = root.get(SECTION)
    models = section.get("expected_models") if section is not None else None
    if section is None or models is None or models.kind != "list":
        return None
    slots = section.get("slots")
    pairs = slots.pairs if slots is not None else ()
    absentees = tuple(
        Absentee(_text(name), _field(value, "service"), _field(value, "slot"), _field(value, "when_absent"))
        for name, value in pairs
    )
    expected = tuple(sorted(_text(item) for item in models.items))
    return Section(expected, absentees, _variable(root))


def _variable(root: Node) -> str:
    general = root.get("general_settings")
    key = _field(general, "master_key") if general is not None else ""
    return key.removeprefix(REFERENCE) if key.startswith(REFERENCE) else ""


def _field(node: Node, name: str) -> str:
    found = node.get(name)
    return _text(found) if found is not None else ""


def _text(node: Node) -> str:
    return str(node.value) if node.kind == "scalar" and node.value is not None else ""
