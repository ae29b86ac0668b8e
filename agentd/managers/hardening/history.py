"""Installed sets, numbered and kept, and the intent of the one that is being installed. JSON files below one directory.

A set stores for each file that it touched the text before and after. The state "after set N" can therefore be brought
back as long as every later set is kept: each file gets the text that it had before the first later set that touched it.
A rollback is a set, too, with the number of the state that it brought back; later than the latest one of N counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from agentd.errors import AgentdError
from agentd.ports import Files

log = logging.getLogger(__name__)

KEEP = 50
PREVIOUS = "previous"
Texts = Mapping[str, str | None]
"""Texts by full path; None: no such file."""


@dataclass(frozen=True, slots=True)
class DropInSet:
    """`state`: the set whose state the files are in: its own id, or that of the set that a rollback brought back.
    `parent`: the state before it; 0 is the one before the first set."""

    id: int
    time: float
    reason: str
    before: Texts
    files: Texts
    parent: int
    state: int


@dataclass(frozen=True, slots=True)
class Pending:
    """What is being done, written down before it begins.

    Until `installed`, the set itself; a unit in `restarting` is to be started once it is there. After that the unit is
    being restarted, and gets the texts of `before` when it does not come up (none: then it is only started again).
    """

    set: DropInSet
    restarting: str = ""
    installed: bool = False


class SetStore:
    """`files` has to allow `directory`, which is ours alone."""

    def __init__(self, files: Files, directory: str, *, keep: int = KEEP) -> None:
        self._files = files
        self._directory = directory.rstrip("/")
        self._keep = keep

    async def sets(self) -> tuple[DropInSet, ...]:
        """Oldest first. One that cannot be read is passed over, with a warning in the log."""
        found = []
        for path in await self._files.find(self._directory, "[0-9]*.json"):
            try:
                text = await self._files.read(path)
                if text is not None:
                    found.append(_set(json.loads(text)))
            except (AgentdError, ValueError, KeyError, TypeError) as error:
                log.warning("dropins.set-unreadable", extra={"data": {"path": path, "error": str(error)}})
        return tuple(sorted(found, key=lambda item: item.id))

    async def draft(
        self,
        before: Texts,
        after: Texts,
        reason: str,
        time: float,
        *,
        parent: int | None = None,
        state: int | None = None,
    ) -> DropInSet:
        """The next set, not stored yet. `state` None: one of its own."""
        known = await self.sets()
        number = known[-1].id + 1 if known else 1
        if parent is None:
            parent = known[-1].state if known else 0
        return DropInSet(number, time, reason, dict(before), dict(after), parent, number if state is None else state)

    async def begin(self, pending: Pending) -> None:
        await self._files.apply({self._intent: _json(asdict(pending))})

    async def pending(self) -> Pending | None:
        text = await self._files.read(self._intent)
        if text is None:
            return None
        try:
            data = json.loads(text)
            return Pending(_set(data["set"]), str(data["restarting"]), bool(data["installed"]))
        except (ValueError, KeyError, TypeError):
            hint = f"look at the drop-ins with: agentctl dropins plan; then remove {self._intent}"
            raise AgentdError("dropins-state", f"cannot read {self._intent}: it is damaged", hint=hint) from None

    async def forget(self) -> None:
        """What was pending is over."""
        await self._files.apply({self._intent: None})

    async def commit(self, item: DropInSet, *, then: Pending | None = None) -> None:
        """Store the set, replace what is pending and drop the oldest sets, all at once."""
        names = [path for path in await self._files.find(self._directory, "[0-9]*.json") if path != self._path(item.id)]
        surplus = sorted(names)[: max(0, len(names) + 1 - self._keep)]
        intent = _json(asdict(then)) if then is not None else None
        await self._files.apply(
            {self._path(item.id): _json(asdict(item)), self._intent: intent, **dict.fromkeys(surplus, None)}
        )

    @property
    def _intent(self) -> str:
        return f"{self._directory}/pending.json"

    def _path(self, number: int) -> str:
        return f"{self._directory}/{number:06d}.json"


def target(sets: Sequence[DropInSet], wanted: str) -> int:
    """The number of the state that "previous" or an id means. Raises AgentdError when it cannot be brought back."""
    numbers = {item.id for item in sets}
    if wanted == PREVIOUS:
        if not sets:
            raise AgentdError("set-not-found", "cannot roll back: nothing was installed yet")
        current = next((item for item in sets if item.id == sets[-1].state), None)
        if current is None:
            raise AgentdError("set-not-found", "cannot roll back further: no earlier set is kept")
        return current.parent
    if not wanted.isdecimal():
        raise AgentdError("set-not-found", f'cannot roll back to "{wanted}": expected a number or "{PREVIOUS}"')
    number = int(wanted)
    first = min(numbers, default=0)
    if number not in numbers and not (number == 0 and first == 1):
        kept = f"{first} to {max(numbers)}" if numbers else "none"
        raise AgentdError("set-not-found", f"cannot roll back to set {number}: it is not kept; kept are {kept}")
    return number


def way_back(sets: Sequence[DropInSet], number: int) -> tuple[Texts, Texts]:
    """(the texts that the last set left, those after set `number`), of the files that differ."""
    then: dict[str, str | None] = {}
    now: dict[str, str | None] = {}
    last = max((item.id for item in sets if item.state == number), default=0)
    for item in sets:
        if item.id > last:
            for path, text in item.before.items():
                then.setdefault(path, text)
            now.update(item.files)
    changed = [path for path in then if then[path] != now[path]]
    return {path: now[path] for path in changed}, {path: then[path] for path in changed}


def last_change_of(sets: Iterable[DropInSet], paths: Iterable[str]) -> DropInSet | None:
    """The newest set that touched one of the files."""
    wanted = set(paths)
    touching = [item for item in sets if wanted & item.files.keys()]
    return touching[-1] if touching else None


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _set(data: Mapping[str, object]) -> DropInSet:
    """Raises ValueError, KeyError or TypeError."""
    return DropInSet(
        _number(data["id"]),
        float(str(data["time"])),
        str(data["reason"]),
        _texts(data["before"]),
        _texts(data["files"]),
        _number(data["parent"]),
        _number(data["state"]),
    )


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("a number was expected")
    return value


def _texts(value: object) -> Texts:
    if not isinstance(value, dict) or not all(isinstance(text, str | None) for text in value.values()):
        raise TypeError("texts by path were expected")
    return {str(path): text for path, text in value.items()}
