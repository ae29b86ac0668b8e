"""The LiteLLM of this machine, with what lies beside it."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.core.gateway.install import Install


@dataclass(frozen=True, slots=True)
class LocalInstall(Install):
    prometheus: bool = True
    """The package prometheus_client, which `litellm[proxy]` does not bring: without it a proxy that is to have metrics
    does not start."""


def has_metrics(install: Install) -> bool:
    """True as well where nobody looked."""
    return not isinstance(install, LocalInstall) or install.prometheus
