"""EVICT: other users of the GPU are asked to leave before a model starts, and seen to have left, by policy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

from agentd.core import ollama
from agentd.core.quantities import told_bytes
from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import Runtime, SlotContext, SwitchRun, port_of
from agentd.managers.models.occupancy import occupancy, returned
from agentd.managers.models.parking import stop_runtime
from agentd.runtimes import RuntimeModel
from agentd.wire import PrecheckItem

POLL = 0.1
"""Seconds between two looks at what is loaded."""
ASK_AGAIN = 2.0
"""Seconds after which a model that is still loaded is asked to go once more: a client may have loaded it again."""
PS_SECONDS = 5.0
UNLOAD_SECONDS = 10.0
CONNECT_SECONDS = 1.0
RETRIES = 2
"""How often a start is put off because a client loaded a model again meanwhile."""
FAMILY = "agentd_runtime_evict"


async def evict(ctx: SlotContext, run: SwitchRun) -> Step:
    """PASS when no runtime of `slot.evict` is in the way; nothing is unloaded where nothing is to use the GPU."""
    if run.target is None and run.lease is None:
        return Step(Signal.PASS, "nothing is to be started")
    if not ctx.runtimes:
        return Step(Signal.PASS, "nothing to evict")
    until = ctx.ports.clock.monotonic() + ctx.slot.evict_timeout
    told: list[str] = []
    for name in ctx.runtimes:
        try:
            done = await evict_one(ctx, run, name, until)
        except AgentdError as error:
            ctx.counters.add(FAMILY, name, "failed")
            return Step(Signal.FAIL, cause=error.message)
        told += [f"{name}: {done}"] if done else []
    return Step(Signal.PASS, "; ".join(told) or "nothing loaded elsewhere")


async def recheck(ctx: SlotContext, run: SwitchRun) -> Step | None:
    """Right before a start: None when the way is still clear. A client may have loaded a model again while GPU memory
    was waited for; then EVICT comes once more, and RETRIES times at most. A sleep-check evicts nobody."""
    if run.change.kind == "sleep-check":
        return None
    name, what = await reloaded(ctx)
    if not name:
        return None
    if run.evictions >= RETRIES:
        ctx.counters.add(FAMILY, name, "reloaded")
        times = run.evictions + 1
        return Step(Signal.FAIL, cause=f"{what}, after it was evicted {times} times: a client keeps asking for it")
    run.evictions += 1
    return Step(Signal.RETRY, f"{what} meanwhile")


async def reloaded(ctx: SlotContext) -> tuple[str, str]:
    """A runtime that was to leave and has models on the GPU, and a clause about it; empty when none has."""
    for name, runtime in ctx.runtimes.items():
        if runtime.spec.policy == "ignore":
            continue
        try:
            back = await _on_gpu(ctx, runtime)
        except AgentdError:
            continue  # It said what it had to say in EVICT; what it holds, WAIT_VRAM sees.
        if back:
            return name, f"{name} has loaded {_names(back)} again"
    return "", ""


async def evict_one(ctx: SlotContext, run: SwitchRun, name: str, until: float) -> str:
    """By the policy of this runtime, until `until` on the monotonic clock: what was done, "" for nothing.

    Raises AgentdError naming what stays and why.
    """
    return await POLICIES[ctx.runtimes[name].spec.policy](ctx, run, name, until)


async def checks(ctx: SlotContext) -> tuple[PrecheckItem, ...]:
    """One line for each runtime of `slot.evict` that is not ignored; a failing one could only fail later."""
    found = []
    for name, runtime in ctx.runtimes.items():
        if runtime.spec.policy != "ignore":
            ok, detail = await _look(ctx, name, runtime)
            found.append(PrecheckItem("runtime", ok, detail))
    return tuple(found)


async def _look(ctx: SlotContext, name: str, runtime: Runtime) -> tuple[bool, str]:
    policy = runtime.spec.policy
    try:
        models = await _on_gpu(ctx, runtime)
    except AgentdError as error:
        if policy == "stop_unit" or await _is_gone(ctx, runtime, error):
            return True, f"{name} does not answer"
        return not await _may_hold(ctx, runtime), f"{name}: {error.message}"
    if not models:
        return True, f"{name} has nothing on the GPU"
    if policy == "cpu_only":
        return False, _not_off(name, models)
    return True, f"{name} is to {'be stopped' if policy == 'stop_unit' else 'unload'}: {_names(models)}"


# -- policies -------------------------------------------------------------------------------------------------------


async def _unload(ctx: SlotContext, _run: SwitchRun, name: str, until: float) -> str:
    """What was unloaded. Raises AgentdError naming the model that stays and why."""
    runtime = ctx.runtimes[name]
    try:
        models: Sequence[RuntimeModel] = await _on_gpu(ctx, runtime)
    except AgentdError as error:
        return await _unasked(ctx, name, runtime, error)
    if not models:
        return ""
    before, claimed, first = await occupancy(ctx, runtime), sum(m.size_vram for m in models), models
    asked, complaint = float("-inf"), ""
    while True:
        now = ctx.ports.clock.monotonic()
        if models and now - asked >= ASK_AGAIN:
            asked = now
            complaint = await _ask_to_go(ctx, runtime, models)
        left = None if before is None or models else await occupancy(ctx, runtime, before.pids)
        if not models and (before is None or (left is not None and returned(before, left, claimed))):
            ctx.counters.add(FAMILY, name, "evicted")
            return f"unloaded {_names(first)}"
        if now >= until:
            raise AgentdError("evict-failed", _stays(ctx, name, models, first, complaint))
        await ctx.ports.clock.sleep(POLL)
        models = await _still(ctx, runtime, models)


async def _unasked(ctx: SlotContext, name: str, runtime: Runtime, error: AgentdError) -> str:
    """It cannot be asked: no matter where it does not run, or where NVML says that it holds nothing."""
    if await _is_gone(ctx, runtime, error):
        return ""
    if await _may_hold(ctx, runtime):
        raise AgentdError("evict-failed", f"cannot unload the models of {name}: {error.message}") from error
    ctx.counters.add(FAMILY, name, "unanswered")
    return f"does not answer, and holds no GPU memory ({error.message})"


async def _is_gone(ctx: SlotContext, runtime: Runtime, error: AgentdError) -> bool:
    """It does not run: nobody takes connections, and NVML shows nothing of it. Where memory is not measured the first
    is enough; so it is for a container, of which only its program's name is known: others may have the same."""
    if await _listens(ctx, runtime, error):
        return False
    now = await occupancy(ctx, runtime)
    return now is None or not now.pids or runtime.spec.managed == "container"


async def _may_hold(ctx: SlotContext, runtime: Runtime) -> bool:
    now = await occupancy(ctx, runtime)
    return now is None or bool(now.pids)


async def _still(ctx: SlotContext, runtime: Runtime, before: Sequence[RuntimeModel]) -> Sequence[RuntimeModel]:
    """What it lists by now; an answer that does not come changes nothing, a server that is gone lists nothing."""
    try:
        return await _on_gpu(ctx, runtime)
    except AgentdError as error:
        return before if await _listens(ctx, runtime, error) else ()


async def _ask_to_go(ctx: SlotContext, runtime: Runtime, models: Sequence[RuntimeModel]) -> str:
    """What it says against it, "" when it agrees. Agreeing is not yet going."""
    complaint = ""
    for model in models:
        url = runtime.url.rstrip("/") + ollama.GENERATE
        try:
            answer = await ctx.ports.prober.http(
                url, timeout=UNLOAD_SECONDS, method="POST", json=ollama.unload(model.name)
            )
        except AgentdError as error:
            complaint = error.message
            continue
        if answer.status != 200:
            complaint = f"it answered {answer.status}{ollama.excerpt(answer.body)}"
    return complaint


def _stays(
    ctx: SlotContext, name: str, models: Sequence[RuntimeModel], first: Sequence[RuntimeModel], complaint: str
) -> str:
    limit = f"{ctx.slot.evict_timeout:g} s"
    if not models:
        return f"{name} has unloaded {_names(first)}, but the GPU memory is not back after {limit}"
    if complaint:
        return f"{name} still holds {_names(models)} after {limit}: {complaint}"
    wall = ctx.ports.clock.time()
    if all(0 < model.expires <= wall for model in models):
        return f"{name} still holds {_names(models)} after {limit}: a request in flight keeps it"
    return f"{name} still holds {_names(models)} after {limit}: a request in flight keeps it, or a client asks again"


async def _verify_off(ctx: SlotContext, _run: SwitchRun, name: str, _until: float) -> str:
    """cpu_only: it must have nothing on the GPU already."""
    runtime = ctx.runtimes[name]
    try:
        models = await _on_gpu(ctx, runtime)
    except AgentdError as error:
        return await _unasked(ctx, name, runtime, error)
    if models:
        raise AgentdError("evict-failed", _not_off(name, models))
    return ""


def _not_off(name: str, models: Sequence[RuntimeModel]) -> str:
    return f"{name} is to stay on the CPU, but has on the GPU: {_names(models)}; see: agentctl status"


async def _stop(ctx: SlotContext, run: SwitchRun, name: str, until: float) -> str:
    done = await stop_runtime(ctx, run, name, until)
    if done:
        ctx.counters.add(FAMILY, name, "stopped")
    return done


async def _ignore(_ctx: SlotContext, _run: SwitchRun, _name: str, _until: float) -> str:
    return ""


POLICIES: Mapping[str, Callable[[SlotContext, SwitchRun, str, float], Awaitable[str]]] = {
    "evict": _unload,
    "cpu_only": _verify_off,
    "stop_unit": _stop,
    "ignore": _ignore,
}
"""(context, run, service, deadline on the monotonic clock) -> what was done, "" for nothing. Raises AgentdError."""


# -- asking ---------------------------------------------------------------------------------------------------------


async def _on_gpu(ctx: SlotContext, runtime: Runtime) -> tuple[RuntimeModel, ...]:
    """The models that it has on a GPU; those on the CPU are in nobody's way."""
    answer = await ctx.ports.prober.http(runtime.url.rstrip("/") + ollama.PS, timeout=PS_SECONDS)
    return tuple(model for model in ollama.loaded(answer.status, answer.body) if model.size_vram)


async def _listens(ctx: SlotContext, runtime: Runtime, error: AgentdError) -> bool:
    """Whether somebody may be there, after `error` of a question: an answer that is broken off, too large or no HTTP
    fails as a connection does that is refused."""
    if error.kind != "probe-failed":
        return True
    host = urlsplit(runtime.url).hostname or "127.0.0.1"
    try:
        await ctx.ports.prober.tcp(host, port_of(runtime.url), timeout=CONNECT_SECONDS)
    except AgentdError as refused:
        return refused.kind != "probe-failed"
    return True


def _names(models: Sequence[RuntimeModel]) -> str:
    return ", ".join(f"{model.name} ({told_bytes(model.size_vram)})" for model in models)
