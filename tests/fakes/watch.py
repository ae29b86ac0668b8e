"""Watched directories whose changes are told by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class FakeFileWatch:
    """The FileWatch port: `change(path)` tells of a file in one of the directories or in a *.d below it."""

    def __init__(self) -> None:
        self.directories: tuple[str, ...] = ()
        self.closed = False
        self._callback: Callable[[str], None] = lambda _: None

    def watch(self, directories: Sequence[str], callback: Callable[[str], None]) -> None:
        self.directories = tuple(directories)
        self._callback = callback
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def change(self, path: str) -> None:
        """An empty path stands for lost events."""
        folder = path.rpartition("/")[0]
        parent = folder.rpartition("/")[0] if folder.endswith(".d") else folder
        if not self.closed and (not path or {folder, parent} & set(self.directories)):
            self._callback(path)
