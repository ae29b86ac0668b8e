"""Why a cgroup has not got a file: its controller is not there, not delegated, not enabled, or without that file."""

from __future__ import annotations

from collections.abc import Mapping

from agentd.core.judge_context import Context, Outcome
from agentd.findings import Verdict

_ALWAYS = ("cpu.stat", "cpu.stat.local")
"""Files that a cgroup has without the controller, besides *.pressure."""


def absent(context: Context, file: str, *instead: str) -> Outcome | None:
    """None when the unit's cgroup has the file, or another one that does as well."""
    if not context.levels:
        return Outcome(None, "", "the cgroup is gone")
    files, host = context.levels[0].files, context.host
    if file in files or any(name in files for name in instead):
        return None
    controller = file.partition(".")[0]
    text = f"no {file} in the cgroup"
    if controller not in host.available and (host.available or host.cgroup != "v2"):
        return _no_controller(context, controller, text)
    if _enabled(files, controller):
        cause = f"the {controller} controller is there, but this kernel does not offer {file}"
        return Outcome(False, text, cause, "another kernel, or a kernel option", Verdict.NOT_ENFORCEABLE)
    if context.user and controller not in host.delegated:
        cause = f"the {controller} controller is not delegated to the user manager, so nothing is enforced"
        return Outcome(False, text, cause, "agentctl host-setup", Verdict.NOT_EFFECTIVE)
    cause = f"the {controller} controller is not enabled for the unit's cgroup"
    return Outcome(False, text, cause, again(context), Verdict.NOT_EFFECTIVE)


def _no_controller(context: Context, controller: str, text: str) -> Outcome:
    cause = f"the kernel's cgroup v2 hierarchy has no {controller} controller"
    if context.host.cgroup != "v2":
        cause += f": cgroup is {context.host.cgroup}, and v1 holds it"
        return Outcome(False, text, cause, "boot with systemd.unified_cgroup_hierarchy=1", Verdict.NOT_EFFECTIVE)
    return Outcome(False, text, cause, "boot a kernel that has it", Verdict.NOT_ENFORCEABLE)


def _enabled(files: Mapping[str, str], controller: str) -> bool:
    if "cgroup.controllers" in files:
        return controller in files["cgroup.controllers"].split()
    names = (name for name in files if name.startswith(controller + "."))
    return any(name not in _ALWAYS and not name.endswith(".pressure") for name in names)


def again(context: Context) -> str:
    """The command that makes systemd write the cgroup's files anew."""
    return context.systemctl("daemon-reload")
