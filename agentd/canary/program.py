"""The canary's main loop: each act in a child, since a system call filter may kill and a socket may hang.

Results go to standard output, which the manager opened before the sandbox was there: one JSON object for each act, and
{"done": COUNT} at the end, without which the report is not whole. Stand-alone like `calls` and `acts`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence

from agentd.canary.acts import ACTS
from agentd.canary.calls import Untried, libc

ACT_SECONDS = 5.0
PR_SET_DUMPABLE = 4


def attempt(act: str) -> dict[str, object]:
    """One act's result. Anything unforeseen is an act that was not tried, which proves nothing."""
    kind, _, argument = act.partition(":")
    try:
        return {"act": act, "allowed": True, "errno": "", "detail": ACTS[kind](argument)}
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        return {"act": act, "allowed": False if name else None, "errno": name, "detail": error.strerror or str(error)}
    except Untried as error:
        return {"act": act, "allowed": None, "errno": "", "detail": str(error)}
    except Exception as error:
        return {"act": act, "allowed": None, "errno": "", "detail": f"{type(error).__name__}: {error}"}


def child(acts: Sequence[str], pipe: int) -> None:
    """Try one after the other, until done or killed. Being killed is no crash that anybody should be told of."""
    with contextlib.suppress(Exception):
        libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    for act in acts:
        os.write(pipe, json.dumps(attempt(act)).encode() + b"\n")


def one_child(acts: Sequence[str], done: list[dict[str, object]]) -> None:
    """Append the results of as many acts as one child gets through, and of the one that ended it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.close(reading)
            child(acts, writing)
            code = 0
        os._exit(code)
    os.close(writing)
    late = collect(reading, len(acts), done, pid)
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if len(done) < late.before + len(acts):
        done.append(ended(acts[len(done) - late.before], status, late=late.late))


class Collected:
    """How many results there were before, and whether the child was ended for being late."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.late = False


def collect(reading: int, count: int, done: list[dict[str, object]], pid: int) -> Collected:
    """Read results until the child's end of the pipe is closed; a child that is silent for too long is killed."""
    state, data = Collected(len(done)), b""
    deadline = time.monotonic() + ACT_SECONDS
    while len(done) < state.before + count:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            state.late = True
            os.kill(pid, signal.SIGKILL)
            break
        part = os.read(reading, 65536)
        if not part:
            break
        *lines, data = (data + part).split(b"\n")
        done.extend(json.loads(line) for line in lines)
        deadline = time.monotonic() + ACT_SECONDS
    return state


def ended(act: str, status: int, *, late: bool) -> dict[str, object]:
    """The act during which the child was killed: by a filter (SIGSYS is a refusal), or by something else."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGSYS and not late:
        return {"act": act, "allowed": False, "errno": "SIGSYS", "detail": "killed by the system call filter"}
    why = f"nothing within {ACT_SECONDS:g} s" if late else f"its process ended with status {status}"
    return {"act": act, "allowed": None, "errno": "", "detail": why}


def run(acts: Sequence[str]) -> None:
    """Try all acts and write the report."""
    done: list[dict[str, object]] = []
    while len(done) < len(acts):
        before = len(done)
        try:
            one_child(acts[before:], done)
        except OSError as error:  # no process, no pipe: the rest cannot be tried
            reason = f"no process to try it in: {error.strerror}"
            done.extend({"act": a, "allowed": None, "errno": "", "detail": reason} for a in acts[len(done) :])
    for result in done:
        sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.write(json.dumps({"done": len(done)}) + "\n")
    sys.stdout.flush()
