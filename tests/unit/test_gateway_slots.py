"""Which models live in a slot."""

from __future__ import annotations

import pytest
from gatewaycatalogs import catalog, model, provider

from agentd.core.gateway.generated import SlotModel
from agentd.core.gateway.model import Kind
from agentd.core.gateway.slots import slot_models

SERVICES = {
    "qwen": ("http://127.0.0.1:8001", "gpu0"),
    "dolphin": ("http://localhost:8002/v1", "gpu0"),
    "alone": ("http://127.0.0.1:8003", ""),
    "broken": ("http://[", "gpu0"),
}


@pytest.mark.parametrize(
    ("url", "service", "found"),
    [
        ("http://127.0.0.1:8001/v1", "", SlotModel("qwen", "gpu0")),
        ("http://localhost:8001/v1", "", SlotModel("qwen", "gpu0")),
        ("http://[::1]:8002/v1", "", SlotModel("dolphin", "gpu0")),
        ("http://elsewhere:1/v1", "dolphin", SlotModel("dolphin", "gpu0")),
        ("http://127.0.0.1:8001/v1", "nobody", None),
        ("http://127.0.0.1:8003/v1", "", None),
        ("http://127.0.0.1:9999/v1", "", None),
        ("http://elsewhere:8001/v1", "", None),
        ("http://[", "", None),
        ("", "", None),
    ],
)
def test_by_name_or_by_address(url: str, service: str, found: SlotModel | None) -> None:
    sources = catalog(model("a"), providers=(provider(kind=Kind.VLLM, base_url=url, service=service),))
    assert slot_models(sources, SERVICES) == ({"a": found} if found else {})


def test_a_model_that_is_served_elsewhere_too_is_always_there() -> None:
    here, there = provider("here", Kind.VLLM, 8001), provider("there", Kind.VLLM, 9000)
    both = model("both", providers=("here", "there"))
    twice = model("twice", providers=("here", "here"))
    found = slot_models(catalog(both, twice, providers=(here, there)), SERVICES)
    assert found == {"twice": SlotModel("qwen", "gpu0")}


def test_a_disabled_provider_does_not_count() -> None:
    here, there = provider("here", Kind.VLLM, 8001), provider("there", Kind.VLLM, 9000, enabled=False)
    found = slot_models(catalog(model("a", providers=("here", "there")), providers=(here, there)), SERVICES)
    assert found == {"a": SlotModel("qwen", "gpu0")}
