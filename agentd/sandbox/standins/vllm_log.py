"""Lines as vLLM 0.32 writes them: which process, level, time, place in the source, and the words."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable

BANNER_PLACE = "api_utils.py:347"


def say(process: str, place: str, text: str, *, level: str = "INFO", pid: int = 0) -> None:
    """`process` is "APIServer", "EngineCore" or "Worker_TP1"; each line of the text gets the whole prefix."""
    head = f"({process} pid={pid or os.getpid()}) {level} {time.strftime('%m-%d %H:%M:%S')} [{place}] "
    _write(head + line for line in text.split("\n"))


def traceback(process: str, place: str, what: str, error: str) -> None:
    """As `logger.exception`: what failed, and the error as the last line of a traceback."""
    say(process, place, f"{what}\nTraceback (most recent call last):\n{error}", level="ERROR")


def bare(text: str) -> None:
    """What is not vLLM's own: uvicorn's lines, a progress bar, an exception that nobody caught."""
    _write([text])


def progress(what: str, done: int, total: int) -> None:
    """A line of a progress bar of the loader."""
    bare(f"{what}: {100 * done // total:3d}% Completed | {done}/{total} [00:00<00:00, 93.74it/s]")


def _write(lines: Iterable[str]) -> None:
    sys.stderr.write("".join(line + "\n" for line in lines))
    sys.stderr.flush()
