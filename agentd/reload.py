"""The configuration in force, and the way to the next one: read, checked, applied, or refused and told everywhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from agentd.api.operations import ConfigStatus
from agentd.core.schema import Settings
from agentd.core.settings import LoadedConfig
from agentd.engine.events import EventLog
from agentd.errors import AgentdError, ConfigError
from agentd.ports import Notifier

log = logging.getLogger(__name__)

AT_START = ("bus_timeout", "event_history", "log_format")
"""Settings of the daemon that a reload cannot apply."""
IN_PART = "reload-incomplete"


class Configured(Protocol):
    """A manager that takes a new configuration while it runs."""

    @property
    def name(self) -> str: ...

    async def apply(self, settings: Settings) -> None:
        """Raises AgentdError."""
        ...


async def tell(managers: Iterable[Configured], settings: Settings) -> str:
    """Every manager, also after one of them failed. What failed, in one line; "" when nothing did."""
    failed = []
    for manager in managers:
        try:
            await manager.apply(settings)
        except AgentdError as error:
            # What only lacks systemd is made up for by the passes, which tell of it until then.
            if not error.kind.startswith("bus-"):
                failed.append(f"{manager.name}: {error.message}")
    return "; ".join(failed)


class Reloader:
    """One reload at a time; `lock` is held during the start. `load` reads the configuration, `apply(new)` puts it into
    force: what it raises before it calls `accept(new)` leaves the old one in force. `on_end()` comes after each try."""

    def __init__(
        self,
        config: LoadedConfig,
        load: Callable[[], LoadedConfig],
        apply: Callable[[LoadedConfig], Awaitable[None]],
        on_end: Callable[[], None],
        notifier: Notifier,
        events: EventLog,
    ) -> None:
        self.config = config
        self.problems: tuple[str, ...] = ()
        self.lock = asyncio.Lock()
        self._loaded = self._attempted = time.time()
        self._load = load
        self._apply = apply
        self._on_end = on_end
        self._notifier = notifier
        self._events = events
        self._hangups: set[asyncio.Task[None]] = set()

    def settings(self) -> Settings:
        """Those in force."""
        return self.config.settings

    def status(self) -> ConfigStatus:
        config = self.config
        return ConfigStatus(
            not self.problems, self._loaded, self._attempted, config.files, self.problems, config.profile
        )

    async def reload(self) -> ConfigStatus:
        """Raises AgentdError when the configuration on disk is invalid or impossible; then nothing has changed."""
        async with self.lock:
            self._notifier.reloading()
            self._attempted = time.time()
            try:
                await self._apply(await asyncio.to_thread(self._load))
            except AgentdError as error:
                self._refused(error)
                raise
            finally:
                self._notifier.ready()
                self._on_end()
            return self.status()

    def accept(self, config: LoadedConfig) -> None:
        """From here on the new one is in force."""
        old, new = self.config.settings.daemon, config.settings.daemon
        self.config, self.problems, self._loaded = config, (), self._attempted
        waits = [f"daemon.{key}" for key in AT_START if getattr(new, key) != getattr(old, key)]
        later = f"; {', '.join(waits)} will count from the next start of agentd" if waits else ""
        files = ", ".join(config.files) or "no file"
        self._events.emit("config.applied", "agentd", f"configuration applied from {files}{later}")

    def hangup(self) -> None:
        """SIGHUP: reload without anybody to answer to."""
        task = asyncio.ensure_future(self._quietly())
        self._hangups.add(task)
        task.add_done_callback(self._hangups.discard)

    def close(self) -> None:
        for task in self._hangups:
            task.cancel()

    async def _quietly(self) -> None:
        try:
            await self.reload()
        except AgentdError:
            pass  # Told by `reload`.
        except Exception:
            log.exception("config.internal")

    def _refused(self, error: AgentdError) -> None:
        self.problems = tuple(map(str, error.problems)) if isinstance(error, ConfigError) else (error.message,)
        log.error("config.not-applied", extra={"data": {"problems": "; ".join(self.problems)}})
        text = error.message if error.kind == IN_PART else f"the configuration is not applied: {error.message}"
        self._events.emit("config.invalid", "agentd", text)
