"""A hand-written LiteLLM config as sources that generate an equivalent one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentd.core.gateway.chains import cycles, reach, worst_case
from agentd.core.gateway.importing_models import Models
from agentd.core.gateway.importing_settings import Settings
from agentd.core.gateway.importing_words import Gathered, Secret, references
from agentd.core.gateway.model import MODELS, PORTS, PROVIDERS, Absent
from agentd.core.gateway.prune import prune
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.settings import SECTIONS
from agentd.core.gateway.tree import Node
from agentd.core.gateway.yaml_text import dump, parse
from agentd.errors import AgentdError

_NOT_OURS = {"model_list", *SECTIONS, "agentd"}


@dataclass(frozen=True, slots=True)
class Imported:
    texts: Mapping[str, str]
    """providers.yaml, ports.yaml and model-mappings.yaml; no key is in them."""
    notes: tuple[str, ...] = ()
    """What could not be kept, or changed, and why; a sentence each."""
    secrets: tuple[Secret, ...] = field(default=(), repr=False)
    """Keys that stood in the file, for the environment file."""


def import_config(tree: Node) -> Imported:
    """`tree`: the parsed config. Raises AgentdError("gateway-import") for what is no LiteLLM config."""
    document = tree.plain()
    file = tree.place.file
    entries = document.get("model_list") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(entries, list):
        raise AgentdError(
            "gateway-import",
            f"cannot import {file}: it has no model_list",
            hint="name LiteLLM's own config, the file that litellm --config reads",
        )
    gathered = Gathered()
    gathered.taken = references(document)
    environment = document.get("environment_variables")
    if isinstance(environment, Mapping):
        gathered.variables(environment)
    models = Models(gathered)
    for number, entry in enumerate(entries, 1):
        models.add(entry, number)
    _others(document, gathered)
    policy = Settings(document, models, gathered).policy()
    texts = _texts(file, models, policy)
    longest = _longest(texts, gathered)
    if longest is not None:
        policy = {**policy, "timeouts": {**policy.get("timeouts", {}), "answer": longest}}
        texts = _texts(file, models, policy)
    return Imported(texts, tuple(gathered.notes), tuple(gathered.secrets))


def _longest(texts: Mapping[str, str], gathered: Gathered) -> int | None:
    """Seconds of the longest answer that the config allowed, when the policy's limit is below that."""
    catalog, _ = read_catalog({name: parse(text, name) for name, text in texts.items()})
    assert catalog is not None  # All three are there.
    models = {model.name: model for model in prune(catalog).models}
    for cycle in cycles(models.values()):
        way = " -> ".join(cycle)
        gathered.note(f"the fallbacks {way} lead back to where they began: remove one before you generate")
    ways = [[models[name] for name in way] for way in reach(models.values()).values()]
    # A model without a time of its own, and no fallback: what the policy allows any model.
    ways += [[replace(model, try_timeout=None, when_absent=Absent.REFUSE)] for model in models.values()]
    worst = max((worst_case(catalog.policy, way).seconds for way in ways), default=0.0)
    if worst <= catalog.policy.answer_timeout:
        return None
    seconds = math.ceil(worst)
    gathered.note(f"a whole answer may take {seconds} s, as the timeouts and fallbacks allowed: lower them")
    return seconds


def _others(document: Mapping[Any, Any], gathered: Gathered) -> None:
    for name in document:
        if name not in _NOT_OURS:
            gathered.note(f"the section {name} is left out: the sources have no place for it")


def _texts(file: str, models: Models, policy: Mapping[str, Any]) -> dict[str, str]:
    ports = models.providers.named()
    providers = {found.name: found.fields() for found in models.providers.found}
    registry = {
        port.name: port.number if port.host == "127.0.0.1" else {"port": port.number, "host": port.host}
        for port in ports.values()
    }
    mappings: dict[str, Any] = {"models": models.documents()}
    if policy:
        mappings["policy"] = dict(policy)
    head = f"# Imported from {file.rpartition('/')[2]} by agentctl gateway import.\n\n"
    return {
        PROVIDERS: head + dump({"providers": providers}),
        PORTS: head + dump({"ports": registry}),
        MODELS: head + dump(mappings),
    }
