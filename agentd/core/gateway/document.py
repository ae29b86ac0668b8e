"""The generated config: LiteLLM's document, our own section, and the header. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import agentd
from agentd.core.gateway.chains import walk
from agentd.core.gateway.deployments import decided, model_list
from agentd.core.gateway.generated import SECTION, LeftOut, Rendered, SlotModel
from agentd.core.gateway.header import digest_of, with_header
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import MODELS, Catalog, Model, Policy
from agentd.core.gateway.prune import Pruned, prune
from agentd.core.gateway.settings import number, overridden, sections, unsupported
from agentd.core.gateway.tree import Place
from agentd.core.gateway.yaml_text import dump

FORMAT = 1


def render(catalog: Catalog, install: Install, slots: Mapping[str, SlotModel], files: Mapping[str, str]) -> Rendered:
    """The file for these sources under this LiteLLM.

    `slots`: model -> where it lives, for those that may be absent; others in it are passed over. `files`: source ->
    sha256, for the header. The catalog should have passed the checks; one that would not still gives a file that
    LiteLLM takes, without what is wrong.
    """
    pruned = prune(catalog)
    chains = walk(pruned.models)
    expected = tuple(sorted({name for model in pruned.models for name in (model.name, *model.aliases)}))
    body = dump(document(pruned, catalog.policy, install, slots, chains, expected))
    text = with_header(body, agentd.__version__, install.version, files)
    lacking = unsupported(catalog.policy, pruned.models, install)
    ignored = (LeftOut(what, why, Place(MODELS)) for what, why in lacking.items())
    settings = (*_settings_left_out(catalog.policy), *ignored)
    left_out = (*pruned.left_out, *settings, *decided(pruned.models, pruned.providers))
    return Rendered(text, digest_of(body), expected, left_out, chains)


def document(
    pruned: Pruned,
    policy: Policy,
    install: Install,
    slots: Mapping[str, SlotModel],
    chains: Mapping[str, tuple[str, ...]],
    expected: tuple[str, ...],
) -> dict[str, Any]:
    section = {
        "version": FORMAT,
        "answer_limit": number(policy.answer_timeout),
        "absent_wait": number(policy.absent_wait),
        "expected_models": list(expected),
        "slots": {m.name: _slot(m, slots[m.name], chains[m.name]) for m in pruned.models if m.name in slots},
    }
    return {
        "model_list": model_list(pruned.models, pruned.providers, policy),
        **sections(policy, pruned.models, install),
        SECTION: section,
    }


def _slot(model: Model, slot: SlotModel, chain: tuple[str, ...]) -> dict[str, Any]:
    return {
        "service": slot.service,
        "slot": slot.slot,
        "when_absent": model.when_absent.value,
        "fallbacks": list(chain[1:]),
    }


def _settings_left_out(policy: Policy) -> list[LeftOut]:
    found = []
    for section, key, where in overridden(policy):
        keys = (f"litellm.{section}.{key}", f"litellm.{section}", "litellm")
        place = next((policy.places[k] for k in keys if k in policy.places), Place(MODELS))
        found.append(LeftOut(f"policy.litellm.{section}.{key}", f"{where} decides it", place))
    return found
