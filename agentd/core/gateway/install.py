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

    @property
    def numbers(self) -> tuple[int, ...]:
        """(1, 106, 2), for comparisons; () when unknown."""
        parts = self.version.split(".")[:3]
        return tuple(int(part) for part in parts if part.isdigit())


NOT_INSTALLED = Install("", "", "")
