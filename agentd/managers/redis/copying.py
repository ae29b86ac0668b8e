"""What of an append-only file is copied: the manifest and the parts that it names, all of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.core.aof_manifest import parse_manifest
from agentd.core.redis_layout import Layout
from agentd.errors import AgentdError
from agentd.ports_redis import DataFiles


@dataclass(frozen=True, slots=True)
class AppendOnly:
    manifest: str | None
    """None when there is none."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Name below the copy -> full path, of the manifest and of every part that it names and that is there."""
    missing: tuple[str, ...] = ()
    """Parts that it names and that are not."""


async def append_only(files: DataFiles, places: Layout) -> AppendOnly:
    """Raises AgentdError("file-denied") when it may not be looked at, "aof-manifest" when it says nothing sensible."""
    found = await files.aof(places.aof, places.appendfilename)
    if found.problem:
        raise AgentdError("file-denied", f"cannot read {places.aof}: {found.problem}")
    if found.manifest is None:
        return AppendOnly(None)
    try:
        manifest = parse_manifest(found.manifest)
    except ValueError as error:
        raise AgentdError("aof-manifest", f"cannot use {places.manifest}: {error}") from None
    named = [name for name in (manifest.base, *manifest.increments) if name]
    there = [name for name in named if name in found.sizes]
    paths = {f"{places.appenddirname}/{name}": f"{places.aof}/{name}" for name in there}
    paths[f"{places.appenddirname}/{places.appendfilename}.manifest"] = places.manifest
    return AppendOnly(found.manifest, paths, tuple(name for name in named if name not in found.sizes))
