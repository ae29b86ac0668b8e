"""agentd that kills itself at a write of its journal. A test's ExecStart=; the product knows nothing of it.

`~/.agentd-fault` says when: "TARGET SIDE NUMBER" with SIDE "before" or "after", NUMBER from 1, counting the writes of
changes to TARGET. It is used up when it is read, so that the next start is a normal one. What was being written when
the kill came is left in `~/.agentd-fault-fired`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from agentd.__main__ import main
from agentd.adapters.store import SqliteStore
from agentd.types import Change

PLAN = Path.home() / ".agentd-fault"
FIRED = Path.home() / ".agentd-fault-fired"


def arm(target: str, side: str, number: int) -> None:
    written = 0
    original = SqliteStore.save_change

    def die(change: Change) -> None:
        outcome = change.outcome.value if change.outcome else "open"
        FIRED.write_text(f"{change.phase} {outcome}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    async def save_change(self: SqliteStore, change: Change) -> None:
        nonlocal written
        written += change.target == target
        here = change.target == target and written == number
        if here and side == "before":
            die(change)
        await original(self, change)
        if here:
            die(change)

    SqliteStore.save_change = save_change  # type: ignore[method-assign]


if __name__ == "__main__":
    try:
        words = PLAN.read_text().split()
    except FileNotFoundError:
        words = []
    if words:
        PLAN.unlink()
        arm(words[0], words[1], int(words[2]))
    sys.exit(main())
