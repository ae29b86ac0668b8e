"""Which models are absent now, and what that means for a request."""

from __future__ import annotations

from collections.abc import Iterator

from .routes import Route, Routes, Slots
from .section import Section, SlotModel


class Absence:
    """`section`: the models of slots and their fallbacks; `routes`: what the slots hold."""

    def __init__(self, section: Section, routes: Routes) -> None:
        self._section = section
        self._routes = routes

    def resolve(self, name: str) -> str:
        """The model behind an alias."""
        return self._section.aliases.get(name, name)

    def of(self, name: str) -> tuple[SlotModel, Route] | None:
        """The slot's model and what its slot holds instead; None when the model is there, or nothing is known."""
        model = self._section.slots.get(self.resolve(name))
        route = self._routes.slot(model.slot) if model is not None else None
        if model is None or route is None or route.resident == model.service:
            return None
        return model, route

    def ways(self, name: str) -> tuple[str, ...]:
        """The fallbacks that are there, in the order in which LiteLLM tries them: depth first, each once."""
        found, seen = [], {self.resolve(name)}
        todo = list(reversed(self._next(self.resolve(name))))
        while todo:
            target = self.resolve(todo.pop())
            if target in seen:
                continue
            seen.add(target)
            if self.of(target) is None:
                found.append(target)
            todo.extend(reversed(self._next(target)))
        return tuple(found)

    def arrived(self, before: Slots, after: Slots) -> Iterator[str]:
        """Models that became resident between the two."""
        for name, model in self._section.slots.items():
            then, now = before.get(model.slot), after.get(model.slot)
            if now is not None and now.resident == model.service and (then is None or then.resident != model.service):
                yield name

    def _next(self, name: str) -> tuple[str, ...]:
        listed = self._section.fallbacks.get(name)
        model = self._section.slots.get(name)
        return listed if listed is not None else model.fallbacks if model is not None else ()
