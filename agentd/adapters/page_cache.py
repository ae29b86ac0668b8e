"""A model's weight files read into the page cache, so that the server that starts next finds them in memory.

What a process reads is charged to its cgroup. agentd's own has a limit of some hundred megabytes, so a child in a scope
of its own does the reading; what it read stays when the scope ends.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

from agentd.adapters import child
from agentd.adapters.file_threads import FileThreads
from agentd.adapters.weight_checks import model_directory
from agentd.adapters.weight_reads import Unreadable, read_small
from agentd.core import model_files
from agentd.errors import AgentdError

log = logging.getLogger(__name__)

WORTH = 64 * 1024**2
"""Bytes of weights from which on a process is started for them."""
PATIENCE = 15.0
"""Seconds without a piece."""
_READER = str(Path(__file__).with_name("page_reader.py"))
_LAST = ("-p", "CPUWeight=10", "-p", "IOWeight=10")
"""Whoever reads because somebody waits goes first."""

Told = Callable[[int, int], None]


class PageCache:
    def __init__(self) -> None:
        self._threads = FileThreads()

    async def warm(self, path: str, limit: int, told: Told) -> int:
        """Read the weights of `path`, a directory or a file, up to `limit` bytes; `told(bytes so far, bytes in all)`.
        The bytes that are in memory then. Files that cannot be read are left out, and weights that are not worth it.

        Cancelling ends it at once. Raises AgentdError("file-stuck").
        """
        files = await self._threads.run("look at the weights", lambda: weight_files(path))
        whole, done = sum(size for _, size in files), 0
        told(0, whole)
        if min(whole, limit) < WORTH:
            return 0
        process = await _started(limit, [str(file) for file, _ in files])
        if process is None or process.stdout is None:
            return 0
        async with child.killed_after(process), aclosing(child.lines(process.stdout)) as pieces:
            while (line := await _next(pieces, path)) is not None:
                if line.isdigit():
                    done = int(line)
                    told(done, whole)
        return done


async def _next(pieces: AsyncIterator[bytes], path: str) -> bytes | None:
    try:
        async with asyncio.timeout(PATIENCE):
            return await anext(pieces, None)
    except TimeoutError:
        text = f"cannot read {path} ahead: the disk did not answer within {PATIENCE:g} s"
        raise AgentdError("file-stuck", text) from None


async def _started(limit: int, files: Sequence[str]) -> Process | None:
    scope = child.apart("weights, read ahead")
    python = getattr(sys, "_base_executable", sys.executable)
    words = (*scope[:-1], *_LAST, *scope[-1:]) if scope else ()
    try:
        return await asyncio.create_subprocess_exec(
            *words, *child.bound_to_us(), python, "-I", "-S", _READER, str(limit), *files,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        log.debug("cannot read weights ahead: %s", error.strerror)
        return None


def weight_files(path: str) -> list[tuple[Path, int]]:
    """What vLLM will read, in its order, with sizes."""
    root = Path(model_directory(path))
    try:
        files = [root] if root.is_file() else list(root.iterdir())
    except OSError:
        return []
    weights = set(model_files.preferred(file.name for file in files))
    return sorted(_sized(_indexed(root, [file for file in files if file.name in weights])))


def _indexed(root: Path, files: list[Path]) -> list[Path]:
    """Where an index names the files that count, there may be the same weights a second time beside them."""
    try:
        index = model_files.parse_index(read_small(root / model_files.INDEX))
    except (Unreadable, model_files.BadText):
        return files
    return [file for file in files if file.name in index.shards] or files


def _sized(files: Iterable[Path]) -> Iterable[tuple[Path, int]]:
    for file in files:
        with suppress(OSError):
            yield file, file.stat().st_size
