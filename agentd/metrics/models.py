"""What is known of the models: where each is, and what a start, a sleep and a wake have taken on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric

from agentd.metrics.families import gauge, one_hot
from agentd.metrics.view import MetricsView
from agentd.model_facts import SleepFacts

STATES = ("resident", "asleep", "stopped")


def models(view: MetricsView) -> Iterable[Metric]:
    """What was never measured has no sample."""
    states = [s for m in view.models for s in one_hot((m.name,), STATES, m.state)]
    yield gauge("agentd_model_state", "Where a model is; 1 for the current state.", ("model", "state"), states)
    enabled = [((m.name,), float(not m.off)) for m in view.models]
    yield gauge("agentd_model_enabled", "0 while a model may not be resident.", ("model",), enabled)
    loads = [((m.name,), m.facts.load_seconds) for m in view.models if m.facts.load_seconds]
    yield gauge("agentd_model_load_seconds", "Learned duration of a cold start.", ("model",), loads)
    memory = [((m.name,), float(m.facts.vram)) for m in view.models if m.facts.vram]
    yield gauge("agentd_model_vram_bytes", "Learned GPU memory, on the fullest of its GPUs.", ("model",), memory)
    yield _sleep(view, "sleep_seconds", "Learned time to fall asleep.", lambda s: s.sleep_seconds)
    yield _sleep(view, "wake_seconds", "Learned time to wake.", lambda s: s.wake_seconds)
    yield _sleep(view, "sleep_residual_bytes", "GPU memory that it holds asleep.", lambda s: float(s.residual))
    yield _sleep(view, "sleep_broken", "1 while a level is not used any more.", lambda s: float(bool(s.broken)), 0)


def _sleep(
    view: MetricsView, name: str, text: str, value: Callable[[SleepFacts], float], least: float = 1e-9
) -> Metric:
    found = [((m.name, str(s.level)), value(s)) for m in view.models for s in m.facts.sleep]
    samples = [(key, number) for key, number in found if number >= least]
    return gauge(f"agentd_model_{name}", text, ("model", "level"), samples)
