"""Making a store's next start read what the policy wants: by the smallest edit of its file, or by CONFIG REWRITE."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from agentd.core.redis_conf_edit import edit, persist_hazards
from agentd.core.redis_policy import drift, wanted
from agentd.core.redis_view import StoreView
from agentd.errors import AgentdError
from agentd.managers.redis.context import RedisPorts, Store

log = logging.getLogger(__name__)

TICK = 0.01
"""Seconds in which the kernel counts starts: a file may have been written just before."""


@dataclass(frozen=True, slots=True)
class Persisted:
    """`changes`: what was done, a sentence each. `obstacles`: what keeps the file from being as wanted. `rewritten`:
    Redis wrote the file itself."""

    changes: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    rewritten: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """How the file would be brought to the policy. `text` is the new one of the main file, None for no edit."""

    text: str | None = None
    rewrite: bool = False
    changes: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()


def way(view: StoreView, store: Store) -> Way:
    """Editing comes first where we may: CONFIG REWRITE reverts what a human wrote since the start, turns a link into a
    file, and makes a file that only a group could read readable by all."""
    policy, main = store.policy, view.tree.main
    if file_as_wanted(view, store) or policy.persist == "never":
        return Way()
    if not view.state.config_file:
        return Way(obstacles=("it was started without a configuration file, so there is none to change",))
    argv = view.launch.argv
    editable = main is not None and main.text is not None and main.writable
    impossible: tuple[str, ...] = ()
    if main is not None and main.text is not None:
        plan = edit(view.tree, argv, wanted(policy))
        impossible = plan.impossible
        if plan.text is None:
            return Way(obstacles=impossible)
        if editable and policy.persist != "rewrite":
            return Way(plan.text, changes=plan.changes, obstacles=impossible)
    if policy.persist == "edit":
        reason = main.problem if main is not None and main.problem else "its directory cannot be written"
        return Way(obstacles=(f"cannot edit {view.state.config_file}: {reason}", *impossible))
    return _rewrite(view, impossible)


def _rewrite(view: StoreView, impossible: tuple[str, ...]) -> Way:
    readable = view.tree.main is not None and view.tree.main.text is not None
    if readable and view.running is not None:
        changed_after = max(view.launch.started + TICK, view.file_written)
        hazards = persist_hazards(view.tree, view.launch.argv, view.running, changed_after)
        if hazards:
            return Way(obstacles=(*(f"CONFIG REWRITE would do harm: {hazard}" for hazard in hazards), *impossible))
    return Way(rewrite=True, changes=("CONFIG REWRITE: Redis writes its own file",), obstacles=impossible)


def file_as_wanted(view: StoreView, store: Store) -> bool:
    """Verified; False also when it cannot be."""
    if view.effective is None or view.effective.problems:
        return False
    values = {n: view.effective.values[n].value for n in wanted(store.policy) if n in view.effective.values}
    return not drift(store.policy, values)


async def persist(ports: RedisPorts, store: Store, view: StoreView) -> Persisted:
    """Raises nothing for a file that cannot be changed: the run time is as wanted by now, so that is only told."""
    chosen = way(view, store)
    main = view.tree.main
    try:
        if chosen.text is not None and main is not None and main.text is not None:
            backup = await ports.files.patch(main.path, main.text, chosen.text)
            return Persisted((*chosen.changes, f"the old text is kept as {backup}"), chosen.obstacles)
        if chosen.rewrite:
            await store.admin.rewrite_config()
            return Persisted(chosen.changes, chosen.obstacles, rewritten=True)
    except AgentdError as error:
        if error.kind in ("redis-unreachable", "redis-timeout"):
            raise
        log.warning("redis.not-persisted", extra={"data": {"store": store.name, "error": error.message}})
        return Persisted(obstacles=(error.message, *chosen.obstacles))
    return Persisted(obstacles=chosen.obstacles)
