"""The stand-in for GPU memory: a directory with one small file per claim, shared by servers and the stand-in NVML.

`$AGENTD_STANDIN_GPU/gpu.json` may set {"gpus": [{"name": ..., "total": bytes}], "reserved": bytes}. A claim is
`claims/NAME.json` with pid, start (its start time, so that a reused pid is not taken for it), bytes, gpu and
release_seconds. Memory of a process that has ended is given back `release_seconds` after the first look at it, as a
driver gives it back some time after the exit; in a sandbox pid 1 looks at once (see driver.py). A claim with
"held": true belongs to a process that is not looked at: the way to put a stranger on the GPU.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT = "AGENTD_STANDIN_GPU"
GIB = 1024**3
DEFAULT_TOTAL = 16 * GIB
DEFAULT_RESERVED = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class Card:
    index: int
    name: str
    total: int


@dataclass(frozen=True, slots=True)
class Claim:
    path: Path
    pid: int
    size: int
    gpu: int
    alive: bool
    """False while a dead process's memory is not yet given back."""


def uuid(index: int) -> str:
    return f"GPU-00000000-5a4d-4000-8000-{index:012x}"


def start_time(pid: int) -> str:
    """Start of the process in clock ticks; "" when it has ended (a zombie has given its memory back, too)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


class Memory:
    """The simulated GPUs below `directory`."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._claims = self._directory / "claims"

    @classmethod
    def from_environment(cls) -> Memory | None:
        directory = os.environ.get(ENVIRONMENT, "")
        return cls(directory) if directory else None

    def _settings(self) -> dict[str, Any]:
        try:
            settings: dict[str, Any] = json.loads((self._directory / "gpu.json").read_text())
        except FileNotFoundError:
            return {}
        return settings

    def cards(self) -> list[Card]:
        listed = self._settings().get("gpus", [{}])
        return [
            Card(i, g.get("name", "Stand-in GPU"), int(g.get("total", DEFAULT_TOTAL))) for i, g in enumerate(listed)
        ]

    def reserved(self) -> int:
        return int(self._settings().get("reserved", DEFAULT_RESERVED))

    def claims(self) -> list[Claim]:
        """Every claim that still holds memory; forgets those whose memory is back."""
        found = []
        for path in sorted(self._claims.glob("*.json")):
            try:
                claim = self._read(path)
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                continue  # gone meanwhile, or a file that is no claim
            if claim is not None:
                found.append(claim)
        return found

    def _read(self, path: Path) -> Claim | None:
        entry = json.loads(path.read_text())
        pid, size, gpu = int(entry["pid"]), int(entry["bytes"]), int(entry.get("gpu", 0))
        alive = bool(entry.get("held")) or start_time(pid) == entry.get("start")
        if alive:
            return Claim(path, pid, size, gpu, True)
        died = entry.get("died")
        if died is None:
            died = time.monotonic()
            _write(path, {**entry, "died": died})
        if not entry.get("stuck") and time.monotonic() >= died + float(entry.get("release_seconds", 0)):
            path.unlink(missing_ok=True)
            return None
        return Claim(path, pid, size, gpu, False)

    def used(self, gpu: int = 0) -> int:
        return self.reserved() + sum(c.size for c in self.claims() if c.gpu == gpu)

    def free(self, gpu: int = 0) -> int:
        return max(0, self.cards()[gpu].total - self.used(gpu))

    def claim(
        self,
        pid: int,
        size: int,
        *,
        gpu: int = 0,
        release_seconds: float = 0.0,
        held: bool = False,
        stuck: bool = False,
    ) -> Path:
        """Make or resize the process's claim on this GPU."""
        self._claims.mkdir(parents=True, exist_ok=True)
        path = self._claims / (f"{pid}.json" if gpu == 0 else f"{pid}-{gpu}.json")
        entry = {"pid": pid, "start": start_time(pid), "bytes": size, "gpu": gpu, "release_seconds": release_seconds}
        _write(path, {**entry, **{name: True for name, on in (("held", held), ("stuck", stuck)) if on}})
        return path

    def release(self, pid: int) -> None:
        """Give back what the process has, on every GPU."""
        for path in (self._claims / f"{pid}.json", *self._claims.glob(f"{pid}-*.json")):
            path.unlink(missing_ok=True)

    def visible(self, environment: Mapping[str, str] = os.environ) -> list[int]:
        """The GPUs that CUDA shows to a process, in its order: it stops at the first name that it does not know."""
        names = environment.get("CUDA_VISIBLE_DEVICES")
        known = {str(card.index): card.index for card in self.cards()}
        known |= {uuid(index): index for index in known.values()}
        if names is None:
            return sorted(set(known.values()))
        shown: list[int] = []
        for name in names.split(","):
            if name.strip() not in known:
                break
            shown.append(known[name.strip()])
        return shown


def _write(path: Path, entry: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(entry))
    temporary.replace(path)
