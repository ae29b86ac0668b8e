"""All that one look at a store brought together; judged by `redis_verdict`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.core.aof_manifest import Manifest
from agentd.core.redis_conf import Effective
from agentd.core.redis_layout import Layout
from agentd.stores import AofFiles, ConfTree, Launch, RedisState, Space


@dataclass(frozen=True, slots=True)
class StoreView:
    """What cannot be seen is None, and its problem says why."""

    name: str
    at: float
    state: RedisState
    running: Mapping[str, str] | None = None
    """CONFIG GET."""
    running_problem: str = ""
    layout: Layout | None = None
    local: bool = True
    """Its files are on this machine."""
    tree: ConfTree = field(default_factory=ConfTree)
    launch: Launch = field(default_factory=Launch)
    file_written: float = 0.0
    """mtime of the main file after our last CONFIG REWRITE: an edit by a human makes it later."""
    effective: Effective | None = None
    """What the next start would read; None where no file and no unit are known."""
    aof: AofFiles | None = None
    manifest: Manifest | None = None
    rdb_mtime: float | None = None
    rdb_size: int = 0
    space: Space | None = None
    memory_available: int | None = None

    @property
    def started(self) -> float:
        """When the server was started; where only its uptime is known, which is in whole seconds, the earliest moment
        that fits."""
        return self.launch.started or self.at - self.state.uptime - 1
