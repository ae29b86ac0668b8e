"""How `[gateway] client_env_files` names a client's file, and the variable in it that holds the gateway's key."""

from __future__ import annotations

from agentd.core.gateway.env_text import NAME


def split(entry: str, default: str) -> tuple[str, str]:
    """(path, variable) of "PATH" or "PATH:VARIABLE"; `default` where the entry names no variable."""
    path, colon, name = entry.rpartition(":")
    return (path, name) if colon and path and NAME.fullmatch(name) else (entry, default)
