"""The gateway's sources, its generated file, the versions before it and its environment file, on the disk.

Whoever writes holds one lock, which other processes of agentd respect. A file is replaced as a whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from agentd.adapters import env_files, fileset
from agentd.adapters.file_threads import FileThreads, Pulse
from agentd.adapters.filelock import FileLock
from agentd.adapters.files import LocalFiles
from agentd.adapters.gateway_sources import read_sources
from agentd.adapters.gateway_versions import Versions, replace
from agentd.core.gateway import env_text
from agentd.core.gateway.model import SOURCES
from agentd.core.schema_gateway import GatewayPolicy
from agentd.errors import AgentdError
from agentd.ports_gateway import SourceSet, Version

CANDIDATE = "litellm-candidate.yaml"
"""Beside the generated file; the standby's unit names it."""
INTENT = ".agentd-sources.json"
"""In the directory of the sources while several of them are replaced."""
LARGEST = 32 * 1024 * 1024
"""Bytes of a generated file."""

Result = TypeVar("Result")
_HOLDS: ContextVar[frozenset[str]] = ContextVar("_HOLDS", default=frozenset())


class LocalGatewayFiles:
    """The GatewayFiles port. A ~ in a path was expanded when the settings were read."""

    def __init__(self, policy: GatewayPolicy) -> None:
        self.directory = Path(policy.sources)
        self.path = Path(policy.config)
        self.candidate = self.path.with_name(CANDIDATE)
        self.env_file = Path(policy.env_file)
        self._versions = Versions(self.path, policy.keep)
        self._lock = FileLock(self.path.with_name(f".{self.path.stem}.lock"), purpose="write the gateway's files")
        self._threads = FileThreads()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """For several steps during which nobody else may write. Writes of this task inside it need no lock of their
        own. Raises AgentdError("file-busy" | "file-write")."""
        name = str(self.path)
        if name in _HOLDS.get():
            yield
            return
        async with self._lock.hold():
            token = _HOLDS.set(_HOLDS.get() | {name})
            try:
                yield
            finally:
                _HOLDS.reset(token)

    # -- sources --------------------------------------------------------------------------------------------------
    async def sources(self) -> SourceSet:
        """What a killed process left half written is undone before. Raises AgentdError only when that fails, or the
        disk does not answer."""
        if await self._run("look at the gateway's sources", self._intent.exists):
            async with self.exclusive():
                await self._source_files().recover()
        return await self._run("read the gateway's sources", lambda: read_sources(self.directory))

    async def write_sources(self, texts: Mapping[str, str]) -> None:
        """Replace these sources (name -> text), all or none; the directory is made. A source that is a link stays
        one, and the file behind it is replaced. Raises AgentdError."""
        strange = sorted(set(texts) - set(SOURCES))
        if strange:
            allowed = ", ".join(SOURCES)
            raise AgentdError("file-outside", f"cannot write {strange[0]}: the sources are {allowed}")
        async with self.exclusive():
            real = await self._run("make the directory of the sources", lambda: self._places(list(texts)))
            await self._source_files().apply({real[name]: text for name, text in texts.items()})

    def _places(self, names: Sequence[str]) -> Mapping[str, str]:
        """Name -> the file itself, behind links; the directory is there."""
        _make(self.directory)
        return {name: os.path.realpath(self.directory / name) for name in names}

    @property
    def _intent(self) -> Path:
        return self.directory / INTENT

    def _source_files(self) -> LocalFiles:
        return LocalFiles(journal=self._intent)

    # -- the generated file -----------------------------------------------------------------------------------------
    async def generated(self) -> str | None:
        return await self._run(f"read {self.path}", lambda: fileset.read(self.path, LARGEST))

    async def write(self, text: str) -> Version | None:
        return await self._write("write the gateway's config", lambda: self._versions.put(text))

    async def write_candidate(self, text: str) -> str:
        def work() -> str:
            _make(self.candidate.parent)
            replace(self.candidate, text)
            return str(self.candidate)

        return await self._write("write the candidate", work)

    async def remove_candidate(self) -> None:
        def work() -> None:
            fileset.discard([self.candidate])
            try:
                self.candidate.unlink(missing_ok=True)
            except OSError as error:
                raise AgentdError("file-write", fileset.cannot("remove", error)) from None

        await self._write("remove the candidate", work)

    async def versions(self) -> Sequence[Version]:
        return await self._run("read the versions of the gateway's config", self._versions.found)

    async def version_text(self, version: str) -> str:
        return await self._run("read a version of the gateway's config", lambda: self._versions.text(version))

    # -- secrets ----------------------------------------------------------------------------------------------------
    async def environment(self) -> Mapping[str, str]:
        found = await self._run(f"read {self.env_file}", lambda: env_files.read(str(self.env_file)))
        return env_text.parse(found.text) if found.text else {}

    async def _write(self, doing: str, work: Callable[[], Result]) -> Result:
        """Cancelled, it ends what it began before the lock goes."""
        async with self.exclusive():
            return await self._run(doing, work, pulse=Pulse())

    async def _run(self, doing: str, work: Callable[[], Result], *, pulse: Pulse | None = None) -> Result:
        return await self._threads.run(doing, work, pulse=pulse)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AgentdError("file-write", fileset.cannot("make", error)) from None
