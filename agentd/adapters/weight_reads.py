"""Reading parts of large files that somebody else put there: nothing hangs on a FIFO, and every failure has words."""

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path

LARGEST_TEXT = 64 * 1024**2


class Unreadable(Exception):
    """`text`: why, a clause without a subject."""

    def __init__(self, path: Path, error: OSError | str) -> None:
        self.path = path
        self.text = error if isinstance(error, str) else _words(path, error)
        super().__init__(f"{path} {self.text}")


def opened(path: Path) -> FileIO:
    """Without buffers: only what is asked for is read. Raises Unreadable, for what is no regular file too."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise Unreadable(path, error) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return FileIO(descriptor)
    os.close(descriptor)
    raise Unreadable(path, "is a directory, not a file" if stat.S_ISDIR(mode) else "is no regular file")


def read_small(path: Path) -> bytes:
    """A whole text file. Raises Unreadable."""
    try:
        with opened(path) as file:
            content = b""
            while piece := file.read(1024**2):
                content += piece
                if len(content) > LARGEST_TEXT:
                    raise Unreadable(path, f"is larger than {LARGEST_TEXT} bytes")
            return content
    except OSError as error:
        raise Unreadable(path, error) from None


def ends(path: Path, head: int, tail: int) -> tuple[int, bytes, bytes]:
    """Size, first and last bytes. Raises Unreadable."""
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(head)
            file.seek(max(0, size - tail))
            return size, first, file.read(tail)
    except OSError as error:
        raise Unreadable(path, error) from None


def _words(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"is a link to {os.readlink(path)}, which is not there"  # noqa: PTH115 - as it was written
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"cannot be read: {(error.strerror or str(error)).lower()}"
