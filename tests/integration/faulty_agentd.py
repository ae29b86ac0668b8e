"""agentd that kills itself, or others, at a write of its journal. A test's ExecStart=; the product knows nothing of it.

`~/.agentd-fault` says when: "TARGET SIDE NUMBER [SECONDS VICTIM...]" with SIDE "before" or "after", NUMBER from 1,
counting the writes of changes to TARGET. SECONDS later every VICTIM is killed: "agentd", or the path of a cgroup.procs
with all that run there; without them, agentd at once. It is used up when it is read, so that the next start is a normal
one. What was being written then is left in `~/.agentd-fault-fired`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from agentd.__main__ import main
from agentd.adapters.store import SqliteStore
from agentd.types import Change

PLAN = Path.home() / ".agentd-fault"
FIRED = Path.home() / ".agentd-fault-fired"
AGENTD = "agentd"


def arm(target: str, side: str, number: int, seconds: float = 0.0, victims: Sequence[str] = (AGENTD,)) -> None:
    written = 0
    original = SqliteStore.save_change

    def die(change: Change) -> None:
        outcome = change.outcome.value if change.outcome else "open"
        text = f"{change.phase} {outcome}\n"
        if seconds:
            timer = threading.Timer(seconds, kill, (victims, text))
            timer.daemon = True
            timer.start()
        else:
            kill(victims, text)

    async def save_change(self: SqliteStore, change: Change) -> None:
        nonlocal written
        written += change.target == target
        here = change.target == target and written == number
        if here and side == "before":
            die(change)
        await original(self, change)
        if here and side == "after":
            die(change)

    SqliteStore.save_change = save_change  # type: ignore[method-assign]


def kill(victims: Sequence[str], text: str) -> None:
    """The others first."""
    FIRED.write_text(text)
    for victim in victims:
        if victim != AGENTD:
            with contextlib.suppress(OSError):
                for pid in map(int, Path(victim).read_text().split()):
                    os.kill(pid, signal.SIGKILL)
    if AGENTD in victims:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        words = PLAN.read_text().split()
    except FileNotFoundError:
        words = []
    if words:
        PLAN.unlink()
        more = (float(words[3]), words[4:]) if words[3:] else ()
        arm(words[0], words[1], int(words[2]), *more)
    sys.exit(main())
