"""What is remembered of each store between its starts and ours: one JSON file each in agentd's state directory."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Mapping

from agentd.ports import Files
from agentd.stores import StoreRecord

log = logging.getLogger(__name__)

SHIFT = 0.1
"""A number of keys that changed by less than this share is not worth a write to the disk."""


class Records:
    """`files` has to allow `directory`, which is ours alone."""

    def __init__(self, files: Files, directory: str) -> None:
        self._files = files
        self._directory = directory.rstrip("/")
        self._known: dict[str, StoreRecord] = {}
        self._lock = asyncio.Lock()

    def known(self, name: str) -> StoreRecord | None:
        """As last loaded or saved."""
        return self._known.get(name)

    async def load(self, name: str) -> StoreRecord:
        """An empty one for a store that is new, or whose file is damaged (told in the log: the next loss would not be
        noticed, which is bad, but no reason to watch nothing at all)."""
        if name not in self._known:
            text = await self._files.read(self._path(name))
            self._known[name] = _read(name, text)
        return self._known[name]

    async def update(self, name: str, **changes: object) -> StoreRecord:
        """These fields, whatever somebody else changes at the same time; on the disk when it returns. Raises
        AgentdError."""
        await self.load(name)
        async with self._lock:
            record = dataclasses.replace(self._known[name], **changes)  # type: ignore[arg-type]
            if record != self._known[name]:
                text = json.dumps(dataclasses.asdict(record), indent=1) + "\n"
                await self._files.apply({self._path(name): text})
                self._known[name] = record
            return record

    async def count(self, name: str, *, keys: int, expires: int, at: float, **others: object) -> StoreRecord:
        """What was counted, and `others`; the number of keys alone only when it moved by enough to matter."""
        known = await self.load(name)
        moved = abs(keys - known.keys) + abs(expires - known.expires) > SHIFT * known.keys
        same = all(getattr(known, field) == value for field, value in others.items())
        if same and not moved and (keys == 0) == (known.keys == 0):
            return known
        return await self.update(name, keys=keys, expires=expires, at=at, **others)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}.json"


def _read(name: str, text: str | None) -> StoreRecord:
    if text is None:
        return StoreRecord(name)
    try:
        data = json.loads(text)
        known = {f.name: data[f.name] for f in dataclasses.fields(StoreRecord) if f.name in data}
        return _checked(StoreRecord(**{**known, "name": name}))
    except (ValueError, TypeError) as error:
        log.warning("redis.record-damaged", extra={"data": {"store": name, "error": str(error)}})
        return StoreRecord(name)


def _checked(record: StoreRecord) -> StoreRecord:
    """Raises TypeError for what JSON allows and we do not."""
    numbers = (record.keys, record.expires, record.at, record.backup_at, record.drill_at)
    words = (record.run_id, record.loss, record.evidence)
    if not all(isinstance(n, int | float) for n in numbers) or not all(isinstance(w, str) for w in words):
        raise TypeError("a field is of the wrong type")
    if not isinstance(record.files, Mapping):
        raise TypeError("files is not an object")
    return record
