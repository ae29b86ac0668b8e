"""What the slots hold, from the file that agentd writes at every change of a slot.

A file that is missing, unreadable or damaged means that nothing is known, and then nothing is interfered with. So does
one whose agentd is dead: models come and go without it then, and what it wrote last may stay wrong. It holds a lock
beside the file for as long as it lives.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = "routes.json"
LOCK = ".lock"
FOLDERS = ("agentd-gateway", "agentd")
"""Below $XDG_RUNTIME_DIR. The first is the service's own: a hardened service does not see the second."""
_LARGEST = 1 << 20
_RETRY_AFTER = 5


@dataclass(frozen=True)
class Route:
    """What a slot holds; both are names of services, "" for nothing."""

    resident: str = ""
    switching_to: str = ""
    retry_after: int = _RETRY_AFTER


Slots = Mapping[str, Route]


def places(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Where the file may be; $AGENTD_ROUTES alone when it is set."""
    given = environ.get("AGENTD_ROUTES", "")
    if given:
        return (Path(given),)
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return tuple(Path(runtime, folder, NAME) for folder in FOLDERS)


class Routes:
    """Reads the file again when it changed: a stat and a look at the lock for a call. `on_change` gets the slots before
    and after."""

    def __init__(self, paths: Sequence[Path], on_change: Callable[[Slots, Slots], None] | None = None) -> None:
        self._paths = paths
        self._seen: tuple[object, ...] = ()
        self._slots: Slots = {}
        self.on_change = on_change

    def now(self) -> Slots:
        path, seen = self._look()
        if seen != self._seen:
            before, self._slots, self._seen = self._slots, _read(path), seen
            if self.on_change is not None:
                self.on_change(before, self._slots)
        return self._slots

    def slot(self, name: str) -> Route | None:
        """None: nothing is known of this slot."""
        return self.now().get(name)

    def _look(self) -> tuple[Path | None, tuple[object, ...]]:
        for path in self._paths:
            try:
                found = path.stat()
            except OSError:
                continue
            if _writer_lives(path):
                return path, (path, found.st_mtime_ns, found.st_ino, found.st_size)
            break
        return None, ()


def _writer_lives(path: Path) -> bool:
    """Whether the lock beside the file is held; without a lock nobody says otherwise."""
    try:
        descriptor = os.open(path.with_name(path.name + LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(path: Path | None) -> Slots:
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return parse(document)


def parse(document: object) -> Slots:
    """The slots of a document of version 1; {} for any other."""
    if not isinstance(document, dict) or document.get("version") != 1 or not isinstance(document.get("slots"), dict):
        return {}
    return {name: _route(value) for name, value in document["slots"].items() if isinstance(value, dict)}


def _route(value: Mapping[str, object]) -> Route:
    resident, target, pause = value.get("resident"), value.get("switching_to"), value.get("retry_after")
    return Route(
        resident if isinstance(resident, str) else "",
        target if isinstance(target, str) else "",
        _pause(pause),
    )


def _pause(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 86400:
        return _RETRY_AFTER
    return max(1, int(value))
