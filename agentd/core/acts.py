"""Which acts a unit's canary tries: for each directive what it should refuse, and what the service needs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agentd.core.acts_filters import filters
from agentd.core.acts_types import Act, Expect
from agentd.core.acts_world import devices, mounts, network, own, paths, values
from agentd.evidence import HostEvidence, UnitView
from agentd.types import Scope

ESCAPE = "escape"
"""Not a directive: the way out through the manager, which would start anything outside of the sandbox, or through
agentd, which would change the directives."""
LOOPBACK = "127.0.0.1"
NEED = "needs"


def acts_for(view: UnitView, host: HostEvidence, addresses: Sequence[str] = (LOOPBACK,)) -> tuple[Act, ...]:
    """In a fixed order. One name may stand for several directives, with other expectations. `addresses`: those of this
    machine that an IP policy is tried on."""
    properties = view.properties
    return (
        *filters(properties),
        *mounts(properties, host),
        *own(properties, host),
        *devices(properties),
        *network(properties, addresses),
        *values(properties),
        *_needs(properties),
        *_escapes(properties, host),
    )


def names(acts: Sequence[Act]) -> tuple[str, ...]:
    """What the program is to try, each once. What limits the process for the rest of its life comes last."""
    found = dict.fromkeys(act.name for act in acts)
    last = [name for name in found if name.startswith(("personality", "value:umask", "open-files"))]
    return (*(name for name in found if name not in last), *last)


def _needs(properties: Mapping[str, object]) -> Iterator[Act]:
    for path in paths(properties, "ReadWritePaths"):
        yield Act(f"write:{path}", ("ReadWritePaths",), Expect.ALLOWED)
    command = main_command(properties)
    if command.startswith("/"):
        yield Act(f"execute:{command}", (NEED,), Expect.ALLOWED)
    folder = str(properties.get("WorkingDirectory") or "").lstrip("!-")
    if folder.startswith("/"):
        yield Act(f"execute:{folder}", (NEED,), Expect.ALLOWED)
    if str(properties.get("Type")).startswith("notify"):
        yield Act("notify", (NEED,), Expect.ALLOWED)


def _escapes(properties: Mapping[str, object], host: HostEvidence) -> Iterator[Act]:
    if host.scope is Scope.USER:
        for name in ("bus", "systemd/private"):
            yield Act(f"bus:{host.runtime_dir}/{name}", (ESCAPE,))
        yield Act("systemd-run:--user", (ESCAPE,))
        yield Act(f"read:{host.runtime_dir}/agentd/agentd.sock", (ESCAPE,))
    elif properties.get("User") in ("", "root", "0", None) and properties.get("DynamicUser") is not True:
        yield Act("bus:/run/systemd/private", (ESCAPE,))
        yield Act("systemd-run:--system", (ESCAPE,))


def main_command(properties: Mapping[str, object]) -> str:
    """The program of the first ExecStart=; "" when there is none."""
    rows = properties.get("ExecStart")
    return str(rows[0][0]) if isinstance(rows, list | tuple) and rows else ""
