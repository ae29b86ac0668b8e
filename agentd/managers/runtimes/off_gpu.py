"""Whether a runtime that is to stay on the CPU does: by the environment of its process, and by its own account."""

from __future__ import annotations

from agentd.core.ollama import OFF_GPU, off_gpu
from agentd.core.quantities import told_bytes
from agentd.findings import Finding, Verdict, severity_of
from agentd.managers.runtimes.watch import RuntimeWatch
from agentd.ports import Kernel

ASPECT = "policy = cpu_only"
_LINES = "; ".join(f"Environment={name}={value}" for name, value in OFF_GPU.items())
_BY_HAND = {
    "system": f"sudo systemctl edit UNIT, add under [Service]: {_LINES}; then: sudo systemctl restart UNIT",
    "container": "start the container without GPUs, or with CUDA_VISIBLE_DEVICES=-1",
}


def finding(watch: RuntimeWatch, kernel: Kernel) -> Finding:
    """One verdict. The drop-in alone proves nothing: a process keeps the environment that it was started with."""
    models = [model for model in watch.status.models if model.size_vram]
    held = ", ".join(f"{model.name} ({told_bytes(model.size_vram)})" for model in models)
    fix = _fix(watch)
    environment = kernel.variables(watch.pid, tuple(OFF_GPU)) if watch.pid else None
    effective = "" if environment is None else environment.get("CUDA_VISIBLE_DEVICES", "all GPUs")
    if not watch.running:
        return _of(watch, Verdict.NOT_RUNNING, "", "it does not run", "")
    if environment is not None and not off_gpu(environment):
        unset = f"CUDA_VISIBLE_DEVICES={OFF_GPU['CUDA_VISIBLE_DEVICES']} (policy cpu_only)"
        cause = f"its process was started without {unset}" + (f", and has on the GPU: {held}" if held else "")
        again = f"{fix}; where that does not help, an EnvironmentFile= of its unit says otherwise"
        return _of(watch, Verdict.NEEDS_RESTART, effective, cause, again)
    if held:
        return _of(watch, Verdict.NOT_EFFECTIVE, effective, f"it has on the GPU: {held}", fix)
    if environment is None:
        now = "nothing is on the GPU now" if watch.status.reachable else "it does not answer"
        return _of(watch, Verdict.NOT_PROVABLE, "", f"{now}, and its process cannot be looked into", fix)
    return _of(watch, Verdict.EFFECTIVE, effective, "", "")


def _fix(watch: RuntimeWatch) -> str:
    managed = watch.service.runtime.managed
    if managed == "unit":
        return f"agentctl restart {watch.name}"
    return _BY_HAND[managed].replace("UNIT", watch.service.unit.removesuffix(".service"))


def _of(watch: RuntimeWatch, verdict: Verdict, effective: str, cause: str, fix: str) -> Finding:
    declared = f"CUDA_VISIBLE_DEVICES={OFF_GPU['CUDA_VISIBLE_DEVICES']}"
    return Finding(
        watch.service.unit, ASPECT, verdict, severity_of(verdict), declared=declared, effective=effective, cause=cause,
        fix=fix,
    )  # fmt: skip
