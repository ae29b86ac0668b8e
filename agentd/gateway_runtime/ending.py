"""How the process ends: one sentence on standard error, as its last line, and an exit status.

0: stopped as asked. 1: ended by itself after it had started. 3: cannot start, and a second try would change nothing.
"""

from __future__ import annotations

import atexit
import re
import sys

STOPPED, BROKEN, REFUSED = 0, 1, 3
_LONGEST = 400
_TRACEBACK_LINE = re.compile(r"^(?:[\w.]+(?:Error|Exception|Exit|Warning|Interrupt)\b)")
_TYPE = re.compile(r"^[\w.]+:\s*")


class Refusal(Exception):
    """The proxy cannot start; the text says why, in one sentence."""


def say(text: str) -> None:
    sys.stderr.write(f"agentd gateway: {one_line(text)}\n")
    sys.stderr.flush()


_last: list[str] = []


def prepare() -> None:
    """Before LiteLLM is imported: what is registered first runs last, after LiteLLM's own words at its exit."""
    atexit.register(_say_it)


def _say_it() -> None:
    for text in _last:
        say(text)


def say_last(text: str) -> None:
    """Said when the process ends."""
    _last[:] = [text]


def one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= _LONGEST else joined[: _LONGEST - 3] + "..."


def reason(error: BaseException) -> str:
    """An exception in a sentence; its type only where it says something."""
    text = one_line(str(error))
    if isinstance(error, SystemExit):
        return "" if isinstance(error.code, int) or error.code is None else one_line(str(error.code))
    return text if text and not isinstance(error, (KeyError, IndexError)) else f"{type(error).__name__}: {text}"


def of_traceback(text: str) -> str:
    """The sentence at the end of a traceback's text: the last line that names an exception, else the last line."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    named = [line for line in lines if _TRACEBACK_LINE.match(line)]
    last = (named or lines or ["it did not say why"])[-1]
    return one_line(_TYPE.sub("", last) or last)
