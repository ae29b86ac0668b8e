"""Where a server keeps its files, from what CONFIG GET says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LAYOUT_NAMES = ("dir", "dbfilename", "appenddirname", "appendfilename")


@dataclass(frozen=True, slots=True)
class Layout:
    """Absolute paths. The append-only file is a directory of parts and a manifest (Redis 7 and later)."""

    directory: str
    dbfilename: str = "dump.rdb"
    appenddirname: str = "appendonlydir"
    appendfilename: str = "appendonly.aof"

    @property
    def rdb(self) -> str:
        return f"{self.directory}/{self.dbfilename}"

    @property
    def aof(self) -> str:
        return f"{self.directory}/{self.appenddirname}"

    @property
    def manifest(self) -> str:
        return f"{self.aof}/{self.appendfilename}.manifest"


def layout(running: Mapping[str, str]) -> Layout | None:
    """None when the server does not say where its directory is."""
    directory = running.get("dir", "")
    if not directory.startswith("/"):
        return None
    names = {name: running[name] for name in LAYOUT_NAMES[1:] if running.get(name)}
    return Layout(directory.rstrip("/") or "/", **names)
