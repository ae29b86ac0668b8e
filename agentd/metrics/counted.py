"""The families behind engine.Counters: name, help, labels. What was never counted has no sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import Metric

from agentd.metrics.families import counter
from agentd.metrics.view import MetricsView

FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "agentd_model_out_of_memory": ("Starts and runs that ended for want of memory.", ("model", "kind")),
    "agentd_start_retry": ("Starts tried a second time within one switch.", ("model", "reason")),
    "agentd_orphan_killed": ("Processes of a stopped model that had to be killed.", ("unit",)),
    "agentd_load_stalled": ("Loads that stood still and were ended.", ("model",)),
    "agentd_drain_aborted_requests": ("Requests that were cut off because a drain took too long.", ("model",)),
    "agentd_model_sleep": ("Models put to sleep.", ("model", "level", "result")),
    "agentd_model_wake": ("Models woken.", ("model", "level", "result")),
    "agentd_sleep_fallback": ("Sleeps and wakes that ended in a stop or a cold start.", ("model", "reason")),
    "agentd_runtime_evict": ("Unloadings of another runtime's models before a start.", ("runtime", "result")),
    "agentd_runtime_reload": ("Models that a client loaded again while another one was resident.", ("runtime",)),
    "agentd_gpu_xid": ("Xid errors that the driver reported.", ("gpu", "code")),
    "agentd_switch_suppressed": ("Switches that nobody at a keyboard asked for and that were refused.", ("reason",)),
}


def counted(view: MetricsView) -> Iterable[Metric]:
    for name, (text, labels) in FAMILIES.items():
        yield counter(name, text, labels, [(key, float(n)) for (own, key), n in view.counts.items() if own == name])
