"""The wiring of profiles of use: their files, the change, and what the API sees of it, put together once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from agentd import paths
from agentd.adapters.files import LocalFiles
from agentd.adapters.profile_files import SELECTION_FILE
from agentd.core.model_flags import FLAGS
from agentd.core.settings import LoadedConfig
from agentd.engine.steps import Steps
from agentd.errors import AgentdError
from agentd.findings import Finding
from agentd.hardening import History
from agentd.managers.hardening.actions import HardeningActions
from agentd.managers.models.context import Ports
from agentd.managers.models.manager import ModelsManager
from agentd.managers.use_profiles.actions import ProfileActions
from agentd.managers.use_profiles.context import UsePorts
from agentd.offline_profile import configured, selection
from agentd.surface_profile import ProfileSurface
from agentd.types import Change, Scope
from agentd.wire import SwitchRequest


class ProfileParts:
    """`config_dir`: the directory that replaces the usual ones, where the daemon was given one."""

    def __init__(
        self,
        scope: Scope,
        config_dir: str | None,
        host: Ports,
        history: History,
        models: ModelsManager,
        hardening: HardeningActions,
        in_force: Callable[[], LoadedConfig],
        reload: Callable[[], Awaitable[object]],
        check_free: Callable[[str], None],
        dropins: Callable[[], Sequence[Finding]],
    ) -> None:
        self._config_dir = config_dir
        self._changes = history.changes
        self._models = models
        models.profile = lambda: in_force().profile
        self._hardening = hardening
        system = scope is Scope.SYSTEM
        path = selection(config_dir, system=system)
        state = paths.state_dir(system=system)
        files = LocalFiles([path.parent, state], journal=state / "profile.json")
        steps = Steps(history.store, history.changes, history.events, host.clock)
        ports = UsePorts(
            host.control, files, steps, history.world, str(path), str(state / SELECTION_FILE), self._load, in_force,
            reload, self._switch, self._unload, self._limits, check_free,
            lambda: [finding.cause for finding in dropins() if finding.aspect in FLAGS],
        )  # fmt: skip
        self.actions = ProfileActions(ports)
        self.surface = ProfileSurface(self.actions)

    async def close(self) -> None:
        await self.actions.close()

    async def _load(self, name: str) -> LoadedConfig:
        return await asyncio.to_thread(configured, name, self._config_dir)

    async def _switch(self, model: str) -> Change:
        return await self._end(self._models.switch(SwitchRequest(model, force=True, origin="profile"))[0])

    async def _unload(self, model: str) -> Change:
        return await self._end(self._models.stop(model))

    async def _end(self, change: Change) -> Change:
        """Every phase of a change has its deadline; the news end early only when agentd stops."""
        if change.finished is None:
            async for step in self._changes.follow(change.id):
                change = step
        return change

    async def _limits(self, units: Sequence[str]) -> str:
        """Only of units that have drop-ins of ours: to install the first one is a decision of its own."""
        plan = await self._hardening.plan(units, force=False)
        ours = sorted({file.unit for file in plan.files if file.old is not None})
        missing = sorted({file.unit for file in plan.files} - set(ours))
        if ours:
            change = await self._end(await self._hardening.apply(ours, restart=False, force=False))
            if change.exit_code:
                raise AgentdError("change-failed", f"cannot install drop-ins: {change.message}")
        return f"not installed: drop-ins of {', '.join(missing)}; see: agentctl dropins plan" if missing else ""
