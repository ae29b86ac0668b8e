"""Small text files, written so that a crash or a full disk leaves either the old set or the new one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from agentd.adapters import fileset
from agentd.adapters.fileset import NEW_FILE_MODE, Intent, Journal, Step
from agentd.errors import AgentdError


class LocalFiles:
    """The Files port. With `roots`, a path that is not below one of them is refused, and a directory below them that a
    removal leaves empty goes too.

    Without `journal` a set is whole against errors only. With it (the path of an intent file in a state directory) also
    against being killed: the next `apply` or `recover`, in whatever process, undoes what was cut off. New files get
    `mode`, others keep theirs.
    """

    def __init__(self, roots: Sequence[Path] = (), *, journal: Path | None = None, mode: int = NEW_FILE_MODE) -> None:
        self._roots = tuple(Path(os.path.normpath(root)) for root in roots)
        self._journal = Journal(journal) if journal is not None else None
        self._mode = mode
        self._lock = threading.Lock()

    async def read(self, path: str) -> str | None:
        return await asyncio.to_thread(fileset.read, Path(path))

    async def exists(self, path: str) -> bool:
        return await asyncio.to_thread(os.path.exists, path)

    async def find(self, directory: str, pattern: str) -> tuple[str, ...]:
        return await asyncio.to_thread(lambda: tuple(sorted(map(str, Path(directory).glob(pattern)))))

    async def apply(self, desired: Mapping[str, str | None]) -> Mapping[str, str | None]:
        # Shielded: a cancelled caller must not see the set half done, nor another one begin meanwhile.
        return await asyncio.shield(asyncio.to_thread(self._apply, dict(desired)))

    async def recover(self) -> tuple[str, ...]:
        """Undo a set that a kill cut off; the paths that got their old text back. Raises AgentdError."""
        return await asyncio.shield(asyncio.to_thread(self._recover))

    def _recover(self) -> tuple[str, ...]:
        with self._exclusive():
            return self._journal.recover(self._inside) if self._journal is not None else ()

    def _apply(self, desired: dict[str, str | None]) -> dict[str, str | None]:
        with self._exclusive():
            if self._journal is not None:
                self._journal.recover(self._inside)
            paths = {name: self._inside(name) for name in desired}
            old = {name: fileset.read(path) for name, path in paths.items()}
            intents = [
                Intent(path, old[name], desired[name], fileset.mode_of(path, self._mode))
                for name, path in paths.items()
                if desired[name] != old[name]
            ]
            if intents:
                self._change(intents)
            return old

    def _change(self, intents: list[Intent]) -> None:
        made = fileset.missing_parents(intent.path for intent in intents if intent.new is not None)
        steps: list[Step] = []
        done: list[Step] = []
        try:
            if self._journal is not None:
                self._journal.begin(intents, made)
            fileset.make(made)
            for intent in intents:
                steps.append(fileset.stage(intent, intent.new))  # noqa: PERF401  (what is staged is known when it fails)
            for step in steps:
                fileset.commit(step)
                done.append(step)
            fileset.sync({intent.path.parent for intent in intents})
            self._prune(intent.path.parent for intent in intents if intent.new is None)
            if self._journal is not None:
                self._journal.end()
        except OSError as error:
            problem = self._undo(error, steps, done, made)
        else:
            return
        raise problem

    def _undo(self, error: OSError, steps: list[Step], done: list[Step], made: list[Path]) -> AgentdError:
        """Put the old texts back; the answer says what failed, and also what could not be put back (the journal keeps
        it for the next try)."""
        lost: list[str] = []
        for step in reversed(done):
            try:
                fileset.make(fileset.missing_parents([step.path]))
                fileset.commit(fileset.stage(step.intent, step.intent.old))
            except OSError:
                lost.append(str(step.path))
        for step in steps:
            if step.staged is not None:
                step.staged.unlink(missing_ok=True)
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                directory.rmdir()
        if self._journal is not None and not lost:
            with contextlib.suppress(OSError):
                fileset.sync({step.path.parent for step in done})
                self._journal.end()
        hint = f"could not restore: {', '.join(lost)}" if lost else ""
        return AgentdError("file-write", fileset.cannot("write", error), hint=hint)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            if self._journal is None:
                yield
            else:
                with self._journal.locked():
                    yield

    def _inside(self, name: str) -> Path:
        path = Path(name)
        normal = os.path.normpath(name)
        if path.is_absolute() and normal == name and (not self._roots or self._below_root(path)):
            return path
        allowed = ", ".join(map(str, self._roots)) or "/"
        raise AgentdError("file-outside", f"cannot write {name}: it is not below {allowed}")

    def _below_root(self, path: Path) -> bool:
        return any(root in path.parents for root in self._roots)

    def _prune(self, parents: Iterable[Path]) -> None:
        for parent in set(parents):
            if self._below_root(parent):
                with contextlib.suppress(OSError):
                    parent.rmdir()
