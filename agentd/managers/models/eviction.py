"""EVICT: other users of the GPU are asked to leave."""

from __future__ import annotations

import json

from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import SlotContext, SwitchRun

POLL = 0.1
"""Seconds between two looks at what is loaded."""


async def evict(ctx: SlotContext, _run: SwitchRun) -> Step:
    """Ask each runtime of `slot.evict` to unload, and wait until it lists nothing."""
    if not ctx.runtimes:
        return Step(Signal.PASS, "nothing to evict")
    told: list[str] = []
    for name, runtime in ctx.runtimes.items():
        url = runtime.url.rstrip("/")
        try:
            loaded = await _loaded(ctx, url)
            for model in loaded:
                body = {"model": model, "keep_alive": 0}
                await ctx.ports.prober.http(f"{url}/api/generate", timeout=10.0, method="POST", json=body)
            if loaded:
                told.append(f"{name}: {', '.join(loaded)}")
                await _until_empty(ctx, url)
        except AgentdError as error:
            if error.kind == "probe-failed":
                continue  # Not running, so it holds nothing; WAIT_VRAM would see it otherwise.
            return Step(Signal.FAIL, cause=f"cannot unload the models of {name}: {error.message}")
    return Step(Signal.PASS, f"evicted {'; '.join(told)}" if told else "nothing loaded elsewhere")


async def _loaded(ctx: SlotContext, url: str) -> tuple[str, ...]:
    answer = await ctx.ports.prober.http(f"{url}/api/ps", timeout=5.0)
    try:
        return tuple(str(m["name"]) for m in json.loads(answer.body)["models"])
    except (ValueError, KeyError, TypeError) as error:
        raise AgentdError("probe-invalid", f"{url}/api/ps answered something that is not a model list") from error


async def _until_empty(ctx: SlotContext, url: str) -> None:
    """Unloading is answered at once and done later: the runner leaves when its last request has ended."""
    while await _loaded(ctx, url):
        await ctx.ports.clock.sleep(POLL)
