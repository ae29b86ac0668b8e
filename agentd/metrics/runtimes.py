"""Families about other users of the GPU (Ollama): reachable or not, and what they have loaded now."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from agentd.metrics.families import gauge
from agentd.metrics.view import MetricsView


def runtimes(view: MetricsView) -> Iterable[Metric]:
    """A model has a sample while it is loaded, so that no more are told than a runtime holds at once."""
    found = view.runtimes
    up = [((r.name,), float(r.reachable)) for r in found if r.reachable is not None]
    yield gauge("agentd_runtime_up", "1 while the runtime answers; absent while its unit does not run.", LABELS, up)
    info = [((r.name, r.version, r.policy, r.managed), 1.0) for r in found]
    text = "Version of a runtime, and how it is treated before a model starts."
    yield gauge("agentd_runtime_info", text, ("runtime", "version", "policy", "managed"), info)
    loaded = [((r.name,), float(len(r.models))) for r in found if r.reachable]
    yield gauge("agentd_runtime_loaded_models", "Models that it has loaded, on GPUs or not.", LABELS, loaded)
    vram = [((r.name, m.name), float(m.size_vram)) for r in found for m in r.models]
    text = "GPU memory of a loaded model, by the runtime's own account."
    yield gauge("agentd_runtime_model_vram_bytes", text, ("runtime", "model"), vram)


LABELS = ("runtime",)
