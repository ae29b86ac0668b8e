"""Directives that systemd enforces by BPF programs, which only root can see."""

from __future__ import annotations

from agentd.core.judge_context import Context, Item, Outcome
from agentd.findings import Verdict


def bpf(context: Context, item: Item) -> Outcome:
    """Not enforceable where the manager may not load programs, or cannot; else not provable."""
    key = item.spec.key
    if context.unprivileged:
        cause = "a user manager may not load BPF programs, so it is never enforced"
        cause += ", and systemd says nothing" if not key.startswith("IP") else ""
        fix = "run the unit in the system manager"
        if item.spec.arg == "devices":
            hides = context.has("PrivateDevices")
            fix += "; PrivateDevices=yes hides the devices here" if hides else ", or use PrivateDevices=yes"
        return Outcome(False, "no BPF program", cause, fix, Verdict.NOT_ENFORCEABLE)
    if item.spec.arg == "framework" and "-BPF_FRAMEWORK" in context.host.features.split():
        version = context.host.systemd
        cause = f"this systemd ({version}) was built without BPF_FRAMEWORK, so nothing enforces it or says so"
        return Outcome(False, "no BPF program", cause, "use a systemd that has +BPF_FRAMEWORK", Verdict.NOT_ENFORCEABLE)
    group = context.view.state.control_group
    return Outcome(
        None, "not visible", "only root can see BPF programs", f"as root: bpftool cgroup list /sys/fs/cgroup{group}"
    )
