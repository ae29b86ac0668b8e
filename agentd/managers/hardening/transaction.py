"""A set of files written, loaded by one daemon-reload, proved to be loaded and stored; or everything as before."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from agentd.errors import AgentdError
from agentd.managers.hardening.history import DropInSet, Pending, SetStore, Texts
from agentd.managers.hardening.loading import Loading
from agentd.ports import Clock, Files, UnitControl

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Transactions:
    control: UnitControl
    files: Files
    sets: SetStore
    clock: Clock
    loading: Loading

    async def run(
        self,
        before: Texts,
        after: Texts,
        reason: str,
        *,
        parent: int | None = None,
        state: int | None = None,
        restarting: str = "",
    ) -> DropInSet:
        """`before`: what the files hold now; when that is not so, nothing is done. `restarting`: the unit that this set
        brings back, and that is to be started afterwards. Raises AgentdError."""
        item = await self.sets.draft(before, after, reason, self.clock.time(), parent=parent, state=state)
        await self.sets.begin(Pending(item, restarting))
        try:
            old = await self.files.apply(after)
        except AgentdError:
            await self._forget()
            raise
        changed = [path for path in after if old[path] != before[path]]
        if changed:
            text = f"cannot install: {', '.join(changed)} was changed meanwhile; nothing was done"
            raise await self._undo(old, AgentdError("install-changed", text, hint="plan again"), reload=False)
        try:
            await self._load(after)
            await self.sets.commit(item, then=_to_start(item, restarting))
        except AgentdError as error:
            raise await self._undo(old, error, reload=True) from None
        return item

    async def recover(self) -> tuple[Pending | None, str]:
        """(what was pending, what was done about its files). A unit that was being restarted is the caller's."""
        await self.files.apply({})  # A set that was cut off between two of its files is undone by this.
        pending = await self.sets.pending()
        if pending is None or pending.installed:
            return pending, ""
        item = pending.set
        now = {path: await self._text(path) for path in item.files}
        if pending.restarting and now == item.before:
            # What a unit goes back to is brought to its end: without it the unit stays down.
            await self.files.apply(item.files)
            now = dict(item.files)
        if now == item.files:
            try:
                await self._load(item.files)
            except AgentdError as error:
                if error.kind.startswith("bus-"):
                    raise
            else:
                await self.sets.commit(item, then=_to_start(item, pending.restarting))
                return pending, f"set {item.id} ({item.reason}) was cut off and is now installed"
        back = {path: item.before[path] for path, text in now.items() if text == item.files[path]}
        await self.files.apply(back)
        await self.control.reload()
        await self.sets.forget()
        return pending, f"set {item.id} ({item.reason}) was cut off and is undone"

    async def _load(self, after: Texts) -> None:
        if not self.loading.units_of(after):
            return
        await self.control.reload()
        problems = await self.loading.problems(after)
        if problems:
            raise AgentdError("dropin-not-loaded", f"{'; '.join(problems)}; nothing was changed")

    async def _undo(self, old: Texts, error: AgentdError, *, reload: bool) -> AgentdError:
        """What could not be undone stays pending, and is tried again by `recover`."""
        try:
            await self.files.apply(old)
            if reload and self.loading.units_of(old):
                await self.control.reload()
        except AgentdError as second:
            log.warning("dropins.undo-incomplete", extra={"data": {"error": second.message}})
            if second.kind.startswith("bus-"):
                return error
            return AgentdError(error.kind, f"{error.message}; and {second.message}", hint=second.hint or error.hint)
        await self._forget()
        return error

    async def _forget(self) -> None:
        with contextlib.suppress(AgentdError):
            await self.sets.forget()

    async def _text(self, path: str) -> str | None:
        try:
            return await self.files.read(path)
        except AgentdError:
            return "\0"


def _to_start(item: DropInSet, unit: str) -> Pending | None:
    """After a set that brings a unit back: only its start is missing, and there is nothing more to undo."""
    return Pending(DropInSet(item.id, item.time, item.reason, {}, {}, 0, 0), unit, installed=True) if unit else None
