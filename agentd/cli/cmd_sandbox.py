"""`agentctl sandbox`: see agentd.sandbox.command."""

from __future__ import annotations

from agentd.sandbox.command import add_arguments, run

__all__ = ["add_arguments", "run"]
