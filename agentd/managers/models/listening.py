"""Where a model answers: a TCP port or a unix socket; who listens there, and how the place is called."""

from __future__ import annotations

from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, Ports, SlotContext
from agentd.ports import Kernel, PortHolder
from agentd.wire import PrecheckItem


def listener(kernel: Kernel, model: ModelUnit) -> PortHolder | None:
    """None when the place is free; a socket's file that nobody listens on counts for nothing."""
    return kernel.socket_holder(model.socket) if model.socket else kernel.port_holder(model.port)


def place(model: ModelUnit) -> str:
    return f"socket {model.socket}" if model.socket else f"port {model.port}"


def same_place(one: ModelUnit, other: ModelUnit) -> bool:
    """Only one of them can listen; models of a slot may be configured so."""
    return (one.socket, one.port) == (other.socket, other.port)


def place_check(ctx: SlotContext, target: ModelUnit) -> PrecheckItem:
    """The target's port or socket is free, or held by a model of the slot, which will be gone by then."""
    holder = listener(ctx.ports.kernel, target)
    what = "socket" if target.socket else "port"
    if holder is None or holder.unit in {m.unit for m in ctx.models.values()}:
        return PrecheckItem(what, True, f"{place(target)} is free for {target.name}")
    who = f"{holder.comm} (pid {holder.pid}{', ' + holder.unit if holder.unit else ''})" if holder.pid else "a stranger"
    return PrecheckItem(what, False, f"{place(target)} is taken by {who}")


async def accepts(ports: Ports, model: ModelUnit) -> bool:
    """Somebody takes connections there."""
    if model.socket:
        return ports.kernel.socket_holder(model.socket) is not None
    try:
        await ports.prober.tcp(model.host, model.port, timeout=1.0)
    except AgentdError:
        return False
    return True
