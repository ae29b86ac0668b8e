"""Single acts on services and models, each with its deadline. All raise AgentdError."""

from __future__ import annotations

from agentd.core.schema import Service
from agentd.errors import AgentdError
from agentd.managers.use_profiles.context import UsePorts
from agentd.types import Change, JobResult

STOP_SECONDS = 300.0
SETTLES = 0.02
"""A slot's owner says that it rests a moment after its change has ended."""
START_SECONDS = 900.0
"""systemd's own timeouts end a job much earlier, a gated model's excepted."""


class Acts:
    def __init__(self, ports: UsePorts) -> None:
        self._ports = ports

    async def stop(self, service: Service, name: str) -> None:
        """A model is stopped by its slot, resident or asleep; one that the slot does not know of, as any unit."""
        if service.model is not None:
            try:
                change = await self._ports.unload(name)
                await self.at_rest(change.slot)
                _ended(change, f"cannot unload {name}")
            except AgentdError as error:
                if error.kind not in ("not-resident", "model-not-found"):
                    raise
            else:
                return
        self._ports.check_free(service.unit)
        job = await self._ports.control.stop(service.unit)
        _done(await job.wait(STOP_SECONDS), "stop", service.unit)

    async def start(self, unit: str) -> None:
        job = await self._ports.control.start(unit)
        _done(await job.wait(START_SECONDS), "start", unit)

    async def at_rest(self, slot: str) -> None:
        """Until no change of the slot runs; every one has its deadlines."""
        status = self._ports.world.slot(slot)
        while status is not None and status.change is not None:
            change = self._ports.steps.changes.find(status.change)
            async for step in self._ports.steps.changes.follow(change.id):
                change = step
            if change.finished is None:
                raise AgentdError("stopping", "agentd stops")
            status = self._ports.world.slot(slot)
            if status is not None and status.change == change.id:
                await self._ports.steps.clock.sleep(SETTLES)
                status = self._ports.world.slot(slot)

    async def switch(self, model: str) -> None:
        change = await self._ports.switch(model)
        await self.at_rest(change.slot)
        _ended(change, f"cannot make {model} resident")


def _done(result: JobResult, verb: str, unit: str) -> None:
    if result is not JobResult.DONE:
        raise AgentdError("job-failed", f"cannot {verb} {unit}: the job ended with {result.value}")


def _ended(change: Change, failure: str) -> None:
    if change.finished is None:
        raise AgentdError("stopping", f"{failure}: agentd stops before change {change.id} has ended")
    if change.exit_code:
        raise AgentdError("change-failed", f"{failure}: {change.message}")
