"""The installed LiteLLM, as far as a config depends on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Install:
    executable: str
    """The `litellm` program, resolved."""
    python: str
    """Its interpreter."""
    version: str
    """"1.106.2"; "" when nothing is installed."""
    router_keys: frozenset[str] = frozenset()
    """Parameters of its Router: what `router_settings` may hold; empty when not known."""
    prometheus: bool = True
    """The package prometheus_client is beside it, which `litellm[proxy]` does not bring: without it a proxy that is to
    have metrics does not start. True as well where nobody looked."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """(1, 106, 2), for comparisons; () when unknown."""
        parts = self.version.split(".")[:3]
        return tuple(int(part) for part in parts if part.isdigit())


NOT_INSTALLED = Install("", "", "")
