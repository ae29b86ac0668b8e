"""Which models of a slot are asleep. A note that outlives agentd; the last word has the server itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping


async def _nowhere() -> None:
    return


class Sleepers:
    """`levels`: model -> level, in the order in which they fell asleep. Changed by the slot's owner and its phases.

    A model is noted before it is told to sleep, and forgotten once it is awake or stopped: whoever comes after a crash
    knows whom to ask.
    """

    def __init__(self) -> None:
        self.levels: dict[str, int] = {}
        self.pinned: dict[str, int] = {}
        """Model -> main process that has slept at level 1, and has kept the pinned main memory for the next time."""
        self._save: Callable[[], Awaitable[None]] = _nowhere

    def bind(self, levels: Mapping[str, int], save: Callable[[], Awaitable[None]]) -> None:
        """`save` is called after every change."""
        self.levels = dict(levels)
        self._save = save

    async def note(self, model: str, level: int) -> None:
        self.levels.pop(model, None)
        self.levels[model] = level
        await self._save()

    async def forget(self, *models: str) -> None:
        known = [model for model in models if model in self.levels]
        for model in known:
            del self.levels[model]
        if known:
            await self._save()
