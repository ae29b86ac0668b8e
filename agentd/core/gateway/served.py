"""Whom a generated file serves, for someone who asks each once: names, what each can be asked, who answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.core.gateway.section import Absentee, read_section
from agentd.core.gateway.tree import Node

CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Served:
    """A file that is none of ours gives its models all the same."""

    kinds: Mapping[str, str] = field(default_factory=dict)
    """Model -> LiteLLM's mode of it ("chat", "embedding", ...), in the order of the file, without aliases."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Alias -> its model."""
    deployments: Mapping[str, str] = field(default_factory=dict)
    """Id of a deployment -> its model."""
    absentees: Mapping[str, Absentee] = field(default_factory=dict)
    """Model -> what it is in its slot."""
    key_variable: str = ""

    def model(self, name: str) -> str:
        """Behind an alias."""
        return self.aliases.get(name, name)

    def kind(self, name: str) -> str:
        """Of a model, or of an alias; "chat" for one that is not known."""
        return self.kinds.get(self.model(name), CHAT)

    def other(self, name: str, deployment: str) -> str:
        """The model that answered a request for `name`; "" when it is that very one, or unknown."""
        by = self.deployments.get(deployment, "")
        return by if by != self.model(name) else ""


def read_served(root: Node) -> Served:
    """Of the tree of LiteLLM's config."""
    listed = root.get("model_list")
    kinds: dict[str, str] = {}
    deployments: dict[str, str] = {}
    for entry in listed.items if listed is not None else ():
        name, info = _text(entry.get("model_name")), entry.get("model_info")
        if name:
            kinds.setdefault(name, _text(info.get("mode")) if info is not None else "")
            deployments[_text(info.get("id")) if info is not None else ""] = name
    deployments.pop("", None)
    section = read_section(root)
    return Served(
        {name: mode or CHAT for name, mode in kinds.items()},
        _aliases(root),
        deployments,
        {absentee.model: absentee for absentee in section.absentees} if section is not None else {},
        section.key_variable if section is not None else "",
    )


def _aliases(root: Node) -> dict[str, str]:
    """A hand-written one may be {model: NAME, hidden: true}."""
    router = root.get("router_settings")
    found = router.get("model_group_alias") if router is not None else None
    pairs = found.pairs if found is not None else ()
    return {_text(name): _text(target.get("model") if target.kind == "mapping" else target) for name, target in pairs}


def _text(node: Node | None) -> str:
    return str(node.value) if node is not None and node.kind == "scalar" and node.value is not None else ""
