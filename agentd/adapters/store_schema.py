"""The journal's tables, their migrations, and records as JSON. What a newer agentd added to a record is ignored."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields
from typing import Any, TypeVar

from agentd import wire
from agentd.errors import AgentdError
from agentd.model_facts import ModelFacts, SleepFacts
from agentd.ports import SlotRecord
from agentd.types import Change, Event, Outcome, PhaseRecord

APPLICATION_ID = 0x61676E74
"""Marks the file as ours (`file journal.sqlite` shows it)."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE changes (
        id TEXT NOT NULL UNIQUE, slot TEXT NOT NULL, kind TEXT NOT NULL,
        created REAL NOT NULL, outcome TEXT, body TEXT NOT NULL
    );
    CREATE INDEX changes_by_time ON changes (created);
    CREATE INDEX changes_open ON changes (created) WHERE outcome IS NULL;
    CREATE TABLE slots (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL,
        subject TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL
    );
    """,
    "CREATE TABLE models (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;",
)
"""Number n brings the schema from version n to n + 1. Append; never change one that was released."""

_T = TypeVar("_T")


def migrate(db: sqlite3.Connection, path: str) -> int:
    """Bring the schema up to date, one transaction per step; returns the number of steps taken."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise AgentdError(
            "journal-newer",
            f"cannot open the journal {path}: it has schema {version}, this agentd knows up to {len(MIGRATIONS)}",
            hint="start the newer agentd that wrote it, or move the file aside",
        )
    for number in range(version, len(MIGRATIONS)):
        step = f"BEGIN IMMEDIATE;\n{MIGRATIONS[number]}\nPRAGMA user_version = {number + 1};\n"
        db.executescript(f"{step}PRAGMA application_id = {APPLICATION_ID};\nCOMMIT;")
    return len(MIGRATIONS) - version


def encode(value: Any) -> str:
    return json.dumps(wire.plain(value), separators=(",", ":"), ensure_ascii=False)


def _known(cls: type[_T], body: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    return {name: value for name, value in body.items() if name in names}


def decode_change(text: str) -> Change:
    body = _known(Change, json.loads(text))
    phases = tuple(PhaseRecord(**_known(PhaseRecord, phase)) for phase in body.pop("phases", ()))
    outcome = body.pop("outcome", None)
    return Change(**body, phases=phases, outcome=None if outcome is None else Outcome(outcome))


def decode_slot(text: str) -> SlotRecord:
    body = _known(SlotRecord, json.loads(text))
    cooldowns = body.pop("cooldowns", None)
    if cooldowns is not None:
        cooldowns = {model: (int(count), float(until)) for model, (count, until) in cooldowns.items()}
    return SlotRecord(**{**body, "parked": tuple(body.get("parked", ()))}, cooldowns=cooldowns)


def decode_facts(text: str) -> ModelFacts:
    body = _known(ModelFacts, json.loads(text))
    levels = tuple(SleepFacts(**_known(SleepFacts, level)) for level in body.pop("sleep", ()))
    return ModelFacts(**{**body, "admin": tuple(body.get("admin", ()))}, sleep=levels)


def decode_event(row: tuple[int, float, str, str, str, str]) -> Event:
    seq, time, kind, subject, message, data = row
    return Event(seq, time, kind, subject, message, json.loads(data))
