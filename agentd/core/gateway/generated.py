"""A generated config and what it was made to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.core.gateway.tree import Place

SECTION = "agentd"
"""Our top-level key in the generated file, which LiteLLM does not look at:

    agentd:
      version: 1
      answer_limit: 300.0        # seconds for a whole answer, streams included
      absent_wait: 60.0
      expected_models: [dolphin, qwen]
      slots:                     # models that may be absent
        qwen: {service: qwen, slot: gpu0, when_absent: fallback, fallbacks: [dolphin]}
"""


@dataclass(frozen=True, slots=True)
class SlotModel:
    """A model that is there only while its slot holds it. `service` is agentd's name of it."""

    service: str
    slot: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a disabled provider or model took with it: `what` is not in the config, because of `why`."""

    what: str
    why: str
    place: Place


@dataclass(frozen=True, slots=True)
class Rendered:
    """`text`: the whole file. `digest`: sha256 (hex) of the text below the header, which a hand's edit changes."""

    text: str
    digest: str
    expected: tuple[str, ...]
    """What /v1/models lists, aliases included, sorted."""
    left_out: tuple[LeftOut, ...] = ()
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model -> the models that a request may reach in turn, itself first."""
