"""Watches whether the GPUs of the slots are there, and has models configured for those that are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agentd.core.gpu_fallback import Fallen, fitted, missing_gpus, stranded, told_stranded, wanted
from agentd.core.schema import Settings
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.gpu import GpuSnapshot
from agentd.ports import Gpus


class FallbackManager:
    """`apply(settings)` tells those who start models, and says what failed, "" for nothing. `lock` is held by a reload,
    which fits its settings itself."""

    name = "gpu-fallback"

    def __init__(
        self, gpus: Gpus, world: World, events: EventLog, lock: asyncio.Lock,
        settings: Callable[[], Settings], apply: Callable[[Settings], Awaitable[str]],
    ) -> None:  # fmt: skip
        self._gpus = gpus
        self._world = world
        self._events = events
        self._lock = lock
        self._settings = settings
        self._apply = apply
        self._fallen: tuple[Fallen, ...] = ()
        self._stranded: dict[str, tuple[int, ...]] = {}
        """Slots whose fallback is missing, too -> their GPUs that are missing."""
        self._failed = ""
        """What could not be applied; it is tried again after the next look."""
        self._seen = float("-inf")
        """Wall-clock second of the snapshot that decided last."""

    async def fit(self, settings: Settings) -> Settings:
        """What is in force with the GPUs that are there now."""
        return self._fit(settings, await self._gpus.read()) if wanted(settings) else self._fit(settings, GpuSnapshot())

    async def ensure(self) -> None:
        """After every look at the GPUs: a GPU that is gone, or back, counts from the next start of a model. Raises
        AgentdError when somebody could not take it in."""
        settings, before = self._settings(), self._fallen
        if self._lock.locked() or not wanted(settings) or self._world.gpus.observed <= self._seen:
            return
        async with self._lock:
            found = self._fit(settings, self._world.gpus)
            if self._fallen != before or self._failed:
                self._failed = await self._apply(found)
        if self._failed:
            raise AgentdError("fallback-incomplete", f"the change of GPUs is applied in part: {self._failed}")

    def findings(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(f"slot {one.slot}", "gpus", Verdict.NOT_EFFECTIVE, Severity.WARNING, cause=str(one),
                    fix="see: agentctl gpu")
            for one in self._fallen
        )  # fmt: skip

    def _fit(self, settings: Settings, snapshot: GpuSnapshot) -> Settings:
        self._seen = max(self._seen, snapshot.observed)
        indices = {index for slot in settings.slots.values() for index in slot.gpus}
        missing = missing_gpus(snapshot, indices) if wanted(settings) else frozenset()
        if missing is None:  # Unknown: as it was.
            known = [one.missing for one in self._fallen] + list(self._stranded.values())
            missing = frozenset(index for gone in known for index in gone)
        found, fallen = fitted(settings, missing)
        self._tell(settings, fallen, stranded(settings, missing))
        return found

    def _tell(self, settings: Settings, fallen: tuple[Fallen, ...], lone: dict[str, tuple[int, ...]]) -> None:
        """What is news since the last look, and keep it. Of a slot that has no fallback any more there is none."""
        for one in fallen:
            if one not in self._fallen:
                self._events.emit("slot.fallback", one.slot, str(one))
        for name, gone in lone.items():
            if name not in self._stranded:
                self._events.emit("slot.no-fallback", name, told_stranded(name, gone))
        short = {one.slot for one in self._fallen} | self._stranded.keys()
        for name, slot in settings.slots.items():
            if slot.fallback_gpus and name in short - {one.slot for one in fallen} - lone.keys():
                text = f"the GPUs of slot {name} are all there again: its models use them from their next start"
                self._events.emit("slot.whole", name, text)
        self._fallen, self._stranded = fallen, lone
