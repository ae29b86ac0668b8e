"""How a stand-in acts: a JSON file per served name, read when the server starts.

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
    "stop-hangs",
    "stuck-memory",
    "sleep-keeps-memory",
    "sleep-half",
    "sleep-crash",
    "wake-500",
    "wake-partial",
    "wake-garbage",
    "never-unloads",
    "reload-on-request",
    "gone",
]
Phase = Literal["", "starting", "weights", "compiling", "profiling", "graphs"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    version: str = "0.33.0"
    """Whose ways it shows: before 0.12 there is no pause, before 0.33 a paused server takes requests and is silent."""
    load_seconds: float = 0.5
    """Of a load without compilation; see loading.SHARES for its parts."""
    compile_seconds: float = 0.0
    compile_cpu: bool = False
    """Whether the compilation keeps a core busy, as torch.compile does, or only takes time."""
    stall: Phase = ""
    """The phase of the load that never ends, without a sound and without a processor."""
    vram_bytes: int = 0
    """On each GPU; 0: what --gpu-memory-utilization asks for."""
    vram_release_seconds: float = 0.3
    """How long after the end of its process the memory comes back."""
    sleep_vram_bytes: int = 512 * 1024**2
    """What a sleeper keeps on each GPU."""
    sleep_seconds: float = 0.0
    wake_seconds: float = 0.0
    token_seconds: float = 0.0
    stop_seconds: float = 3.0
    """With "slow-stop"."""
    exit_code: int = 1
    """With "exit-at-once" and "die-while-loading"."""
    message: str = ""
    """What it writes to stderr when it fails, instead of what vLLM would."""
    fail: Failure = ""
    """"stop-hangs": with a request in work, SIGTERM ends the engine and then waits for the client without limit."""

    def at_least(self, version: str) -> bool:
        return _numbers(self.version) >= _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


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
    for setting, known in (("fail", get_args(Failure)), ("stall", get_args(Phase))):
        if (value := getattr(behaviour, setting)) not in known:
            raise SystemExit(f"{path}: {setting} must be one of {', '.join(known[1:])}, not {value!r}")
    return behaviour


def save(home: Path, name: str, **values: object) -> None:
    """Set the behaviour of the next start; no values take it back to the defaults."""
    Behaviour(**values)  # type: ignore[arg-type]  # a wrong name fails here rather than in the server
    path = directory(home) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
