"""Waiting for a server's children: a save or a rewrite says nothing when it ends, so it is asked."""

from __future__ import annotations

from collections.abc import Callable

from agentd.errors import AgentdError
from agentd.ports import Clock
from agentd.ports_redis import RedisAdmin
from agentd.stores import RedisState

FIRST, LONGEST = 0.05, 1.0
"""Seconds between two questions: soon at first, then ever more seldom."""
BACKOFF = 1.3
TRIES = 3
"""How often a save is asked for when another child slips in before it."""


async def until(
    admin: RedisAdmin, clock: Clock, condition: Callable[[RedisState], bool], *, timeout: float, what: str
) -> RedisState:
    """The first state in which the condition holds. Raises AgentdError("redis-slow") at the deadline, or what asking
    raises, at once; also when the server was started anew meanwhile ("redis-restarted")."""
    end = clock.monotonic() + timeout
    pause, run = FIRST, ""
    while True:
        state = await admin.state()
        run = run or state.run_id
        if state.run_id != run:
            raise AgentdError("redis-restarted", f"Redis was started anew while {what}")
        if condition(state):
            return state
        if clock.monotonic() >= end:
            raise AgentdError("redis-slow", f"not finished within {timeout:g} s: {what}")
        await clock.sleep(pause)
        pause = min(LONGEST, pause * BACKOFF)


async def idle(admin: RedisAdmin, clock: Clock, *, timeout: float) -> RedisState:
    """Once no child saves or rewrites, nor is about to."""
    return await until(admin, clock, lambda s: not s.saving, timeout=timeout, what="waiting for a save or rewrite")


async def fresh_save(admin: RedisAdmin, clock: Clock, *, timeout: float) -> RedisState:
    """The state after a BGSAVE that began after this call and went well. Raises AgentdError("redis-save-failed") with
    what the server says, or as `until`."""
    for attempt in range(TRIES):
        before = await idle(admin, clock, timeout=timeout)
        try:
            await admin.save()
        except AgentdError as error:
            if error.kind != "redis-refused":
                raise
            if attempt + 1 < TRIES and (await admin.state()).saving:
                continue  # Another child was quicker.
            raise AgentdError("redis-save-failed", f"cannot save: {error.message}", hint=error.hint) from None
        return await _saved(admin, clock, before, timeout)
    raise AgentdError("redis-save-failed", "cannot save: other saves and rewrites come first again and again")


async def _saved(admin: RedisAdmin, clock: Clock, before: RedisState, timeout: float) -> RedisState:
    after = await until(admin, clock, lambda s: not s.rdb_bgsave_in_progress, timeout=timeout, what="saving the RDB")
    if not after.rdb_last_bgsave_ok:
        hint = "look at the log of Redis; most often the disk is full or the directory cannot be written"
        raise AgentdError("redis-save-failed", "the RDB could not be saved: rdb_last_bgsave_status is err", hint=hint)
    if after.rdb_saves <= before.rdb_saves and after.rdb_last_save <= before.rdb_last_save:
        raise AgentdError("redis-save-failed", "the RDB was not saved: the time of the last save did not move")
    return after
