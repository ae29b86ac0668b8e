"""Logging through structlog: one event name per fact, values as keys; JSON or text, with priorities for the journal."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET = re.compile(r"(?i)(key|token|secret|password|authorization)")
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
EventDict = MutableMapping[str, Any]


def set_up(level: str, form: str) -> None:
    """Route every stdlib logger to stderr. `form` is "json", "text" or "auto" (text: people read the journal)."""
    renderer: Any = structlog.processors.JSONRenderer() if form == "json" else _text
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        _unpack_data,
        _hide_secrets,
        structlog.processors.format_exc_info,
    ]
    in_journal = bool(os.environ.get("JOURNAL_STREAM"))
    if not in_journal:
        shared.insert(0, structlog.processors.TimeStamper(fmt="iso"))
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], foreign_pre_chain=shared
    )
    handler = _Stderr(in_journal)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.setLevel(logging.WARNING)
    asyncio_log.addFilter(_worth_telling)


def _worth_telling(record: logging.LogRecord) -> bool:
    """asyncio before 3.12 says so when a child ends in the moment in which the wait for it is given up."""
    return not str(record.msg).startswith("Unknown child process pid")


def set_level(level: str) -> None:
    logging.getLogger().setLevel(level.upper())


class _Stderr(logging.StreamHandler[Any]):
    """Lines with the priority that journald reads, when journald reads them."""

    def __init__(self, in_journal: bool) -> None:
        super().__init__(sys.stderr)
        self._in_journal = in_journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._in_journal:
            return text
        prefix = f"<{_PRIORITY.get(record.levelname.lower(), 6)}>"
        return "\n".join(prefix + line for line in text.splitlines())


def _unpack_data(_: Any, __: str, event: EventDict) -> EventDict:
    """`extra={"data": {...}}` of a stdlib call becomes keys of the line."""
    record = event.get("_record")
    data = getattr(record, "data", None)
    if isinstance(data, dict):
        for key, value in data.items():
            event.setdefault(key, value)
    return event


def _hide_secrets(_: Any, __: str, event: EventDict) -> EventDict:
    """The last line of defence; nothing below hands a secret to a logger."""
    for key, value in event.items():
        if _SECRET.search(key) and isinstance(value, str) and value:
            event[key] = "***"
    return event


def _text(_: Any, __: str, event: EventDict) -> str:
    head = " ".join(str(event.pop(k)) for k in ("timestamp", "level", "event") if k in event)
    trace = event.pop("exception", "")
    pairs = " ".join(f"{k}={v!r}" if isinstance(v, str) and " " in v else f"{k}={v}" for k, v in event.items())
    return f"{head} {pairs}".rstrip() + (f"\n{trace}" if trace else "")
