"""The durable journal on SQLite: WAL, a sync per commit, one thread that owns the connection."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from agentd.adapters import store_schema as schema
from agentd.errors import AgentdError
from agentd.model_facts import ModelFacts
from agentd.ports import SlotRecord
from agentd.types import Change, Event

log = logging.getLogger(__name__)

OPERATION_TIMEOUT = 30.0
"""Seconds after which a disk that does not answer is reported; the write itself may still happen."""
CHANGES_KEPT = 5000
DAMAGED = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})

_T = TypeVar("_T")


class SqliteStore:
    """The Store port. `await open()` before use; `recovered_from` names the file that a damaged journal was kept in."""

    def __init__(self, path: Path, *, event_history: int = 10_000) -> None:
        self.path = path
        self.recovered_from = ""
        self._history = event_history
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._db: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._closed = False

    @property
    def recovered_from_corruption(self) -> bool:
        return bool(self.recovered_from)

    async def open(self) -> None:
        """Lock and open the journal; a damaged one is moved aside and a fresh one begun.

        Raises AgentdError: already-running, journal-full, journal-newer, journal-failed.
        """
        await self._call("open", self._open)

    async def close(self) -> None:
        """Idempotent; later calls raise AgentdError("journal-closed")."""
        if not self._closed:
            await self._call("close", self._close)
            self._closed = True
            self._thread.shutdown(wait=False)

    # -- the port -------------------------------------------------------------------------------------------------
    async def save_change(self, change: Change) -> None:
        outcome = None if change.outcome is None else change.outcome.value
        row = (change.id, change.slot, change.kind, change.created, outcome, schema.encode(change))
        await self._write(
            "INSERT INTO changes (id, slot, kind, created, outcome, body) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET slot = excluded.slot, kind = excluded.kind, "
            "created = excluded.created, outcome = excluded.outcome, body = excluded.body",
            [row],
        )

    async def change(self, change_id: str) -> Change | None:
        rows = await self._read("SELECT body FROM changes WHERE id = ?", change_id)
        return schema.decode_change(rows[0][0]) if rows else None

    async def changes(self, limit: int) -> tuple[Change, ...]:
        """Newest first."""
        rows = await self._read("SELECT body FROM changes ORDER BY created DESC, rowid DESC LIMIT ?", max(0, limit))
        return tuple(schema.decode_change(body) for (body,) in rows)

    async def open_changes(self) -> tuple[Change, ...]:
        """Oldest first."""
        rows = await self._read("SELECT body FROM changes WHERE outcome IS NULL ORDER BY created, rowid")
        return tuple(schema.decode_change(body) for (body,) in rows)

    async def save_slot(self, record: SlotRecord) -> None:
        row = (record.name, schema.encode(record))
        await self._write("INSERT OR REPLACE INTO slots (name, body) VALUES (?, ?)", [row])

    async def slot(self, name: str) -> SlotRecord:
        rows = await self._read("SELECT body FROM slots WHERE name = ?", name)
        return schema.decode_slot(rows[0][0]) if rows else SlotRecord(name)

    async def append_events(self, events: Sequence[Event]) -> None:
        if events:
            await self._call("write to", self._append, [_event_row(event) for event in events])

    async def events(self, limit: int, after: int = 0) -> tuple[Event, ...]:
        """The newest `limit` of those after `after`, oldest first."""
        columns = "seq, time, kind, subject, message, data"
        newest = f"SELECT {columns} FROM events WHERE seq > ? ORDER BY seq DESC LIMIT ?"
        rows = await self._read(newest, after, max(0, limit))
        return tuple(schema.decode_event(row) for row in reversed(rows))

    async def last_event_seq(self) -> int:
        return int((await self._read("SELECT coalesce(max(seq), 0) FROM events"))[0][0])

    async def save_facts(self, facts: ModelFacts) -> None:
        sql = "INSERT INTO models (name, body) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body"
        await self._write(sql, [(facts.name, schema.encode(facts))])

    async def forget_facts(self, models: Sequence[str]) -> None:
        await self._write("DELETE FROM models WHERE name = ?", [(name,) for name in models])

    async def facts(self) -> tuple[ModelFacts, ...]:
        return tuple(schema.decode_facts(row[0]) for row in await self._read("SELECT body FROM models ORDER BY name"))

    # -- in the loop ----------------------------------------------------------------------------------------------
    async def _write(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        await self._call("write to", self._commit, [(sql, rows)])

    async def _read(self, sql: str, *values: object) -> list[Any]:
        return await self._call("read", lambda: self._connection().execute(sql, values).fetchall())

    async def _call(self, verb: str, function: Callable[..., _T], *args: Any) -> _T:
        """Run it in the journal's thread; whatever SQLite or the system says becomes an AgentdError."""
        if self._closed:
            raise AgentdError("journal-closed", self._cannot(verb, "it is closed"))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(OPERATION_TIMEOUT):
                return await loop.run_in_executor(self._thread, function, *args)
        except TimeoutError:
            problem = AgentdError("journal-timeout", self._cannot(verb, f"no answer in {OPERATION_TIMEOUT:g} s"))
        except sqlite3.Error as error:
            problem = self._explain(verb, error)
        except OSError as error:
            kind = "journal-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "journal-failed"
            problem = AgentdError(kind, self._cannot(verb, (error.strerror or str(error)).lower()))
        raise problem

    def _cannot(self, verb: str, reason: str) -> str:
        return f"cannot {verb} the journal {self.path}: {reason}"

    def _explain(self, verb: str, error: sqlite3.Error) -> AgentdError:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _full(self.path.parent)):
            message = self._cannot(verb, "the disk is full")
            return AgentdError("journal-full", message, hint=f"free some space below {self.path.parent}")
        if name in DAMAGED:
            hint = "restart agentd: it keeps the damaged file and begins a new journal"
            return AgentdError("journal-corrupt", self._cannot(verb, "the file is damaged"), hint=hint)
        return AgentdError("journal-failed", self._cannot(verb, str(error) or name))

    # -- in the journal's thread ----------------------------------------------------------------------------------
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise AgentdError("journal-closed", self._cannot("use", "it is not open"))
        return self._db

    def _commit(self, statements: Iterable[tuple[str, Iterable[tuple[Any, ...]]]]) -> None:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            for sql, rows in statements:
                db.executemany(sql, rows)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # SQLite itself rolls back on some errors
                db.execute("ROLLBACK")
            raise

    def _append(self, rows: list[tuple[Any, ...]]) -> None:
        newest = max(row[0] for row in rows)
        insert = "INSERT OR REPLACE INTO events (seq, time, kind, subject, message, data) VALUES (?, ?, ?, ?, ?, ?)"
        self._commit([(insert, rows), ("DELETE FROM events WHERE seq <= ?", [(newest - self._history,)])])

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        try:
            try:
                self._db = self._connect()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorname", "") not in DAMAGED:
                    raise
                self._set_aside()
                self._db = self._connect()
        except BaseException:
            self._release_lock()
            raise

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.path.chmod(0o600)
        db = sqlite3.connect(self.path, isolation_level=None, timeout=5.0)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 4194304")
        verdict = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if verdict != "ok":
            raise _damaged(verdict)
        schema.migrate(db, str(self.path))
        oldest = "SELECT created FROM changes ORDER BY created DESC LIMIT 1 OFFSET ?"
        db.execute(f"DELETE FROM changes WHERE outcome IS NOT NULL AND created <= ({oldest})", (CHANGES_KEPT,))

    def _set_aside(self) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        kept = Path(f"{self.path}.corrupt-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            part = Path(f"{self.path}{suffix}")
            if part.exists():
                part.rename(f"{kept}{suffix}")
        self.recovered_from = str(kept)
        log.error("the journal %s is damaged; kept as %s, a new one is begun", self.path, kept)

    def _take_lock(self) -> None:
        path = self.path.with_suffix(".lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            reason = f"another agentd (pid {holder}) uses it"
            hint = "stop that one first: systemctl --user stop agentd"
            raise AgentdError("already-running", self._cannot("open", reason), hint=hint) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        self._release_lock()


def _full(directory: Path) -> bool:
    """SQLite calls it an I/O error when there is no room for its shared memory beside the journal."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < 64 * 1024


def _event_row(event: Event) -> tuple[Any, ...]:
    return (event.seq, event.time, event.kind, event.subject, event.message, schema.encode(event.data))


def _damaged(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error
