"""The last snapshot: immutable pieces that managers replace and everybody else only reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentd.gpu import GpuSnapshot
from agentd.ports import Clock
from agentd.runtimes import RuntimeStatus
from agentd.types import ServiceStatus, SlotStatus


class World:
    """Written in the loop by the managers; `age` says how old each source is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._services: dict[str, ServiceStatus] = {}
        self._slots: dict[str, SlotStatus] = {}
        self._observed: dict[str, float] = {}
        self.on_slot: list[Callable[[SlotStatus], None]] = []
        """Called at every change of a slot, phases included; must not block."""
        self._runtimes: dict[str, RuntimeStatus] = {}
        self.gpus = GpuSnapshot()
        self.gpu_owners: dict[tuple[int, str], int] = {}

    @property
    def services(self) -> tuple[ServiceStatus, ...]:
        return tuple(self._services.values())

    @property
    def slots(self) -> tuple[SlotStatus, ...]:
        return tuple(self._slots.values())

    def service(self, name: str) -> ServiceStatus | None:
        return self._services.get(name)

    def slot(self, name: str) -> SlotStatus | None:
        return self._slots.get(name)

    def put_service(self, status: ServiceStatus) -> None:
        self._services[status.name] = status

    def put_slot(self, status: SlotStatus) -> None:
        self._slots[status.name] = status
        for listener in self.on_slot:
            listener(status)

    @property
    def runtimes(self) -> tuple[RuntimeStatus, ...]:
        return tuple(self._runtimes.values())

    def put_runtime(self, status: RuntimeStatus) -> None:
        self._runtimes[status.name] = status

    def keep_runtimes(self, names: set[str]) -> None:
        """Forget what the configuration no longer names."""
        self._runtimes = {n: s for n, s in self._runtimes.items() if n in names}

    def put_gpus(self, snapshot: GpuSnapshot, owners: Mapping[tuple[int, str], int]) -> None:
        """`owners`: (GPU index, unit or "foreign") -> bytes, found when the snapshot was taken."""
        self.gpus = snapshot
        self.gpu_owners = dict(owners)
        self.seen("gpus")

    def keep(self, services: set[str], slots: set[str]) -> None:
        """Forget what the configuration no longer names."""
        self._services = {n: s for n, s in self._services.items() if n in services}
        self._slots = {n: s for n, s in self._slots.items() if n in slots}

    def seen(self, source: str) -> None:
        self._observed[source] = self._clock.monotonic()

    def ages(self) -> dict[str, float]:
        """Seconds since each source was last read in full."""
        now = self._clock.monotonic()
        return {source: now - then for source, then in self._observed.items()}
