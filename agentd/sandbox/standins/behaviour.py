"""How a stand-in behaves: one JSON file per served name, read when the server starts.

`~/.config/agentd-standin/NAME.json`, or the directory in $AGENTD_STANDIN_CONFIG.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

Failure = Literal[
    "",
    "exit-at-once",
    "die-while-loading",
    "never-ready",
    "wrong-name",
    "canary-500",
    "ignore-sigterm",
    "orphan",
    "escaped-orphan",
    "slow-stop",
    "sleep-keeps-memory",
    "wake-500",
    "never-unloads",
]


@dataclass(frozen=True, slots=True)
class Behaviour:
    load_seconds: float = 0.5
    vram_bytes: int = 0
    """0: what --gpu-memory-utilization asks for."""
    vram_release_seconds: float = 0.3
    """How long after the end of its process the memory comes back."""
    sleep_vram_bytes: int = 512 * 1024**2
    token_seconds: float = 0.0
    stop_seconds: float = 3.0
    """With "slow-stop"."""
    exit_code: int = 1
    """With "exit-at-once" and "die-while-loading"."""
    message: str = ""
    """What it writes to stderr when it fails, instead of what vLLM would."""
    fail: Failure = ""


def directory(home: Path | None = None) -> Path:
    own = os.environ.get("AGENTD_STANDIN_CONFIG")
    if own and home is None:
        return Path(own)
    return (home or Path.home()) / ".config/agentd-standin"


def load(name: str) -> Behaviour:
    """The settings for a served name; a wrong one ends the server with a message, as a wrong flag would."""
    path = directory() / f"{name}.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return Behaviour()
    except ValueError as error:
        raise SystemExit(f"{path}: not JSON: {error}") from error
    unknown = set(values) - {f.name for f in fields(Behaviour)}
    if unknown:
        raise SystemExit(f"{path}: unknown setting {sorted(unknown)[0]}")
    behaviour = Behaviour(**values)
    if behaviour.fail not in get_args(Failure):
        raise SystemExit(f"{path}: fail must be one of {', '.join(get_args(Failure)[1:])}, not {behaviour.fail!r}")
    return behaviour


def save(home: Path, name: str, **values: object) -> None:
    """Set the behaviour of the next start; no values take it back to the defaults."""
    Behaviour(**values)  # type: ignore[arg-type]  # a wrong name fails here rather than in the server
    path = directory(home) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
